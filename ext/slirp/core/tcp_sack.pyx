# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Ranges, the scoreboard and loss recovery: see tcp_sack.pxd for the theory."""
from libc.stdlib cimport calloc, free

from .seq cimport seq_ge, seq_gt, seq_in, seq_le, seq_lt, seq_max, seq_min
from .tcp cimport TCP_CWND_OPEN, TCP_DUP_THRESH, TCP_HOLES_MAX, TCP_SACK_BLOCKS


cdef bint ranges_add(RangeList **list_, seq_t start, seq_t end) noexcept nogil:
    """Add [start, end), merging what touches. False when the list is full or memory is out; nothing
    is changed then.
    """
    cdef RangeList *r = list_[0]
    cdef uint32_t first = 0
    cdef uint32_t last, i
    if r == NULL:
        r = <RangeList *>calloc(1, sizeof(RangeList))
        if r == NULL:
            return False
        list_[0] = r
    while first < r.count and seq_lt(r.ranges[first].end, start):
        first += 1
    last = first                                    # [first, last) touch the new one
    while last < r.count and seq_le(r.ranges[last].start, end):
        last += 1
    if first == last:
        if r.count == TCP_HOLES_MAX:
            return False
        for i in range(r.count, first, -1):
            r.ranges[i] = r.ranges[i - 1]
        r.count += 1
        r.ranges[first].start = start
        r.ranges[first].end = end
    else:
        r.ranges[first].start = seq_min(start, r.ranges[first].start)
        r.ranges[first].end = seq_max(end, r.ranges[last - 1].end)
        for i in range(last, r.count):
            r.ranges[first + 1 + i - last] = r.ranges[i]
        r.count -= last - first - 1
    remember(r, &r.ranges[first])
    return True


cdef void remember(RangeList *r, const Range *changed) noexcept nogil:
    """`changed` is the newest now; what it has swallowed is not remembered by itself."""
    cdef seq_t kept[4]
    cdef uint32_t n = 1
    cdef uint32_t i
    kept[0] = changed.start
    for i in range(r.n_recent):
        if n < 4 and not seq_in(r.recent[i], changed.start, changed.end - changed.start):
            kept[n] = r.recent[i]
            n += 1
    for i in range(n):
        r.recent[i] = kept[i]
    r.n_recent = n


cdef void ranges_trim(RangeList **list_, seq_t below) noexcept nogil:
    """Forget what lies below; an empty list is freed."""
    cdef RangeList *r = list_[0]
    cdef uint32_t gone = 0
    cdef uint32_t i
    if r == NULL:
        return
    while gone < r.count and seq_le(r.ranges[gone].end, below):
        gone += 1
    if gone == r.count:
        free(r)
        list_[0] = NULL
        return
    for i in range(gone, r.count):
        r.ranges[i - gone] = r.ranges[i]
    r.count -= gone
    r.ranges[0].start = seq_max(r.ranges[0].start, below)


cdef int ranges_report(const RangeList *list_, Range *out, int max_out) noexcept nogil:
    """SACK blocks (RFC 2018 4): the ranges that changed last, newest first, then the highest."""
    cdef uint32_t told = 0                          # a bit per range
    cdef int n = 0
    cdef uint32_t i, k
    if list_ == NULL:
        return 0
    for i in range(list_.n_recent):
        for k in range(list_.count):
            if n < max_out and seq_in(list_.recent[i], list_.ranges[k].start,
                                      list_.ranges[k].end - list_.ranges[k].start):
                out[n] = list_.ranges[k]
                told |= <uint32_t>1 << k
                n += 1
    k = list_.count
    while k > 0 and n < max_out:
        k -= 1
        if not told & (<uint32_t>1 << k):
            out[n] = list_.ranges[k]
            n += 1
    return n


cdef uint32_t ranges_bytes(const RangeList *list_, seq_t start, seq_t end) noexcept nogil:
    """How much of [start, end) is in the list."""
    cdef uint32_t total = 0
    cdef uint32_t i
    cdef seq_t a, b
    if list_ == NULL or seq_ge(start, end):
        return 0
    for i in range(list_.count):
        a = seq_max(start, list_.ranges[i].start)
        b = seq_min(end, list_.ranges[i].end)
        if seq_lt(a, b):
            total += b - a
    return total


