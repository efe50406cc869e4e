# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""IP in and out: see ip.pxd for the theory."""
from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy, memset

from .csum cimport csum_add, csum_add_iov, csum_fold, csum_pseudo, csum_store, csum_store_partial
from .ctx cimport LINK_CSUM, NEIGH_SLOTS, NEIGH_WANTED_MAX, Neigh, NeighWanted
from .siphash cimport siphash_words
from .stats cimport (
    CTR_BYTES_TO_GUEST, CTR_FRAGS_SENT, CTR_FRAMES_TO_GUEST, CTR_LINK_SEND_FAILED,
    CTR_NEIGH_UNKNOWN, DROP_NONE, DROP_VNET_MALFORMED, stats_add, stats_count,
)
from .wire cimport (
    ETH_ALEN, ETH_HLEN, ETH_P_IP, ETH_P_IPV6, FRAGMENT_HLEN, IP4_DF, IP4_HLEN, IP4_MF, IP6_HLEN,
    IP_PROTO_FRAGMENT, IP_PROTO_TCP, IP_PROTO_UDP, IP_TTL_DEFAULT, VNET_F_DATA_VALID,
    VNET_F_NEEDS_CSUM, VNET_GSO_NONE, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_GSO_UDP_L4, VNET_HLEN,
    addr_eq, addr_get4, addr_is4, load_be16, load_be32, store_be16, store_be32, vnet_build,
)

cdef enum:
    PIECES_MAX = 16                 # of one frame: its headers, and what is in an OutFrame
    NEIGH_ASK_US = 1000000


# ---- in ----------------------------------------------------------------------------------------

cdef bint gso_fits(const VnetHdr *vnet, const IpHdr *ip) noexcept nogil:
    """The link speaks of the segments that the datagram has."""
    if vnet.gso_type == VNET_GSO_NONE:
        return True
    if ip.fragment:
        return False
    if vnet.gso_type == VNET_GSO_UDP_L4:
        return ip.proto == IP_PROTO_UDP
    return (ip.proto == IP_PROTO_TCP
            and vnet.gso_type == (VNET_GSO_TCPV6 if ip.v6 else VNET_GSO_TCPV4))


cdef Drop ip_check_vnet(const VnetHdr *vnet, IpHdr *ip) noexcept nogil:
    """What the link says of checksum and segmentation has to fit the datagram (virtio 1.2,
    5.1.6.2).

    A checksum other than the datagram's own (a tunnel's inner one) that was left to us to finish is
    finished here, in the frame.
    """
    cdef uint32_t own_field = 16 if ip.proto == IP_PROTO_TCP else 6
    cdef bint own = ip.proto == IP_PROTO_TCP or ip.proto == IP_PROTO_UDP
    cdef uint32_t total = ip.header_bytes + ip.payload_bytes
    cdef uint32_t start
    cdef uint8_t *field
    ip.gso_type = vnet.gso_type
    ip.gso_size = 0 if vnet.gso_type == VNET_GSO_NONE else vnet.gso_size
    if not gso_fits(vnet, ip):
        return DROP_VNET_MALFORMED
    ip.csum_trusted = vnet.flags & VNET_F_DATA_VALID != 0 and not ip.fragment
    if not vnet.flags & VNET_F_NEEDS_CSUM:
        return DROP_NONE
    start = vnet.csum_start - ETH_HLEN
    if own and start == ip.header_bytes and vnet.csum_offset == own_field and not ip.fragment:
        ip.csum_trusted = True
        return DROP_NONE
    if (vnet.csum_start < ETH_HLEN + ip.header_bytes or start + vnet.csum_offset + 2 > total
            or vnet.gso_type != VNET_GSO_NONE):
        return DROP_VNET_MALFORMED
    field = <uint8_t *>ip.header + start + vnet.csum_offset
    csum_store(field, csum_add(0, ip.header + start, total - start))
    if field[0] == 0 and field[1] == 0:
        field[0] = 0xFF                                     # RFC 768: zero would mean "none"
        field[1] = 0xFF
    return DROP_NONE


cdef bint ip_csum_ok(const IpHdr *ip, uint32_t n) noexcept nogil:
    """The upper layer's checksum over pseudo-header and `n` bytes of payload is right, or vouched
    for by the link.
    """
    cdef uint64_t total
    if ip.csum_trusted:
        return True
    total = csum_pseudo(&ip.src, &ip.dst, ip.proto, n)
    return csum_fold(csum_add(total, ip.payload, n)) == 0


# ---- out ---------------------------------------------------------------------------------------

