# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""IPv6 headers: see ip6.pxd for the theory."""
from libc.string cimport memcpy

from .ip cimport ip_check_vnet
from .stats cimport (
    DROP_FRAG_MALFORMED, DROP_IP6_BAD_DESTINATION, DROP_IP6_BAD_EXTENSION, DROP_IP6_BAD_SOURCE,
    DROP_IP6_MALFORMED, DROP_IP6_NO_NEXT_HEADER, DROP_NONE,
)
from .wire cimport (
    FRAGMENT_HLEN, ICMP_HLEN, IP6_HLEN, IP_PROTO_DESTINATION, IP_PROTO_FRAGMENT,
    IP_PROTO_HOP_BY_HOP, IP_PROTO_ICMP6, IP_PROTO_NONE, IP_PROTO_ROUTING, IP_PROTO_TCP,
    IP_PROTO_UDP, TCP_HLEN, UDP_HLEN, addr_eq, addr_is4, addr_is_loopback6, addr_is_multicast6,
    addr_is_zero, load_be16, load_be32,
)

cdef enum:
    OPTION_PAD1 = 0
    OPTION_PADN = 1
    OPTION_ROUTER_ALERT = 5         # RFC 2711: nothing to do for us
    ROUTING_SEGMENTS_LEFT = 3       # offset in a routing header
    ROUTING_TYPE = 2


cdef Drop problem(IpHdr *ip, int code, uint32_t at) noexcept nogil:
    """A parameter problem at an offset of the payload in hand."""
    ip.problem_code = code
    ip.problem_at = ip.header_bytes + at
    return DROP_IP6_BAD_EXTENSION


cdef Drop check_options(IpHdr *ip, uint32_t n) noexcept nogil:
    """RFC 8200 4.2: of an option that we do not know, its upper bits say what to do."""
    cdef const uint8_t *p = ip.payload
    cdef uint32_t i = 2
    cdef uint8_t kind, action
    while i < n:
        kind = p[i]
        if kind == OPTION_PAD1:
            i += 1
            continue
        if i + 2 > n or i + 2 + p[i + 1] > n:
            return problem(ip, PROBLEM_FIELD, i)
        action = kind >> 6
        if kind != OPTION_PADN and kind != OPTION_ROUTER_ALERT and action:
            if action == 2 or action == 3 and not addr_is_multicast6(&ip.dst):
                return problem(ip, PROBLEM_OPTION, i)
            return DROP_IP6_BAD_EXTENSION
        i += 2 + p[i + 1]
    return DROP_NONE


cdef Drop take_fragment_header(IpHdr *ip) noexcept nogil:
    """RFC 8200 4.5."""
    cdef const uint8_t *p = ip.payload
    cdef uint32_t word
    if ip.payload_bytes < FRAGMENT_HLEN:
        return DROP_IP6_MALFORMED
    word = load_be16(p + 2)
    ip.fragment_offset = word & 0xFFF8
    ip.more_fragments = word & 1
    ip.fragment_id = load_be32(p + 4)
    ip.fragment = ip.more_fragments or ip.fragment_offset != 0
    if not ip.fragment:
        return DROP_NONE
    if ip.more_fragments and (ip.payload_bytes - FRAGMENT_HLEN) % 8:
        ip.problem_code = PROBLEM_FIELD
        ip.problem_at = 4                               # the payload length
        return DROP_FRAG_MALFORMED
    if ip.fragment_offset + ip.payload_bytes - FRAGMENT_HLEN > 65535:
        problem(ip, PROBLEM_FIELD, 2)
        return DROP_FRAG_MALFORMED
    return DROP_NONE


cdef uint32_t upper_hlen(uint8_t proto) noexcept nogil:
    """What the upper layer's header takes at least."""
    if proto == IP_PROTO_TCP:
        return TCP_HLEN
    if proto == IP_PROTO_UDP:
        return UDP_HLEN
    return ICMP_HLEN if proto == IP_PROTO_ICMP6 else 0


