# cython: language_level=3
"""Policy: where a flow of the guest may go, and which ports of the host lead into the guest.

The gateway's address stands for the host's loopback, the DNS address (port 53) for the host's name
servers, in their order, less those that did not answer lately: they are tried last. The rest of the
subnet and all that is no unicast address is nowhere. Everything else is the world and is reached
under its own address. Both families alike; an IPv6 gateway answers to its link-local address too
(RFC 4861 6.1.2). What policy closes looks to TCP as with slirp4netns, whose own tests ask for it; a
datagram is refused at once.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .conn cimport DnsTries
from .ctx cimport Ctx, Forward
from .stats cimport DROP_IP4_BAD_DESTINATION, DROP_IP6_BAD_DESTINATION, Drop
from .wire cimport Addr, IpHdr


cdef enum Route:
    ROUTE_WORLD = 0
    ROUTE_LOOPBACK              # the gateway's address: 127.0.0.1 of the host
    ROUTE_DNS                   # a name server of the host
    ROUTE_REFUSED               # ours, but nobody serves there
    ROUTE_LOOPBACK_CLOSED       # by policy: to TCP the network is unreachable
    ROUTE_DNS_CLOSED            # by policy: TCP gets no answer
    ROUTE_NOWHERE               # no unicast address, or one of the subnet that nobody has


cdef enum:
    DNS_PORT = 53


cdef struct Target:
    Route route
    Addr addr                   # where the host's socket goes
    uint16_t port
    DnsTries tries              # ROUTE_DNS: the server that `addr` is


cdef inline Drop fwd_nowhere(const IpHdr *ip) noexcept nogil:
    """What ROUTE_NOWHERE is counted as."""
    return DROP_IP6_BAD_DESTINATION if ip.v6 else DROP_IP4_BAD_DESTINATION


cdef void fwd_route(Ctx *c, const Addr *dest, uint16_t port, Target *target) noexcept nogil
cdef bint fwd_takes_query(const Ctx *c, const Addr *dest, uint16_t port) noexcept nogil
cdef bint fwd_dns_next(Ctx *c, DnsTries *tries, Addr *addr) noexcept nogil
cdef bint fwd_dns_left(const Ctx *c, const DnsTries *tries) noexcept nogil
cdef void fwd_dns_verdict(Ctx *c, uint32_t generation, uint8_t server, bint alive) noexcept nogil
cdef void fwd_guest_view(Ctx *c, const Addr *guest_addr, const Addr *peer,
                         Addr *seen) noexcept nogil
cdef bint fwd_is_ours(const Ctx *c, const Addr *dest) noexcept nogil
cdef bint fwd_is_dns(const Ctx *c, const Addr *addr) noexcept nogil
cdef bint fwd_in_subnet(const Ctx *c, const Addr *addr) noexcept nogil
cdef bint fwd_is_unicast(const Ctx *c, const Addr *dest) noexcept nogil
cdef const Addr *fwd_gateway(const Ctx *c, const Addr *like) noexcept nogil
cdef Forward *fwd_at(Ctx *c, uint32_t index) noexcept nogil
cdef Forward *fwd_for_guest(Ctx *c, uint8_t proto, const Addr *guest_addr,
                            uint16_t guest_port) noexcept nogil
