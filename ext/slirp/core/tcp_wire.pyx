# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TCP headers: see tcp_wire.pxd."""
from libc.string cimport memset

from .stats cimport DROP_NONE, DROP_TCP_MALFORMED
from .tcp cimport TCP_SACK_BLOCKS, TCP_WSCALE_MAX
from .wire cimport TCP_HLEN, load_be16, load_be32, store_be16, store_be32

cdef enum:
    OPT_END = 0
    OPT_NOP = 1
    OPT_MSS = 2
    OPT_WSCALE = 3
    OPT_SACK_PERMITTED = 4
    OPT_SACK = 5
    OPT_TIMESTAMPS = 8


cdef void parse_option(Segment *seg, const uint8_t *p, uint8_t kind, uint8_t length) noexcept nogil:
    """One option of `length` bytes at `p`; of a length that is not its own, it is ignored."""
    cdef int i
    if kind == OPT_MSS and length == 4:
        seg.mss = load_be16(p + 2)
    elif kind == OPT_WSCALE and length == 3:
        # RFC 7323 2.3: a larger shift counts as 14
        seg.wscale = min(<int>p[2], <int>TCP_WSCALE_MAX)
    elif kind == OPT_SACK_PERMITTED and length == 2:
        seg.sack_permitted = True
    elif kind == OPT_TIMESTAMPS and length == 10:
        seg.has_ts = True
        seg.ts_val = load_be32(p + 2)
        seg.ts_ecr = load_be32(p + 6)
    elif kind == OPT_SACK and length >= 10 and (length - 2) % 8 == 0:
        seg.n_sack = min((length - 2) // 8, <int>TCP_SACK_BLOCKS)
        for i in range(seg.n_sack):
            seg.sack[i].start = load_be32(p + 2 + 8 * i)
            seg.sack[i].end = load_be32(p + 6 + 8 * i)


cdef Drop segment_parse(const IpHdr *ip, Segment *seg) noexcept nogil:
    """Fill `seg` from the IP payload. Its checksum is the caller's business.

    RFC 9293 3.1 MUST-5 to MUST-7: options may begin anywhere, unknown ones are passed over by their
    length; behind a length that does not fit nothing is an option, as the kernel has it too.
    """
    cdef const uint8_t *p = ip.payload
    cdef uint32_t n = ip.payload_bytes
    cdef uint32_t hlen, i
    cdef uint8_t kind, length
    if n < TCP_HLEN:
        return DROP_TCP_MALFORMED
    hlen = (p[12] >> 4) * 4
    if hlen < TCP_HLEN or hlen > n:
        return DROP_TCP_MALFORMED
    memset(seg, 0, sizeof(Segment))
    seg.ip = ip
    seg.src_port = load_be16(p)
    seg.dst_port = load_be16(p + 2)
    seg.seg_seq = load_be32(p + 4)
    seg.seg_ack = load_be32(p + 8)
    seg.flags = p[13]
    seg.seg_wnd = load_be16(p + 14)
    seg.text = p + hlen
    seg.seg_len = n - hlen
    seg.wscale = -1
    i = TCP_HLEN
    while i < hlen:
        kind = p[i]
        if kind == OPT_END:
            break
        if kind == OPT_NOP:
            i += 1
            continue
        if i + 1 >= hlen:
            break
        length = p[i + 1]
        if length < 2 or i + length > hlen:
            break
        parse_option(seg, p + i, kind, length)
        i += length
    return DROP_NONE


cdef uint32_t build_options(uint8_t *p, const SegmentOptions *options) noexcept nogil:
    """Write the options, padded to whole words; their length."""
    cdef uint32_t n = 0
    cdef int i
    if options.mss:
        p[0] = OPT_MSS
        p[1] = 4
        store_be16(p + 2, options.mss)
        n = 4
    if options.sack_permitted:
        p[n] = OPT_NOP
        p[n + 1] = OPT_NOP
        p[n + 2] = OPT_SACK_PERMITTED
        p[n + 3] = 2
        n += 4
    if options.has_ts:                      # RFC 7323 appendix A: aligned so
        p[n] = OPT_NOP
        p[n + 1] = OPT_NOP
        p[n + 2] = OPT_TIMESTAMPS
        p[n + 3] = 10
        store_be32(p + n + 4, options.ts_val)
        store_be32(p + n + 8, options.ts_ecr)
        n += 12
    if options.wscale >= 0:
        p[n] = OPT_NOP
        p[n + 1] = OPT_WSCALE
        p[n + 2] = 3
        p[n + 3] = <uint8_t>options.wscale
        n += 4
    if options.n_sack:
        p[n] = OPT_NOP
        p[n + 1] = OPT_NOP
        p[n + 2] = OPT_SACK
        p[n + 3] = <uint8_t>(2 + 8 * options.n_sack)
        n += 4
        for i in range(options.n_sack):
            store_be32(p + n, options.sack[i].start)
            store_be32(p + n + 4, options.sack[i].end)
            n += 8
    return n


cdef uint32_t segment_build(uint8_t *p, uint16_t src_port, uint16_t dst_port, seq_t seq, seq_t ack,
                            uint8_t flags,
                            uint16_t window, const SegmentOptions *options) noexcept nogil:
    """Write a header with its options at `p`; the checksum stays zero. Its length, up to 60 bytes.
    """
    cdef uint32_t hlen = TCP_HLEN + build_options(p + TCP_HLEN, options)
    store_be16(p, src_port)
    store_be16(p + 2, dst_port)
    store_be32(p + 4, seq)
    store_be32(p + 8, ack)
    p[12] = <uint8_t>(hlen // 4 << 4)
    p[13] = flags
    store_be16(p + 14, window)
    store_be16(p + 16, 0)
    store_be16(p + 18, 0)
    return hlen
