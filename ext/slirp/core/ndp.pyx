# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Neighbour discovery: see ndp.pxd for the theory."""
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

from .arp cimport arp_ask
from .ctx cimport NEIGH_WANTED_MAX
from .fwd cimport fwd_in_subnet, fwd_is_ours
from .icmp6 cimport (
    ICMP6_NEIGHBOUR_ADVERTISEMENT, ICMP6_NEIGHBOUR_SOLICITATION, ICMP6_REDIRECT,
    ICMP6_ROUTER_SOLICITATION,
)
from .ip cimport OutFrame, ip_csum_ok, ip_output, neigh_learn
from .punt cimport punt_frame
from .stats cimport (
    CTR_NEIGH_ASKED, DROP_ICMP_BAD_CHECKSUM, DROP_NDP_MALFORMED, DROP_NDP_NOT_FOR_US, DROP_NONE,
    stats_count,
)
from .wire cimport (
    ETH_ALEN, HEADROOM_BYTES, IP_PROTO_ICMP6, NDP_HOP_LIMIT, Addr, addr_eq, addr_is4,
    addr_is_link_local6, addr_is_multicast6, addr_is_zero, store_be32,
)

cdef enum:
    NDP_HLEN = 24                   # of a solicitation or advertisement: ICMPv6 header and target
    NDP_TARGET = 8
    OPTION_SOURCE_MAC = 1           # RFC 4861 4.6.1
    OPTION_TARGET_MAC = 2
    OPTION_MAC_BYTES = 8
    FLAG_ROUTER = 0x80              # RFC 4861 4.4
    FLAG_SOLICITED = 0x40
    FLAG_OVERRIDE = 0x20


cdef bint ndp_is_ours(const IpHdr *ip) noexcept nogil:
    """A message of neighbour discovery; it may come from nobody, and to a group."""
    return (ip.proto == IP_PROTO_ICMP6 and ip.payload_bytes > 0
            and ICMP6_ROUTER_SOLICITATION <= ip.payload[0] <= ICMP6_REDIRECT)


cdef bint find_option(const IpHdr *ip, uint32_t start, uint8_t kind,
                      const uint8_t **mac) noexcept nogil:
    """Look for an Ethernet address among the options. False: they are malformed (RFC 4861 6.1)."""
    cdef const uint8_t *p = ip.payload
    cdef uint32_t n
    mac[0] = NULL
    while start < ip.payload_bytes:
        if ip.payload_bytes - start < 8:
            return False
        n = 8 * <uint32_t>p[start + 1]
        if n == 0 or n > ip.payload_bytes - start:
            return False
        if p[start] == kind and n == OPTION_MAC_BYTES and not p[start + 2] & 1:
            mac[0] = p + start + 2
        start += n
    return True


cdef void set_solicited_node(Addr *group, const Addr *target) noexcept nogil:
    """ff02::1:ffXX:XXXX of the target (RFC 4291 2.7.1)."""
    memset(group, 0, sizeof(Addr))
    group.b[0] = 0xFF
    group.b[1] = 2
    group.b[11] = 1
    group.b[12] = 0xFF
    memcpy(&group.b[13], &target.b[13], 3)


cdef bint is_solicited_node(const Addr *group, const Addr *target) noexcept nogil:
    cdef Addr expected
    set_solicited_node(&expected, target)
    return addr_eq(group, &expected)


cdef void set_all_nodes(Addr *addr) noexcept nogil:
    memset(addr, 0, sizeof(Addr))
    addr.b[0] = 0xFF
    addr.b[1] = 2
    addr.b[15] = 1


cdef void learn(Ctx *c, const Addr *addr, const uint8_t *mac) noexcept nogil:
    """A guest on the link is where it says it is."""
    if (addr_is_link_local6(addr) or fwd_in_subnet(c, addr)) and not fwd_is_ours(c, addr):
        neigh_learn(c, addr, mac)


cdef void build(Ctx *c, OutFrame *out, uint8_t kind, uint32_t flags, const Addr *target,
                uint8_t option) noexcept nogil:
    """A message about `target` with our hardware address in an option, behind `out.l4`."""
    out.proto = IP_PROTO_ICMP6
    out.ttl = NDP_HOP_LIMIT
    out.csum_offset = 2
    out.l4_bytes = NDP_HLEN + OPTION_MAC_BYTES
    store_be32(out.l4, <uint32_t>kind << 24)
    store_be32(out.l4 + 4, flags << 24)
    memcpy(out.l4 + NDP_TARGET, target.b, 16)
    out.l4[NDP_HLEN] = option
    out.l4[NDP_HLEN + 1] = 1
    memcpy(out.l4 + NDP_HLEN + 2, c.conf.gateway_mac, ETH_ALEN)


