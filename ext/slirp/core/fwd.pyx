# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Policy and forwards: see fwd.pxd for the theory."""
from libc.string cimport memset

from .conn cimport DnsTries
from .ctx cimport FORWARDS_MAX
from .wire cimport (
    addr_eq, addr_get4, addr_is4, addr_is_link_local6, addr_is_loopback6, addr_is_multicast6,
    addr_is_zero,
)

cdef enum:
    DNS_DEAD_US = 30000000


cdef void set_loopback(Addr *addr, bint v4) noexcept nogil:
    """127.0.0.1, or ::1."""
    memset(addr, 0, sizeof(Addr))
    addr.b[15] = 1
    if v4:
        addr.b[10] = 0xFF
        addr.b[11] = 0xFF
        addr.b[12] = 127


cdef bint is_loopback(const Addr *addr) noexcept nogil:
    return addr.b[12] == 127 if addr_is4(addr) else addr_is_loopback6(addr)


cdef bint fwd_is_gateway(const Ctx *c, const Addr *addr) noexcept nogil:
    """One of the addresses that stand for the host itself."""
    if addr_is4(addr):
        return addr_eq(addr, &c.conf.gateway4)
    return c.conf.ip6 and (addr_eq(addr, &c.conf.gateway6) or addr_eq(addr, &c.conf.link_local6))


cdef bint fwd_is_dns(const Ctx *c, const Addr *addr) noexcept nogil:
    """The name server's address of either family."""
    return addr_eq(addr, &c.conf.dns4) or c.conf.ip6 and addr_eq(addr, &c.conf.dns6)


cdef bint fwd_is_ours(const Ctx *c, const Addr *dest) noexcept nogil:
    """The gateway's or the DNS address."""
    return fwd_is_gateway(c, dest) or fwd_is_dns(c, dest)


cdef bint fwd_in_subnet(const Ctx *c, const Addr *addr) noexcept nogil:
    """An address of the guest's own network, in either family."""
    if addr_is4(addr):
        return (addr_get4(addr) & c.conf.mask4) == c.conf.network4
    return (c.conf.ip6 and (addr.w[0] & c.conf.mask6.w[0]) == c.conf.network6.w[0]
            and (addr.w[1] & c.conf.mask6.w[1]) == c.conf.network6.w[1])


cdef const Addr *fwd_gateway(const Ctx *c, const Addr *like) noexcept nogil:
    """The gateway's address of the same family."""
    return &c.conf.gateway4 if addr_is4(like) else &c.conf.gateway6


cdef bint fwd_is_unicast(const Ctx *c, const Addr *dest) noexcept nogil:
    """Somebody could have that address: no loopback, no broadcast, no multicast (RFC 1122 3.2.1.3,
    RFC 4291 2.4).
    """
    cdef uint32_t addr4, host_part
    if not addr_is4(dest):
        return not (addr_is_multicast6(dest) or addr_is_zero(dest) or addr_is_loopback6(dest))
    addr4 = addr_get4(dest)
    host_part = addr4 & ~c.conf.mask4
    if addr4 >> 24 == 127 or addr4 >> 24 == 0 or addr4 >> 28 >= 14:
        return False
    if (addr4 & c.conf.mask4) == c.conf.network4:
        return host_part != 0 and host_part != ~c.conf.mask4
    return True


cdef void fwd_route(Ctx *c, const Addr *dest, uint16_t port, Target *target) noexcept nogil:
    """Where a flow to `dest`:`port` goes; `target.addr` is set for the first three routes."""
    target.port = port
    target.addr = dest[0]
    if fwd_is_dns(c, dest) and port == DNS_PORT:
        if not c.conf.dns_enabled:
            target.route = ROUTE_DNS_CLOSED
        elif c.n_dns:
            target.route = ROUTE_DNS
            memset(&target.tries, 0, sizeof(DnsTries))
            fwd_dns_next(c, &target.tries, &target.addr)
        else:
            target.route = ROUTE_REFUSED
    elif fwd_is_ours(c, dest):
        set_loopback(&target.addr, addr_is4(dest))
        target.route = ROUTE_REFUSED
        if fwd_is_gateway(c, dest):
            target.route = ROUTE_LOOPBACK if c.conf.host_loopback else ROUTE_LOOPBACK_CLOSED
    elif (not fwd_is_unicast(c, dest) or fwd_in_subnet(c, dest)
          or not addr_is4(dest) and addr_is_link_local6(dest)):
        target.route = ROUTE_NOWHERE
    else:
        target.route = ROUTE_WORLD


