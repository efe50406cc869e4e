# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Policy and forwards: see fwd.pxd for the theory."""
from libc.string cimport memset

from .ctx cimport FORWARDS_MAX
from .wire cimport addr_eq, addr_get4, addr_is4, load_be32

cdef enum:
    DNS_PORT = 53


cdef void set_loopback4(Addr *addr) noexcept nogil:
    memset(addr, 0, sizeof(Addr))
    addr.b[10] = 0xFF
    addr.b[11] = 0xFF
    addr.b[12] = 127
    addr.b[15] = 1


cdef bint is_loopback(const Addr *addr) noexcept nogil:
    if addr_is4(addr):
        return addr.b[12] == 127
    return addr.w[0] == 0 and load_be32(&addr.b[8]) == 0 and load_be32(&addr.b[12]) == 1


cdef bint fwd_is_ours(Ctx *c, const Addr *dest) noexcept nogil:
    """The gateway's or the DNS address."""
    return addr_eq(dest, &c.conf.gateway4) or addr_eq(dest, &c.conf.dns4)


cdef bint fwd_is_unicast(Ctx *c, const Addr *dest) noexcept nogil:
    """Somebody could have that address: no loopback, no broadcast, no multicast (RFC 1122 3.2.1.3).
    """
    cdef uint32_t addr4 = addr_get4(dest)
    cdef uint32_t host_part = addr4 & ~c.conf.mask4
    if addr4 >> 24 == 127 or addr4 >> 24 == 0 or addr4 >> 28 >= 14:
        return False
    if (addr4 & c.conf.mask4) == c.conf.network4:
        return host_part != 0 and host_part != ~c.conf.mask4
    return True


cdef void fwd_route(Ctx *c, const Addr *dest, uint16_t port, Target *target) noexcept nogil:
    """Where a flow to `dest`:`port` goes; `target.addr` is set for the first three routes."""
    target.port = port
    target.addr = dest[0]
    if addr_eq(dest, &c.conf.dns4) and port == DNS_PORT:
        if c.conf.dns_enabled and c.n_dns:
            target.addr = c.dns_servers[0]
            target.route = ROUTE_DNS
        else:
            target.route = ROUTE_FORBIDDEN
    elif fwd_is_ours(c, dest):
        set_loopback4(&target.addr)
        target.route = ROUTE_FORBIDDEN
        if c.conf.host_loopback and addr_eq(dest, &c.conf.gateway4):
            target.route = ROUTE_LOOPBACK
    elif not fwd_is_unicast(c, dest) or (addr_get4(dest) & c.conf.mask4) == c.conf.network4:
        target.route = ROUTE_NOWHERE
    else:
        target.route = ROUTE_WORLD


cdef void fwd_guest_view(Ctx *c, const Addr *peer, Addr *seen) noexcept nogil:
    """The address under which the guest sees a client of a forwarded port: its own, or the
    gateway's for the host itself.

    A client whose address the guest could not answer, since it lies in the guest's own subnet, is
    seen as the gateway too.
    """
    if (is_loopback(peer) or not addr_is4(peer)
        or (addr_get4(peer) & c.conf.mask4) == c.conf.network4
            or addr_get4(peer) == 0):
        seen[0] = c.conf.gateway4
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
