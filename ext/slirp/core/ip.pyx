# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""IP in and out: see ip.pxd for the theory."""
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from .csum cimport csum_add, csum_add_iov, csum_fold, csum_pseudo, csum_store, csum_store_partial
from .ctx cimport LINK_CSUM, NEIGH_SLOTS, Neigh
from .siphash cimport siphash_words
from .stats cimport (
    CTR_BYTES_TO_GUEST, CTR_FRAMES_TO_GUEST, CTR_LINK_SEND_FAILED, DROP_IP4_BAD_CHECKSUM,
    DROP_IP4_BAD_SOURCE, DROP_IP4_FRAGMENT, DROP_IP4_MALFORMED, DROP_IP4_SOURCE_ROUTE, DROP_NONE,
    DROP_VNET_MALFORMED, stats_add, stats_count,
)
from .wire cimport (
    ETH_ALEN, ETH_HLEN, ETH_P_IP, IP4_DF, IP4_HLEN, IP4_MF, IP4_OFFSET_MASK, IP_PROTO_TCP,
    IP_PROTO_UDP, IP_TTL_DEFAULT, VNET_F_DATA_VALID, VNET_F_NEEDS_CSUM, VNET_GSO_NONE,
    VNET_GSO_TCPV4, VNET_GSO_UDP_L4, VNET_HLEN, addr_eq, addr_get4, addr_set4,
    load_be16, load_be32, store_be16, store_be32, vnet_build,
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


cdef Drop ip4_check_vnet(const VnetHdr *vnet, const uint8_t *p, uint32_t total,
                         IpHdr *ip) noexcept nogil:
    """What the link says of checksum and segmentation has to fit the datagram (virtio 1.2,
    5.1.6.2).

    A checksum other than the datagram's own (a tunnel's inner one) that was left to us to finish is
    finished here, in the frame.
    """
    cdef uint32_t own_field = 16 if ip.proto == IP_PROTO_TCP else 6
    cdef bint own = ip.proto == IP_PROTO_TCP or ip.proto == IP_PROTO_UDP
    cdef uint32_t start
    cdef uint8_t *field
    ip.gso_type = vnet.gso_type
    ip.gso_size = 0 if vnet.gso_type == VNET_GSO_NONE else vnet.gso_size
    if (vnet.gso_type != VNET_GSO_NONE
            and not (vnet.gso_type == VNET_GSO_TCPV4 and ip.proto == IP_PROTO_TCP)
            and not (vnet.gso_type == VNET_GSO_UDP_L4 and ip.proto == IP_PROTO_UDP)):
        return DROP_VNET_MALFORMED
    ip.csum_trusted = vnet.flags & VNET_F_DATA_VALID != 0
    if not vnet.flags & VNET_F_NEEDS_CSUM:
        return DROP_NONE
    start = vnet.csum_start - ETH_HLEN
    if own and start == ip.header_bytes and vnet.csum_offset == own_field:
        ip.csum_trusted = True
        return DROP_NONE
    if (vnet.csum_start < ETH_HLEN + ip.header_bytes or start + vnet.csum_offset + 2 > total
            or vnet.gso_type != VNET_GSO_NONE):
        return DROP_VNET_MALFORMED
    field = <uint8_t *>p + start + vnet.csum_offset
    csum_store(field, csum_add(0, p + start, total - start))
    if field[0] == 0 and field[1] == 0:
        field[0] = 0xFF                                     # RFC 768: zero would mean "none"
        field[1] = 0xFF
    return DROP_NONE


cdef Drop ip4_parse(Ctx *c, const VnetHdr *vnet, const uint8_t *p, uint32_t n,
                    IpHdr *ip) noexcept nogil:
    """Check an IPv4 header with its `n` bytes of frame, and fill `ip`."""
    cdef uint32_t hlen, total, fragment, source
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
    if fragment & (IP4_MF | IP4_OFFSET_MASK):
        return DROP_IP4_FRAGMENT
    addr_set4(&ip.src, p + 12)
    addr_set4(&ip.dst, p + 16)
    source = load_be32(p + 12)
    # RFC 1122 3.2.1.3: these are never somebody's address; and ours are not the guest's.
    if (source >> 24 == 127 or source >> 28 >= 14 or source == 0
            or addr_eq(&ip.src, &c.conf.gateway4) or addr_eq(&ip.src, &c.conf.dns4)
            or ~(source | c.conf.mask4) == 0 and (source & c.conf.mask4) == c.conf.network4):
        return DROP_IP4_BAD_SOURCE
    ip.proto = p[9]
    ip.ttl = p[8]
    ip.tos = p[1]
    ip.header = p
    ip.header_bytes = hlen
    ip.payload = p + hlen
    ip.payload_bytes = total - hlen
    return ip4_check_vnet(vnet, p, total, ip)


cdef bint ip_csum_ok(const IpHdr *ip, uint32_t n) noexcept nogil:
    """The upper layer's checksum over pseudo-header and `n` bytes of payload is right, or vouched
    for by the link.
    """
    cdef uint64_t total
    if ip.csum_trusted:
        return True
    total = csum_pseudo(&ip.src, &ip.dst, ip.proto, n)
    return csum_fold(csum_add(total, ip.payload, n)) == 0


cdef void build_l4_csum(Ctx *c, OutFrame *out, VnetHdr *vnet) noexcept nogil:
    """The upper-layer checksum: left to the guest's side of the link where it takes that, else
    computed.
    """
    cdef uint8_t *field = out.l4 + out.csum_offset
    cdef uint64_t total = csum_pseudo(&out.src, &out.dst, out.proto, out.l4_bytes
                                      + out.payload_bytes)
    if c.conf.offload & LINK_CSUM:
        vnet.flags = VNET_F_NEEDS_CSUM
        vnet.csum_start = ETH_HLEN + IP4_HLEN
        vnet.csum_offset = out.csum_offset
        csum_store_partial(field, total)
        return
    field[0] = 0
    field[1] = 0
    # Every header of ours has an even length
    total = csum_add(total, out.l4, out.l4_bytes)
    total += <uint16_t>~csum_fold(csum_add_iov(0, out.payload, out.n_payload))
    csum_store(field, total)
    if out.csum_offset == 6 and field[0] == 0 and field[1] == 0:
        field[0] = 0xFF                                     # RFC 768: zero would mean "none"
        field[1] = 0xFF


cdef int ip_output(Ctx *c, OutFrame *out) noexcept nogil:
    """Put headers before `out.l4` and send the frame. 0 or -errno; a failure is counted."""
    cdef uint32_t total = IP4_HLEN + out.l4_bytes + out.payload_bytes
    cdef uint8_t *ip = out.l4 - IP4_HLEN
    cdef uint8_t *eth = ip - ETH_HLEN
    cdef uint8_t *start = eth - VNET_HLEN
    cdef iovec iov[9]
    cdef VnetHdr vnet
    cdef int i, result
    memset(&vnet, 0, sizeof(VnetHdr))
    if not out.no_csum:
        build_l4_csum(c, out, &vnet)
    if out.gso_size:
        vnet.gso_type = out.gso_type
        vnet.gso_size = out.gso_size
        vnet.hdr_len = <uint16_t>(ETH_HLEN + IP4_HLEN + out.l4_bytes)
    vnet_build(start, &vnet)
    memcpy(eth, out.guest_mac, ETH_ALEN)
    memcpy(eth + ETH_ALEN, c.conf.gateway_mac, ETH_ALEN)
    store_be16(eth + 12, ETH_P_IP)
    ip[0] = 0x45
    ip[1] = out.tos
    store_be16(ip + 2, <uint16_t>total)
    if total > c.conf.mtu and out.gso_size == 0:
        # The link takes it whole; a router behind the guest may cut it
        c.ip_id += 1
        store_be16(ip + 4, c.ip_id)
        store_be16(ip + 6, 0)
    else:
        # RFC 6864 4.1: an atomic datagram needs no identification
        store_be16(ip + 4, 0)
        store_be16(ip + 6, IP4_DF)
    ip[8] = out.ttl if out.ttl else IP_TTL_DEFAULT
    ip[9] = out.proto
    store_be16(ip + 10, 0)
    store_be32(ip + 12, addr_get4(&out.src))
    store_be32(ip + 16, addr_get4(&out.dst))
    csum_store(ip + 10, csum_add(0, ip, IP4_HLEN))
    iov[0].iov_base = start
    iov[0].iov_len = out.l4 + out.l4_bytes - start
    for i in range(out.n_payload):
        iov[1 + i] = out.payload[i]
    result = c.link.send(c.link.impl, iov, 1 + out.n_payload)
    if result < 0:
        stats_count(&c.stats, CTR_LINK_SEND_FAILED)
        return result
    stats_count(&c.stats, CTR_FRAMES_TO_GUEST)
    stats_add(&c.stats, CTR_BYTES_TO_GUEST, ETH_HLEN + total)
    return 0


cdef inline Neigh *neigh_slot(Ctx *c, const Addr *addr) noexcept nogil:
    return &c.neigh[siphash_words(&c.secret, addr.w, 2) % NEIGH_SLOTS]


cdef const uint8_t *neigh_lookup(Ctx *c, const Addr *addr) noexcept nogil:
    """Where to send frames for a guest's address: as learned, else the TAP's own address."""
    cdef Neigh *neigh = neigh_slot(c, addr)
    if neigh.valid and addr_eq(&neigh.addr, addr):
        return neigh.mac
    return c.conf.guest_mac


cdef void neigh_learn(Ctx *c, const Addr *addr, const uint8_t *mac) noexcept nogil:
    """One place per hash: a newcomer takes it, so that the table needs no bound beside its size."""
    cdef Neigh *neigh = neigh_slot(c, addr)
    if neigh.valid and addr_eq(&neigh.addr, addr) and memcmp(neigh.mac, mac, ETH_ALEN) == 0:
        return
    neigh.addr = addr[0]
    memcpy(neigh.mac, mac, ETH_ALEN)
    neigh.valid = True
