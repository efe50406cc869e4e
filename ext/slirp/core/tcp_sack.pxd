# cython: language_level=3
"""Ranges of sequence space, and what they are kept for: selective acknowledgement (RFC 2018, 6675).

One structure for both directions: `TcpConn.ahead` is what we hold beyond rcv_nxt and report in SACK
blocks; `TcpConn.sacked` is what the guest says it holds beyond snd_una, and need not be sent again.
At most TCP_HOLES_MAX ranges.

Loss, towards the guest: `[rexmit_nxt, rexmit_end)`, without what is SACKed, is taken for lost and
waits to be sent again. A sequence number is taken for lost when TCP_DUP_THRESH duplicate
acknowledgements came, or that many segments above it are SACKed (RFC 6675 4, IsLost), or the
retransmission timer fired. `tcp_pipe` is RFC 6675's estimate of what is still under way.
"""
from libc.stdint cimport uint32_t

from .conn cimport Flow, Range, RangeList, TcpConn
from .ctx cimport Ctx
from .seq cimport seq_t
from .tcp_wire cimport Segment


cdef bint ranges_add(RangeList **list_, seq_t start, seq_t end) noexcept nogil
cdef void ranges_trim(RangeList **list_, seq_t below) noexcept nogil
cdef int ranges_report(const RangeList *list_, Range *out, int max_out) noexcept nogil
cdef uint32_t ranges_bytes(const RangeList *list_, seq_t start, seq_t end) noexcept nogil
cdef seq_t ranges_skip(const RangeList *list_, seq_t at, seq_t *next_start) noexcept nogil
cdef uint32_t tcp_payload_mss(const TcpConn *t) noexcept nogil
cdef uint32_t tcp_pipe(const TcpConn *t) noexcept nogil
cdef bint tcp_sack_update(TcpConn *t, const Segment *seg) noexcept nogil
cdef void tcp_dup_ack(Ctx *c, TcpConn *t) noexcept nogil
cdef void tcp_recovery_ack(Ctx *c, TcpConn *t, uint32_t acked) noexcept nogil
cdef void tcp_all_lost(TcpConn *t) noexcept nogil
