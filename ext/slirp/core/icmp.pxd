# cython: language_level=3
"""ICMP (RFC 792, 1122 3.2.2): echo, and the errors by which the guest learns what the host's
sockets learned.

Our own addresses answer echo at once. Echo to the world goes through ping sockets (Linux 3.0), one
flow per identifier and destination; the kernel puts its own identifier on the wire and we put the
guest's back. The host allows them to the groups in net.ipv4.ping_group_range.

A datagram that the guest forbids to be cut (DF) is not cut by the host either: over the path's MTU
it is dropped, and the guest is told that MTU (RFC 1191). Not so one over 1,500 bytes: a TAP wider
than Ethernet is there for speed, and what only it could carry has to be cut, as slirp4netns has it.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .conn cimport Flow
from .ctx cimport Ctx
from .hostops cimport Datagram, HostError
from .stats cimport Drop
from .wire cimport Addr, IpHdr


cdef enum:
    ICMP_ECHO_REPLY = 0
    ICMP_UNREACHABLE = 3
    ICMP_ECHO = 8
    ICMP_TIME_EXCEEDED = 11
    ICMP_NET_UNREACHABLE = 0
    ICMP_HOST_UNREACHABLE = 1
    ICMP_PROTO_UNREACHABLE = 2
    ICMP_PORT_UNREACHABLE = 3
    ICMP_FRAG_NEEDED = 4
    ICMP_ADMIN_PROHIBITED = 13


cdef Drop icmp_input(Ctx *c, const IpHdr *ip) noexcept nogil
cdef void icmp_error(Ctx *c, const IpHdr *ip, uint8_t icmp_type, uint8_t icmp_code) noexcept nogil
cdef void icmp_refuse(Ctx *c, const IpHdr *ip, int error) noexcept nogil
cdef ssize_t icmp_tracked_send(Ctx *c, Flow *flow, const IpHdr *ip,
                               const Datagram *datagram) noexcept nogil
cdef void icmp_take_errors(Ctx *c, Flow *flow) noexcept nogil
cdef void icmp_unreachable_for_tcp(Ctx *c, const Flow *flow, uint8_t icmp_code) noexcept nogil
cdef void icmp_error_for_udp(Ctx *c, const Flow *flow, const Addr *dest, uint16_t dest_port,
                             const HostError *error) noexcept nogil
cdef void ping_on_host_event(Ctx *c, Flow *flow, uint32_t events) noexcept nogil
cdef void ping_on_timer(Ctx *c, Flow *flow) noexcept nogil
cdef int icmp_code_of_errno(int error) noexcept nogil
