# cython: language_level=3
"""ICMP (RFC 792, 1122 3.2.2) and ICMPv6 (RFC 4443): the errors by which the guest learns what the
host's sockets learned. They are spoken of in ICMP's numbers (icmp6.pxd).

A datagram that the guest forbids to be cut (DF; in IPv6 every one that it has not cut itself) is
not cut by the host either: over the path's MTU it is dropped, and the guest is told that MTU (RFC
1191, RFC 8201). Not so one over 1,500 bytes: a TAP wider than Ethernet is there for speed, and what
only it could carry has to be cut, as slirp4netns has it.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .conn cimport Flow
from .ctx cimport Ctx
from .hostops cimport Datagram, HostError
from .ip cimport OutFrame
from .stats cimport Drop
from .wire cimport Addr, IpHdr


cdef void icmp_error(Ctx *c, const IpHdr *ip, uint8_t icmp_type, uint8_t icmp_code) noexcept nogil
cdef void icmp_problem(Ctx *c, const IpHdr *ip) noexcept nogil
cdef void icmp_beyond_scope(Ctx *c, const IpHdr *ip) noexcept nogil
cdef void icmp_refuse(Ctx *c, const IpHdr *ip, int error) noexcept nogil
cdef uint8_t icmp_cutting(const IpHdr *ip) noexcept nogil
cdef ssize_t icmp_tracked_send(Ctx *c, Flow *flow, const IpHdr *ip,
                               const Datagram *datagram) noexcept nogil
cdef void icmp_take_errors(Ctx *c, Flow *flow, uint32_t *mtu) noexcept nogil
cdef void icmp_unreachable_for_tcp(Ctx *c, const Flow *flow, uint8_t icmp_code) noexcept nogil
cdef void icmp_error_for_udp(Ctx *c, const Flow *flow, const Addr *dest, uint16_t dest_port,
                             const HostError *error) noexcept nogil
cdef const Addr *icmp_speaker(Ctx *c, const Addr *guest_addr) noexcept nogil
cdef void icmp_finish(OutFrame *out) noexcept nogil
cdef int icmp_code_of_errno(int error) noexcept nogil