cdef Drop check_chain(const IpHdr *fragment) noexcept nogil:
    """RFC 7112 5: the first piece holds the headers up to and with the upper layer's."""
    cdef IpHdr rest = fragment[0]
    cdef Drop d
    rest.fragment = False
    d = ip6_walk(&rest)
    if d == DROP_IP6_MALFORMED or d == DROP_NONE and rest.payload_bytes < upper_hlen(rest.proto):
        return DROP_IP6_BAD_EXTENSION
    return DROP_NONE                        # what else is wrong is found when it is whole


cdef Drop ip6_walk(IpHdr *ip) noexcept nogil:
    """Pass over extension headers: `payload` then begins with the upper layer's, or with a piece of
    a datagram. RFC 8200 4.
    """
    cdef uint32_t n
    cdef Drop d
    while True:
        if ip.proto == IP_PROTO_NONE:
            return DROP_IP6_NO_NEXT_HEADER
        if (ip.proto != IP_PROTO_HOP_BY_HOP and ip.proto != IP_PROTO_DESTINATION
                and ip.proto != IP_PROTO_ROUTING and ip.proto != IP_PROTO_FRAGMENT):
            return DROP_NONE
        if ip.payload_bytes < 8:
            return DROP_IP6_MALFORMED
        n = FRAGMENT_HLEN
        d = DROP_NONE
        if ip.proto == IP_PROTO_FRAGMENT:
            d = take_fragment_header(ip)
        else:
            n = 8 * (<uint32_t>ip.payload[1] + 1)
            if n > ip.payload_bytes:
                return DROP_IP6_MALFORMED
            if ip.proto == IP_PROTO_HOP_BY_HOP and ip.next_header_at != 6:      # only the first
                ip.problem_code = PROBLEM_NEXT_HEADER
                ip.problem_at = ip.next_header_at
                return DROP_IP6_BAD_EXTENSION
            if ip.proto != IP_PROTO_ROUTING:
                d = check_options(ip, n)
            elif ip.payload[ROUTING_SEGMENTS_LEFT]:                 # RFC 8200 4.4, RFC 5095
                d = problem(ip, PROBLEM_FIELD, ROUTING_TYPE)
        if d != DROP_NONE:
            return d
        ip.next_header_at = ip.header_bytes
        ip.proto = ip.payload[0]
        ip.payload += n
        ip.payload_bytes -= n
        ip.header_bytes += n
        if ip.fragment:
            return DROP_NONE


cdef Drop ip6_parse(Ctx *c, const VnetHdr *vnet, const uint8_t *p, uint32_t n,
                    IpHdr *ip) noexcept nogil:
    """Check an IPv6 header with its `n` bytes of frame, and fill `ip`."""
    cdef uint32_t total
    cdef Drop d
    if n < IP6_HLEN or p[0] >> 4 != 6:
        return DROP_IP6_MALFORMED
    total = IP6_HLEN + load_be16(p + 4)
    if total > n:
        return DROP_IP6_MALFORMED
    memcpy(ip.src.b, p + 8, 16)
    memcpy(ip.dst.b, p + 24, 16)
    if (addr_is_multicast6(&ip.src) or addr_is_loopback6(&ip.src) or addr_is4(&ip.src)
            or addr_eq(&ip.src, &c.conf.gateway6) or addr_eq(&ip.src, &c.conf.dns6)
            or addr_eq(&ip.src, &c.conf.link_local6)):
        return DROP_IP6_BAD_SOURCE
    if addr_is_zero(&ip.dst) or addr_is_loopback6(&ip.dst) or addr_is4(&ip.dst):
        return DROP_IP6_BAD_DESTINATION
    ip.v6 = True
    ip.tos = <uint8_t>(load_be16(p) >> 4)
    ip.proto = p[6]
    ip.ttl = p[7]
    ip.header = p
    ip.header_bytes = IP6_HLEN
    ip.payload = p + IP6_HLEN
    ip.payload_bytes = total - IP6_HLEN
    ip.next_header_at = 6
    ip.fragment = False
    ip.reassembled = False
    ip.problem_code = -1
    d = ip6_walk(ip)
    if d != DROP_NONE:
        return d
    if ip.fragment and ip.fragment_offset == 0 and check_chain(ip) != DROP_NONE:
        ip.problem_code = PROBLEM_CHAIN
        ip.problem_at = 0
        return DROP_IP6_BAD_EXTENSION
    return ip_check_vnet(vnet, ip)
