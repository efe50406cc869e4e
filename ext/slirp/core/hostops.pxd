# cython: language_level=3
"""The seams: all that the data plane asks of the host's sockets (HostOps) and of the link to the
guest (LinkOps).

Two implementations of HostOps: hostlinux.pyx by system calls, hostfake.pyx by a Python object, for
tests. A result below zero is -errno. Sockets are opaque ints; `ref` names whom the host's events
are for. Events of TCP are edges: after one, the socket is read or written, or a listener asked for
clients, until -EAGAIN. A TCP socket that gives fewer bytes than there is room for has no more,
unless the event said EVENT_ENDING.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .linux cimport iovec
from .wire cimport Addr


cdef enum:
    EVENT_READABLE = 1              # bytes, a datagram, a client, or the end
    EVENT_WRITABLE = 2              # room; or the connect() has ended, well or not
    EVENT_ERROR = 4                 # something waits in the error queue, or the socket is dead
    EVENT_ENDING = 8                # TCP: the end of the stream, or a mark in it, is among what is
                                    # to be read

    REF_LINK = 0                    # kinds of a ref, above the 32 bits of a flow's handle or a
                                    # forward's index
    REF_FLOW = 1
    REF_FORWARD = 2
    REF_TIMER = 3
    REF_STOP = 4

    OPTION_DONT_FRAGMENT = 1        # 1: nothing is cut; what is too big is refused with EMSGSIZE
    OPTION_TOS = 2                  # of all that follows, on a stream: the byte, without its ECN


cdef struct Datagram:               # one datagram, or a train of equal ones (GSO/GRO), and whose it
                                    # is
    Addr peer_addr
    uint16_t peer_port              # ping: unused
    Addr local_addr                 # received: written to by the peer; sent: to be sent from; zero:
                                    # any
    uint8_t *data
    uint32_t length                 # received: its whole length, also when that is more than
                                    # `capacity`
    uint32_t capacity               # room behind data, for receiving
    uint16_t segment_bytes          # nonzero: a train of datagrams of this size, the last may be
                                    # shorter
    uint8_t ttl                     # 0: the usual
    uint8_t tos                     # DSCP and ECN


cdef struct HostError:              # an ICMP error, or a local one, about something sent before
    int error                       # errno
    uint8_t icmp_type               # 0, 0 when the host knew by itself
    uint8_t icmp_code
    bint from_icmp              # the type and code are ICMP's
    bint from_icmp6             # or ICMPv6's
    uint32_t mtu                    # EMSGSIZE: the path's
    Addr peer_addr                  # where the offending datagram was sent to
    uint16_t peer_port
    Addr offender_addr              # who says so; zero: unknown
    bint has_echo_seq               # ping: which request it was
    uint16_t echo_seq


cdef struct HostOps:
    void *impl
    # TCP. connect gives a socket at once; EVENT_WRITABLE tells that connect_result has the outcome.
    # `tos` as by OPTION_TOS, the SYN included
    int (*tcp_connect)(void *impl, uint64_t ref, const Addr *addr, uint16_t port,
                       uint8_t tos) noexcept nogil
    # 0, -EINPROGRESS or -errno
    int (*tcp_connect_result)(void *impl, int fd) noexcept nogil
    ssize_t (*tcp_send)(void *impl, int fd, const iovec *iov, int n) noexcept nogil
    # 0: end of stream
    ssize_t (*tcp_recv)(void *impl, int fd, const iovec *iov, int n) noexcept nogil
    int (*tcp_shutdown)(void *impl, int fd) noexcept nogil                      # our direction
    int (*tcp_accept)(void *impl, int listen_fd, Addr *peer_addr,
                      uint16_t *peer_port) noexcept nogil
    # Events of an accepted or given socket
    int (*watch)(void *impl, int fd, uint64_t ref) noexcept nogil
    void (*close)(void *impl, int fd) noexcept nogil
    # Close with RST to the peer
    void (*reset)(void *impl, int fd) noexcept nogil
    # UDP and ping. `peer` NULL: for every peer.
    int (*udp_open)(void *impl, uint64_t ref, bint v4, const Addr *peer_addr,
                    uint16_t peer_port) noexcept nogil
    int (*ping_open)(void *impl, uint64_t ref, bint v4) noexcept nogil
    ssize_t (*dgram_send)(void *impl, int fd, const Datagram *datagram) noexcept nogil
    ssize_t (*dgram_recv)(void *impl, int fd, Datagram *datagram) noexcept nogil
    # 1: one taken; 0: none
    int (*next_error)(void *impl, int fd, HostError *error) noexcept nogil
    # OPTION_*: a wish, which the host may not grant
    void (*set_option)(void *impl, int fd, int option, int value) noexcept nogil


cdef struct LinkOps:
    void *impl
    # The frame, in pieces; the first begins with VNET_HLEN bytes of virtio-net header. 0 or -errno.
    int (*send)(void *impl, const iovec *iov, int n) noexcept nogil


cdef inline uint64_t ref_make(int kind, uint32_t number) noexcept nogil:
    return (<uint64_t>kind << 32) | number


cdef class Host:                # a host and a link, for Stack; subclasses fill the tables
    cdef HostOps ops
    cdef LinkOps link
