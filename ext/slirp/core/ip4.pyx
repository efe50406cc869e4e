# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""IPv4 headers: see ip4.pxd."""
from .csum cimport csum_add, csum_fold
from .ip cimport ip_check_vnet
from .stats cimport (
    DROP_IP4_BAD_CHECKSUM, DROP_IP4_MALFORMED, DROP_IP4_SOURCE_ROUTE, DROP_IP4_TINY_FRAGMENT,
    DROP_NONE,
)
from .wire cimport (
    IP4_HLEN, IP4_MF, IP4_OFFSET_MASK, IP_PROTO_TCP, addr_eq, addr_get4, addr_set4, load_be16,
)


cdef Drop ip4_check_options(const uint8_t *p, uint32_t n) noexcept nogil:
    """RFC 791 3.1 options: their lengths must fit, and none may route (RFC 7126 4.3, 4.4)."""
    cdef uint32_t i = 0
    cdef uint8_t kind, length
    while i < n:
        kind = p[i]
        if kind == 0:
            break
        if kind == 1:
            i += 1
            continue
        if i + 1 >= n:
            return DROP_IP4_MALFORMED
        length = p[i + 1]
        if length < 2 or i + length > n:
            return DROP_IP4_MALFORMED
        if kind == 131 or kind == 137:
            return DROP_IP4_SOURCE_ROUTE
        i += length
    return DROP_NONE


cdef bint ip4_is_source(Ctx *c, const Addr *src) noexcept nogil:
    """Somebody in the guest can have that address: no group (RFC 1122 3.2.1.3), none of ours."""
    cdef uint32_t source = addr_get4(src)
    return not (source >> 24 == 127 or source >> 28 >= 14 or source == 0
                or addr_eq(src, &c.conf.gateway4) or addr_eq(src, &c.conf.dns4)
                or ~(source | c.conf.mask4) == 0
                and (source & c.conf.mask4) == c.conf.network4)


cdef Drop ip4_parse(Ctx *c, const VnetHdr *vnet, const uint8_t *p, uint32_t n,
                    IpHdr *ip) noexcept nogil:
    """Check an IPv4 header with its `n` bytes of frame, and fill `ip`; whether the source can be
    one, `ip4_is_source` says.
    """
    cdef uint32_t hlen, total, fragment
    cdef Drop d
    if n < IP4_HLEN:
        return DROP_IP4_MALFORMED
    hlen = (p[0] & 0x0F) * 4
    total = load_be16(p + 2)
    if p[0] >> 4 != 4 or hlen < IP4_HLEN or total < hlen or total > n:
        return DROP_IP4_MALFORMED
    if csum_fold(csum_add(0, p, hlen)) != 0:
        return DROP_IP4_BAD_CHECKSUM
    if hlen > IP4_HLEN:
        d = ip4_check_options(p + IP4_HLEN, hlen - IP4_HLEN)
        if d != DROP_NONE:
            return d
    fragment = load_be16(p + 6)
    addr_set4(&ip.src, p + 12)
    addr_set4(&ip.dst, p + 16)
    ip.v6 = False
    ip.reassembled = False
    ip.problem_code = -1
    ip.proto = p[9]
    ip.ttl = p[8]
    ip.tos = p[1]
    ip.header = p
    ip.header_bytes = hlen
    ip.payload = p + hlen
    ip.payload_bytes = total - hlen
    ip.fragment_id = load_be16(p + 4)
    ip.fragment_offset = (fragment & IP4_OFFSET_MASK) * 8
    ip.more_fragments = fragment & IP4_MF != 0
    ip.fragment = ip.more_fragments or ip.fragment_offset != 0
    # RFC 1858: a TCP header is whole in its first piece, and not written over by the second
    if ip.fragment and ip.proto == IP_PROTO_TCP and (
            ip.fragment_offset == 8 or ip.fragment_offset == 0 and ip.payload_bytes < 16):
        return DROP_IP4_TINY_FRAGMENT
    return ip_check_vnet(vnet, ip)
