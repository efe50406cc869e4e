# cython: language_level=3
"""The TCP header (RFC 9293 3.1) and its options (3.2, RFC 7323, RFC 2018): bytes <-> Segment, and
nothing else.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .conn cimport Range
from .seq cimport seq_t
from .stats cimport Drop
from .wire cimport IpHdr


cdef struct Segment:
    const IpHdr *ip
    uint16_t src_port
    uint16_t dst_port
    seq_t seg_seq
    seq_t seg_ack
    uint32_t seg_len                # of the text, without SYN and FIN
    uint32_t seg_wnd                # as on the wire, not scaled
    uint8_t flags                   # TCP_*
    const uint8_t *text
    uint16_t mss                    # 0: no option
    int wscale                      # -1: no option
    bint sack_permitted
    bint has_ts
    uint32_t ts_val
    uint32_t ts_ecr
    int n_sack
    Range sack[4]


cdef struct SegmentOptions:         # what to write into a header of ours
    uint16_t mss
    int wscale                      # -1: none
    bint sack_permitted
    bint has_ts
    uint32_t ts_val
    uint32_t ts_ecr
    int n_sack
    Range sack[4]


cdef Drop segment_parse(const IpHdr *ip, Segment *seg) noexcept nogil
cdef uint32_t segment_build(uint8_t *p, uint16_t src_port, uint16_t dst_port, seq_t seq, seq_t ack,
                            uint8_t flags,
                            uint16_t window, const SegmentOptions *options) noexcept nogil