cdef seq_t ranges_skip(const RangeList *list_, seq_t at, seq_t *next_start) noexcept nogil:
    """The first number from `at` on that is not in the list; lowers `next_start` to where the list
    goes on behind it.
    """
    cdef uint32_t i
    if list_ == NULL:
        return at
    for i in range(list_.count):
        if seq_lt(at, list_.ranges[i].start):
            next_start[0] = seq_min(next_start[0], list_.ranges[i].start)
            break
        if seq_lt(at, list_.ranges[i].end):
            at = list_.ranges[i].end
    return at


cdef uint32_t tcp_payload_mss(const TcpConn *t) noexcept nogil:
    """Payload per segment: the guest's MSS less the options of the moment (RFC 6691)."""
    cdef uint32_t options = 12 if t.ts_ok else 0
    cdef uint32_t blocks = 1 if t.dsack_due else 0
    if t.sack_ok and t.ahead != NULL:
        blocks += t.ahead.count
    if blocks:
        options += 4 + 8 * min(blocks,
                               <uint32_t>(TCP_SACK_BLOCKS - 1 if t.ts_ok else TCP_SACK_BLOCKS))
    return t.snd_mss - options


cdef uint32_t tcp_pipe(const TcpConn *t) noexcept nogil:
    """RFC 6675 4: octets under way, neither SACKed nor taken for lost."""
    cdef uint32_t out = t.snd_nxt - t.snd_una
    cdef seq_t lost_from
    if t.sacked != NULL:
        out -= ranges_bytes(t.sacked, t.snd_una, t.snd_nxt)
    if seq_lt(t.rexmit_nxt, t.rexmit_end):
        lost_from = seq_max(t.rexmit_nxt, t.snd_una)
        if seq_lt(lost_from, t.rexmit_end):
            out -= t.rexmit_end - lost_from - ranges_bytes(t.sacked, lost_from, t.rexmit_end)
    return out


cdef bint tcp_sack_update(TcpConn *t, const Segment *seg) noexcept nogil:
    """Take the guest's SACK blocks into the scoreboard; True when they told something new (RFC 6675
    2: a duplicate ACK).
    """
    cdef uint32_t before = ranges_bytes(t.sacked, t.snd_una, t.snd_nxt)
    cdef int i
    for i in range(seg.n_sack):
        # D-SACK (RFC 2883) and nonsense: below the acknowledged, beyond the sent, or empty.
        if (seq_lt(seg.sack[i].start, seg.sack[i].end) and seq_gt(seg.sack[i].start, t.snd_una)
                and seq_gt(seg.sack[i].start, seg.seg_ack) and seq_le(seg.sack[i].end, t.snd_nxt)):
            ranges_add(&t.sacked, seg.sack[i].start, seg.sack[i].end)
    return ranges_bytes(t.sacked, t.snd_una, t.snd_nxt) != before


cdef void take_for_lost(TcpConn *t, seq_t end) noexcept nogil:
    """[snd_una, end) is lost, but for what has been sent again already in this recovery."""
    if seq_ge(t.rexmit_nxt, t.rexmit_end):
        t.rexmit_nxt = seq_max(t.rexmit_end, t.snd_una) if t.in_recovery else t.snd_una
        t.rexmit_end = t.rexmit_nxt
    t.rexmit_end = seq_max(t.rexmit_end, end)


cdef seq_t lost_below(const TcpConn *t) noexcept nogil:
    """RFC 6675 4 IsLost: below this, more than (DupThresh - 1) segments' worth has been SACKed
    above.
    """
    cdef uint32_t above = 0
    cdef uint32_t i
    if t.sacked == NULL:
        return t.snd_una
    i = t.sacked.count
    while i > 0:
        i -= 1
        above += t.sacked.ranges[i].end - t.sacked.ranges[i].start
        if above > (TCP_DUP_THRESH - 1) * <uint32_t>t.snd_mss:
            return t.sacked.ranges[i].start
    return t.snd_una