cdef void build_l4_csum(Ctx *c, OutFrame *out, VnetHdr *vnet, bint whole) noexcept nogil:
    """The upper-layer checksum: left to the guest's side of the link where it takes that and the
    datagram goes `whole`, else computed.
    """
    cdef uint8_t *field = out.l4 + out.csum_offset
    cdef uint64_t total = csum_pseudo(&out.src, &out.dst, out.proto, out.l4_bytes
                                      + out.payload_bytes)
    if whole and c.conf.offload & LINK_CSUM:
        vnet.flags = VNET_F_NEEDS_CSUM
        vnet.csum_start = <uint16_t>(ETH_HLEN + (IP4_HLEN if addr_is4(&out.dst) else IP6_HLEN))
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


cdef uint8_t *build_ip4(uint8_t *end, const OutFrame *out, uint32_t payload_bytes, uint16_t ident,
                        uint16_t fragment) noexcept nogil:
    """The header that ends at `end`; where it begins."""
    cdef uint8_t *ip = end - IP4_HLEN
    ip[0] = 0x45
    ip[1] = out.tos
    store_be16(ip + 2, <uint16_t>(IP4_HLEN + payload_bytes))
    store_be16(ip + 4, ident)
    store_be16(ip + 6, fragment)
    ip[8] = out.ttl if out.ttl else IP_TTL_DEFAULT
    ip[9] = out.proto
    store_be16(ip + 10, 0)
    store_be32(ip + 12, addr_get4(&out.src))
    store_be32(ip + 16, addr_get4(&out.dst))
    csum_store(ip + 10, csum_add(0, ip, IP4_HLEN))
    return ip


cdef uint8_t *build_ip6(uint8_t *end, const OutFrame *out, uint8_t next_header,
                        uint32_t payload_bytes) noexcept nogil:
    cdef uint8_t *ip = end - IP6_HLEN
    store_be32(ip, <uint32_t>6 << 28 | <uint32_t>out.tos << 20)
    store_be16(ip + 4, <uint16_t>payload_bytes)
    ip[6] = next_header
    ip[7] = out.ttl if out.ttl else IP_TTL_DEFAULT
    memcpy(ip + 8, out.src.b, 16)
    memcpy(ip + 24, out.dst.b, 16)
    return ip


cdef inline bint is_unknown(const uint8_t *mac) noexcept nogil:
    return load_be32(mac) == 0 and load_be16(mac + 4) == 0


cdef int send_frame(Ctx *c, const OutFrame *out, const VnetHdr *vnet, uint8_t *ip, iovec *iov,
                    int n) noexcept nogil:
    """Ethernet and virtio before the IP header; iov[0] ends where it shall, and begins with them.
    """
    cdef uint8_t *eth = ip - ETH_HLEN
    cdef uint8_t *start = eth - VNET_HLEN
    cdef uint32_t total = 0
    cdef int i, result
    cdef const uint8_t *mac = out.guest_mac
    if is_unknown(mac):                                 # it was, when the flow began
        mac = neigh_lookup(c, &out.dst)
        if is_unknown(mac):
            neigh_want(c, &out.dst)
            return 0                                    # as if it were lost: it comes again
    vnet_build(start, vnet)
    memcpy(eth, mac, ETH_ALEN)
    memcpy(eth + ETH_ALEN, c.conf.gateway_mac, ETH_ALEN)
    store_be16(eth + 12, ETH_P_IP if addr_is4(&out.dst) else ETH_P_IPV6)
    iov[0].iov_len = <uint8_t *>iov[0].iov_base + iov[0].iov_len - start
    iov[0].iov_base = start
    for i in range(n):
        total += <uint32_t>iov[i].iov_len
    result = c.link.send(c.link.impl, iov, n)
    if result < 0:
        stats_count(&c.stats, CTR_LINK_SEND_FAILED)
        return result
    stats_count(&c.stats, CTR_FRAMES_TO_GUEST)
    stats_add(&c.stats, CTR_BYTES_TO_GUEST, total - VNET_HLEN)
    return 0


cdef int slice_payload(const OutFrame *out, uint32_t at, uint32_t n, iovec *pieces) noexcept nogil:
    """`n` bytes from `at` on of upper-layer header and payload together; how many pieces."""
    cdef int count = 0
    cdef int i
    cdef const uint8_t *base
    cdef uint32_t length, take
    for i in range(-1, out.n_payload):
        base = out.l4 if i < 0 else <const uint8_t *>out.payload[i].iov_base
        length = out.l4_bytes if i < 0 else <uint32_t>out.payload[i].iov_len
        if at >= length:
            at -= length
            continue
        take = min(length - at, n)
        if take == 0:
            break
        pieces[count].iov_base = <void *>(base + at)
        pieces[count].iov_len = take
        count += 1
        n -= take
        at = 0
    return count


