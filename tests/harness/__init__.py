"""The test language: a stack without I/O, a host made of Python, a clock that moves when told.

    clock    virtual time, and what happens in it
    pkt      segments: packetdrill's notation <-> fields
    wire     segments <-> frames, with every checksum held against RFC 1071
    expect   what a notation says against what came; what any frame of ours must keep to
    host     the host's sockets, by script
    net      Stack + host + clock: frames go in, frames come out, drops are accounted for
    peer     the guest's end of one connection, driven by hand
    lan      a guest that speaks in datagrams: ARP, ICMP, UDP
    tcp      connections in every state of RFC 9293, reached by real segments
    link     a link that loses, delays, reorders, duplicates and cuts
    guest    a guest's TCP, small but whole, to drive streams through such a link
    fixtures for pytest

Sides are those of the data plane: the guest sends into the stack, the host's sockets lie behind it.
"""
