# cython: language_level=3
"""THE MAP of the data plane: everything that runs per packet or per connection, without the GIL and
without Python objects.

A file may cimport only files that stand before it (tools/check_layers.py holds the list); layers
only call down.

    layer 0  headers only: constants and structures, no state
             linux      system calls          wire      Ethernet, IP, virtio-net headers; Addr
             seq        sequence arithmetic
    layer 1  small machines, no protocol
             siphash    keyed hash            csum      Internet checksum   stats  Drop, Counter
             blocks     buffers, byte queues  timers    the wheel
             rate       token buckets         conn      all state of a flow
             flow       table of flows
             hostops    the two seams: the host's sockets, and the link
             ctx        all that a handler may touch
    layer 2  protocols
             ip  ip4  ip6  frag (reassembly)  fwd (policy)  punt (to the control plane)  arp
             icmp6 (numbers)  icmp  ping  ndp  train (of datagrams)  udp  dns
             tcp (theory, states)  tcp_wire (header)  tcp_sack (ranges, loss)  tcp_out  tcp_recv
             tcp_timer  tcp_host  tcp_in
    layer 3  stack      dispatch, counting, service
             seam       settings and forwards in, views out, as Python objects; `Stack`: the whole
                        without I/O, for tests
    layer 4  hostfake   HostOps by a Python object (tests)
             testfaces  the machines of layer 1 as Python objects (tests)
             mill       the stack between a null host and a null link, turned in C (benchmarks)
             fuzz (theory)  fuzz_host  fuzz_guest  fuzz_frames  fuzz_check  fuzz_script
                        a world around the stack in C, driven by bytes (tests)
             hostlinux  HostOps by system calls                     slice  of CPU time
             engine     the TAP, epoll and the stack: `Engine`, what the daemon drives
    beside   oscalls    the few calls of Linux that Python's os module lacks, for slirp/
             confine    those of them that take rights away

A frame of the guest's:   engine.link_receive -> stack_input -> ip4_parse -> ip_dispatch
                          -> tcp_input
                          -> tcp_receive_text -> HostOps.tcp_send
Bytes of the host's:      engine.handle_events -> stack_host_event -> tcp_on_host_event ...
                          stack_serve -> tcp_serve -> HostOps.tcp_recv -> tcp_output
                          -> ip_output -> LinkOps.send
A frame for slirp/services: stack_input -> punt_frame; Engine.punted -> Services.answer
                          -> Engine.send_frame

Words: the *guest* is on the TAP's side, the *host* is where our sockets are. A *flow* is a
connection or mapping of the guest's. To *touch* a flow is to have it served when the batch is over.
A *train* is a frame that carries several segments or datagrams, to be cut by the kernel (GSO).
"""