cdef int send_fragments(Ctx *c, OutFrame *out) noexcept nogil:
    """RFC 791 3.2, RFC 8200 4.5: pieces of as many eights of bytes as the MTU takes."""
    cdef uint8_t buf[VNET_HLEN + ETH_HLEN + IP6_HLEN + FRAGMENT_HLEN]
    cdef uint8_t *end = buf + sizeof(buf)
    cdef uint8_t *ip
    cdef iovec iov[PIECES_MAX]
    cdef VnetHdr vnet
    cdef bint v4 = addr_is4(&out.dst)
    cdef uint32_t total = out.l4_bytes + out.payload_bytes
    cdef uint32_t room = c.conf.mtu - (IP4_HLEN if v4 else IP6_HLEN + FRAGMENT_HLEN) & ~<uint32_t>7
    cdef uint32_t at = 0
    cdef uint64_t ident
    cdef uint32_t n
    cdef int result
    memset(&vnet, 0, sizeof(VnetHdr))
    if not out.no_csum:
        build_l4_csum(c, out, &vnet, False)
    c.fragments_sent += 1
    ident = siphash_words(&c.secret, &c.fragments_sent, 1)          # RFC 7739 5.3
    while at < total:
        n = min(room, total - at)
        if v4:
            ip = build_ip4(end, out, n, <uint16_t>ident,
                           <uint16_t>(at // 8 | (IP4_MF if at + n < total else 0)))
        else:
            memset(end - FRAGMENT_HLEN, 0, 2)
            (end - FRAGMENT_HLEN)[0] = out.proto
            store_be16(end - 6, <uint16_t>(at | (1 if at + n < total else 0)))
            store_be32(end - 4, <uint32_t>ident)
            ip = build_ip6(end - FRAGMENT_HLEN, out, IP_PROTO_FRAGMENT, FRAGMENT_HLEN + n)
        iov[0].iov_base = ip
        iov[0].iov_len = end - ip
        result = send_frame(c, out, &vnet, ip, iov, 1 + slice_payload(out, at, n, &iov[1]))
        if result < 0:
            return result
        stats_count(&c.stats, CTR_FRAGS_SENT)
        at += n
    return 0


cdef int ip_output(Ctx *c, OutFrame *out) noexcept nogil:
    """Put headers before `out.l4` and send the frame, or its fragments. 0 or -errno; a failure is
    counted.
    """
    cdef bint v4 = addr_is4(&out.dst)
    cdef uint32_t payload_bytes = out.l4_bytes + out.payload_bytes
    cdef uint8_t *ip
    cdef iovec iov[PIECES_MAX]
    cdef VnetHdr vnet
    cdef int i
    if out.gso_size == 0 and payload_bytes + (IP4_HLEN if v4 else IP6_HLEN) > c.conf.mtu:
        return send_fragments(c, out)
    memset(&vnet, 0, sizeof(VnetHdr))
    if not out.no_csum:
        build_l4_csum(c, out, &vnet, True)
    # RFC 6864 4.1: an atomic datagram needs no identification
    ip = (build_ip4(out.l4, out, payload_bytes, 0, IP4_DF) if v4
          else build_ip6(out.l4, out, out.proto, payload_bytes))
    if out.gso_size:
        vnet.gso_type = out.gso_type
        vnet.gso_size = out.gso_size
        vnet.hdr_len = <uint16_t>(ETH_HLEN + (out.l4 - ip) + out.l4_bytes)
    iov[0].iov_base = ip
    iov[0].iov_len = out.l4 + out.l4_bytes - ip
    for i in range(out.n_payload):
        iov[1 + i] = out.payload[i]
    return send_frame(c, out, &vnet, ip, iov, 1 + out.n_payload)


# ---- neighbours --------------------------------------------------------------------------------

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


cdef void neigh_want(Ctx *c, const Addr *addr) noexcept nogil:
    """Have the address asked for, once a second (RFC 1122 2.3.2.1), if there is room. Nothing waits
    for the answer: whoever has something to send sends it again.
    """
    cdef NeighWanted *free = NULL
    cdef NeighWanted *wanted
    cdef int i
    stats_count(&c.stats, CTR_NEIGH_UNKNOWN)
    for i in range(NEIGH_WANTED_MAX):
        wanted = &c.wanted[i]
        if wanted.asked_us and c.now_us - wanted.asked_us < NEIGH_ASK_US:
            if addr_eq(&wanted.addr, addr):
                return
        elif free == NULL:
            free = wanted
    if free == NULL:
        return
    free.addr = addr[0]
    free.asked_us = c.now_us
    free.due = True
    c.wanted_due = True