cdef void ask(Ctx *c, const Addr *target) noexcept nogil:
    """Who has that address of the guest's? RFC 4861 7.2.2."""
    cdef uint8_t buf[HEADROOM_BYTES + NDP_HLEN + OPTION_MAC_BYTES]
    cdef uint8_t group_mac[6]
    cdef OutFrame out
    memset(&out, 0, sizeof(OutFrame))
    out.src = c.conf.link_local6 if addr_is_link_local6(target) else c.conf.gateway6
    set_solicited_node(&out.dst, target)
    memset(group_mac, 0x33, 2)                                  # RFC 2464 7
    memcpy(group_mac + 2, &out.dst.b[12], 4)
    out.guest_mac = group_mac
    out.l4 = buf + HEADROOM_BYTES
    build(c, &out, ICMP6_NEIGHBOUR_SOLICITATION, 0, target, OPTION_SOURCE_MAC)
    ip_output(c, &out)
    stats_count(&c.stats, CTR_NEIGH_ASKED)


cdef void advertise(Ctx *c, const Addr *target, const Addr *to, const uint8_t *mac) noexcept nogil:
    """RFC 4861 7.2.4; to all nodes where the asker has no address yet."""
    cdef uint8_t buf[HEADROOM_BYTES + NDP_HLEN + OPTION_MAC_BYTES]
    cdef OutFrame out
    cdef uint8_t group_mac[6]
    cdef uint32_t flags = FLAG_ROUTER | FLAG_OVERRIDE
    memset(&out, 0, sizeof(OutFrame))
    out.src = target[0]
    out.guest_mac = mac
    if addr_is_zero(to):
        set_all_nodes(&out.dst)
        memset(group_mac, 0, ETH_ALEN)
        group_mac[0] = 0x33                                     # RFC 2464 7
        group_mac[1] = 0x33
        group_mac[5] = 1
        out.guest_mac = group_mac
    else:
        out.dst = to[0]
        flags |= FLAG_SOLICITED
    out.l4 = buf + HEADROOM_BYTES
    build(c, &out, ICMP6_NEIGHBOUR_ADVERTISEMENT, flags, target, OPTION_TARGET_MAC)
    ip_output(c, &out)


cdef Drop solicitation(Ctx *c, const IpHdr *ip, const Addr *target) noexcept nogil:
    """RFC 4861 7.1.1, 7.2.3."""
    cdef bint detecting = addr_is_zero(&ip.src)                 # duplicate address detection
    cdef const uint8_t *mac
    if not find_option(ip, NDP_HLEN, OPTION_SOURCE_MAC, &mac):
        return DROP_NDP_MALFORMED
    if detecting and (mac != NULL or not is_solicited_node(&ip.dst, target)):
        return DROP_NDP_MALFORMED
    if (not addr_eq(&ip.dst, target) and not is_solicited_node(&ip.dst, target)
            and not fwd_is_ours(c, &ip.dst)):
        return DROP_NDP_NOT_FOR_US
    if not fwd_is_ours(c, target):
        return DROP_NDP_NOT_FOR_US
    if mac != NULL:
        learn(c, &ip.src, mac)
    advertise(c, target, &ip.src, mac if mac != NULL else c.frame_mac)
    return DROP_NONE


cdef Drop advertisement(Ctx *c, const IpHdr *ip, const Addr *target) noexcept nogil:
    """RFC 4861 7.1.2, 7.2.5."""
    cdef const uint8_t *mac
    if not find_option(ip, NDP_HLEN, OPTION_TARGET_MAC, &mac):
        return DROP_NDP_MALFORMED
    if addr_is_multicast6(&ip.dst) and ip.payload[4] & FLAG_SOLICITED:
        return DROP_NDP_MALFORMED
    if mac != NULL:
        learn(c, target, mac)
    return DROP_NONE


cdef Drop ndp_input(Ctx *c, const IpHdr *ip) noexcept nogil:
    """A message for which ndp_is_ours."""
    cdef Addr target
    if not ip_csum_ok(ip, ip.payload_bytes):
        return DROP_ICMP_BAD_CHECKSUM
    if ip.ttl != NDP_HOP_LIMIT or ip.payload_bytes < 8 or ip.payload[1] != 0:
        return DROP_NDP_MALFORMED
    if ip.payload[0] == ICMP6_ROUTER_SOLICITATION and not ip.reassembled:
        return punt_frame(c)
    if (ip.payload[0] != ICMP6_NEIGHBOUR_SOLICITATION
            and ip.payload[0] != ICMP6_NEIGHBOUR_ADVERTISEMENT):
        return DROP_NDP_NOT_FOR_US
    if ip.payload_bytes < NDP_HLEN:
        return DROP_NDP_MALFORMED
    memcpy(target.b, ip.payload + NDP_TARGET, 16)
    if addr_is_multicast6(&target):
        return DROP_NDP_MALFORMED
    if ip.payload[0] == ICMP6_NEIGHBOUR_SOLICITATION:
        return solicitation(c, ip, &target)
    return advertisement(c, ip, &target)


cdef void ndp_ask_for_guests(Ctx *c) noexcept nogil:
    """Those of either family that something could not be sent to."""
    cdef int i
    c.wanted_due = False
    for i in range(NEIGH_WANTED_MAX):
        if not c.wanted[i].due:
            continue
        c.wanted[i].due = False
        if addr_is4(&c.wanted[i].addr):
            arp_ask(c, &c.wanted[i].addr)
        else:
            ask(c, &c.wanted[i].addr)