cdef void tcp_dup_ack(Ctx *c, TcpConn *t) noexcept nogil:
    """A duplicate ACK: enter recovery at the third, or when the scoreboard tells a loss (RFC 5681
    3.2, 6582 3.2, 6675 5).
    """
    cdef seq_t lost = lost_below(t)
    cdef uint32_t flight = t.snd_nxt - t.snd_una
    t.dupacks += 1
    if not t.in_recovery:
        if t.dupacks < TCP_DUP_THRESH and seq_le(lost, t.snd_una):
            return
        # RFC 6582 3.2 step 2: the ACKs still answer an earlier recovery
        if seq_lt(t.snd_una, t.recover):
            return
        t.in_recovery = True
        t.recover = t.snd_nxt
        t.ssthresh = max(min(flight, t.cwnd) // 2, 2 * <uint32_t>t.snd_mss)
        t.cwnd = t.ssthresh
        if not t.sack_ok:
            t.cwnd += TCP_DUP_THRESH * t.snd_mss    # step 3: these have left the network
        t.rexmit_nxt = t.snd_una
        t.rexmit_end = seq_min(t.snd_una + tcp_payload_mss(t), t.snd_nxt)
        t.rtt_timing = False                        # Karn
    elif not t.sack_ok:
        # RFC 6582 3.2 step 4: a segment has left the network
        t.cwnd = min(t.cwnd + t.snd_mss, <uint32_t>TCP_CWND_OPEN)
    if seq_gt(lost, t.snd_una):
        take_for_lost(t, lost)


cdef void grow_cwnd(TcpConn *t, uint32_t acked) noexcept nogil:
    """RFC 5681 3.1: slow start below ssthresh, a segment per window above it; wide open again once
    it covers the window.
    """
    if t.cwnd >= TCP_CWND_OPEN:
        return
    if t.cwnd < t.ssthresh:
        t.cwnd += min(acked, 2 * <uint32_t>t.snd_mss)               # RFC 3465 with L = 2
    else:
        t.cwnd += max(<uint32_t>t.snd_mss * t.snd_mss // t.cwnd, <uint32_t>1)
    if t.cwnd >= t.max_snd_wnd and t.cwnd >= t.ssthresh:
        t.cwnd = TCP_CWND_OPEN


cdef void tcp_recovery_ack(Ctx *c, TcpConn *t, uint32_t acked) noexcept nogil:
    """New data was acknowledged, snd_una has moved: go on with, or leave, recovery (RFC 6582 3.2,
    6675 5).
    """
    t.dupacks = 0
    ranges_trim(&t.sacked, t.snd_una)
    if seq_lt(t.rexmit_nxt, t.snd_una):
        t.rexmit_nxt = t.snd_una
    if seq_lt(t.rexmit_end, t.rexmit_nxt):
        t.rexmit_end = t.rexmit_nxt
    if not t.in_recovery:
        # Never more than a window behind: the numbers wrap
        t.recover = seq_max(t.recover, t.snd_una)
        grow_cwnd(t, acked)
        return
    if seq_ge(t.snd_una, t.recover):
        t.in_recovery = False
        t.cwnd = t.ssthresh
        t.rexmit_nxt = t.snd_una
        t.rexmit_end = t.snd_una
        return
    if t.sack_ok:
        if seq_gt(lost_below(t), t.snd_una):
            take_for_lost(t, lost_below(t))
    else:                           # RFC 6582 3.2 step 5: what has left makes no room, but for one
        t.cwnd -= min(acked, t.cwnd)
        t.cwnd += t.snd_mss
    if t.rexmit_nxt == t.snd_una and t.rexmit_end == t.snd_una:
        # A partial ACK, and what follows was not sent again yet: it is lost too (RFC 6582 3.2 step
        # 5).
        t.rexmit_end = seq_min(t.snd_una + tcp_payload_mss(t), t.snd_nxt)


cdef void tcp_all_lost(TcpConn *t) noexcept nogil:
    """The retransmission timer fired (RFC 5681 3.1, 6675 5.1): all that is not SACKed goes again,
    slowly.
    """
    cdef uint32_t flight = t.snd_nxt - t.snd_una
    # RFC 5681 equation 4 once per loss
    if t.retries == 0:
        t.ssthresh = max(flight // 2, 2 * <uint32_t>t.snd_mss)
    t.cwnd = t.snd_mss
    t.in_recovery = False
    t.recover = t.snd_nxt
    t.dupacks = 0
    t.rexmit_nxt = t.snd_una
    t.rexmit_end = t.snd_nxt
    t.rtt_timing = False
    # RFC 2018 8: the receiver may have dropped what it SACKed
    free(t.sacked)
    t.sacked = NULL
