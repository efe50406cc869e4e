"""What an independent tester would ask of a network, frame by frame, with the clause that says so.

A case is a function that sends raw frames into a running daemon as its guest, from a packet socket
on an interface whose kernel has no address and stays silent, and that judges what comes back; the
servers are ordinary sockets beyond the daemon. The same cases run on slirp4netns and on the kernel
as a router with NAT, so that a case that is wrong shows itself. Nothing here is shared with the
stack or with the harness of tests/protocol.

    packets  bytes <-> fields          wire     frames out, frames in, patience
    net      a guest, its uplink       endpoint a guest's TCP, by hand
    suite    the cases; running them   *_cases  the cases, by group
"""
