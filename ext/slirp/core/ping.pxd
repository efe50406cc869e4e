# cython: language_level=3
"""Echo (RFC 792, RFC 4443 4).

Our own addresses answer at once, and for the groups of the link the gateway. Echo to the world goes
through ping sockets (Linux 3.0), one flow per identifier and destination; the kernel puts its own
identifier on the wire and we put the guest's back. The host allows them to the groups in
net.ipv4.ping_group_range.
"""
from .conn cimport Flow
from .ctx cimport Ctx
from .stats cimport Drop
from .wire cimport IpHdr
from libc.stdint cimport uint32_t


cdef bint ping_is_for_group(const IpHdr *ip) noexcept nogil
cdef Drop ping_input(Ctx *c, const IpHdr *ip) noexcept nogil
cdef void ping_on_host_event(Ctx *c, Flow *flow, uint32_t events) noexcept nogil
cdef void ping_close(Ctx *c, Flow *flow) noexcept nogil
cdef void ping_on_timer(Ctx *c, Flow *flow) noexcept nogil