cdef void fwd_guest_view(Ctx *c, const Addr *guest_addr, const Addr *peer,
                         Addr *seen) noexcept nogil:
    """The address under which that guest sees a client of a forwarded port: its own, or the
    gateway's for the host itself.

    A client whose address the guest could not answer, since it lies in the guest's own subnet, on
    another link, or is of the other family, is seen as the gateway too.
    """
    if (is_loopback(peer) or addr_is4(peer) != addr_is4(guest_addr) or fwd_in_subnet(c, peer)
            or not fwd_is_unicast(c, peer) or not addr_is4(peer) and addr_is_link_local6(peer)):
        seen[0] = fwd_gateway(c, guest_addr)[0]
    else:
        seen[0] = peer[0]


cdef Forward *fwd_at(Ctx *c, uint32_t index) noexcept nogil:
    """The forward that an event names, or NULL when it is gone."""
    if index >= FORWARDS_MAX or c.forwards[index].fd < 0:
        return NULL
    return &c.forwards[index]


cdef Forward *fwd_for_guest(Ctx *c, uint8_t proto, const Addr *guest_addr,
                            uint16_t guest_port) noexcept nogil:
    """The first forward that leads to that port of the guest, or NULL."""
    cdef uint32_t i
    for i in range(FORWARDS_MAX):
        if (c.forwards[i].fd >= 0 and c.forwards[i].proto == proto
            and c.forwards[i].guest_port == guest_port
                and addr_eq(&c.forwards[i].guest_addr, guest_addr)):
            return &c.forwards[i]
    return NULL


# ---- the host's name servers -------------------------------------------------------------------

cdef bint fwd_takes_query(const Ctx *c, const Addr *dest, uint16_t port) noexcept nogil:
    """It is where the host's name servers are to be had, and there is one."""
    return port == DNS_PORT and c.conf.dns_enabled and c.n_dns != 0 and fwd_is_dns(c, dest)


cdef int choose(const Ctx *c, const DnsTries *tries) noexcept nogil:
    """The first server that was not tried and is not known to be dead, else the first of the dead;
    -1: all were tried.
    """
    cdef uint32_t tried = tries.tried if tries.generation == c.dns_generation else 0
    cdef int dead = -1
    cdef int i
    for i in range(<int>c.n_dns):
        if tried >> i & 1:
            continue
        if c.dns_servers[i].dead_until_us <= c.now_us:
            return i
        if dead < 0:
            dead = i
    return dead


cdef bint fwd_dns_left(const Ctx *c, const DnsTries *tries) noexcept nogil:
    """There is a server that was not tried."""
    return choose(c, tries) >= 0


cdef bint fwd_dns_next(Ctx *c, DnsTries *tries, Addr *addr) noexcept nogil:
    """The server to try next: noted as tried. False when none is left."""
    cdef int server = choose(c, tries)
    if server < 0:
        return False
    if tries.generation != c.dns_generation:
        tries.generation = c.dns_generation
        tries.tried = 0
    tries.tried |= <uint8_t>(1 << server)
    tries.server = <uint8_t>server
    addr[0] = c.dns_servers[server].addr
    return True


cdef void fwd_dns_verdict(Ctx *c, uint32_t generation, uint8_t server, bint alive) noexcept nogil:
    """A server has answered, or has not."""
    if generation == c.dns_generation and server < c.n_dns:
        c.dns_servers[server].dead_until_us = 0 if alive else c.now_us + DNS_DEAD_US
