# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TCP input of text: see tcp_recv.pxd for the theory."""
from libc.stdint cimport uint8_t, uint32_t

from .blocks cimport (
    QUEUE_IOV_MAX, pool_is_low, queue_clear, queue_consume, queue_extend, queue_iov, queue_write,
)
from .conn cimport TcpConn
from .linux cimport EAGAIN, iovec
from .seq cimport seq_gt, seq_le, seq_lt, seq_min, seq_t
from .stats cimport DROP_NONE, DROP_TCP_OUT_OF_WINDOW, DROP_TCP_REASSEMBLY_FULL
from .tcp cimport HOST_OPEN, tcp_end, tcp_is_passing, tcp_retry_later
from .tcp_out cimport tcp_send_rst
from .tcp_sack cimport ranges_add, ranges_bytes, ranges_trim


cdef void not_sent(Ctx *c, Flow *flow, int error) noexcept nogil:
    """The host's socket took nothing: it is full, or means are out, or it is dead, which ends the
    flow.
    """
    cdef TcpConn *t = &flow.body.tcp
    if tcp_is_passing(error):
        tcp_retry_later(c, t)
        return
    t.writable = False
    if error != EAGAIN:
        tcp_send_rst(c, flow)
        tcp_end(c, flow, True)


cdef uint32_t send_now(Ctx *c, Flow *flow, const uint8_t *text, uint32_t n) noexcept nogil:
    """Hand text to the host's socket straight from the frame; what it took. A dead socket ends the
    flow.
    """
    cdef TcpConn *t = &flow.body.tcp
    cdef iovec iov
    cdef ssize_t sent
    iov.iov_base = <void *>text
    iov.iov_len = n
    sent = c.host.tcp_send(c.host.impl, flow.fd, &iov, 1)
    if sent < 0:
        not_sent(c, flow, <int>-sent)
        return 0
    if <uint32_t>sent < n:
        t.writable = False
    return <uint32_t>sent


cdef void join_ahead(TcpConn *t) noexcept nogil:
    """rcv_nxt has moved: what was waiting behind the gap joins the stream."""
    cdef uint32_t n
    ranges_trim(&t.ahead, t.rcv_nxt)
    if t.ahead != NULL and t.ahead.ranges[0].start == t.rcv_nxt:
        n = t.ahead.ranges[0].end - t.rcv_nxt
        queue_extend(&t.rq, n)
        t.rcv_nxt += n
        t.ack_pending_bytes += n
        ranges_trim(&t.ahead, t.rcv_nxt)


cdef Drop keep_ahead(Ctx *c, TcpConn *t, seq_t seq, const uint8_t *text, uint32_t n) noexcept nogil:
    """Text beyond a gap: keep it where it will belong, and tell the guest at once (RFC 5681 4.2).
    """
    t.ack_now = True
    if t.sack_ok and ranges_bytes(t.ahead, seq, seq + n) == n:
        t.dsack_due = True
        t.dsack.start = seq
        t.dsack.end = seq + n
    if pool_is_low(&c.pool) or not queue_write(&c.pool, &t.rq, t.rq.length + (seq - t.rcv_nxt),
                                               text, n):
        return DROP_TCP_REASSEMBLY_FULL
    if not ranges_add(&t.ahead, seq, seq + n):
        return DROP_TCP_REASSEMBLY_FULL
    return DROP_NONE


cdef void tcp_note_duplicate(TcpConn *t, const Segment *seg) noexcept nogil:
    """Text that came before came again: the next ACK says so (RFC 2883 4.1)."""
    if t.sack_ok and seg.seg_len and seq_lt(seg.seg_seq, t.rcv_nxt):
        t.dsack_due = True
        t.dsack.start = seg.seg_seq
        t.dsack.end = seq_min(seg.seg_seq + seg.seg_len, t.rcv_nxt)


cdef Drop tcp_receive_text(Ctx *c, Flow *flow, const Segment *seg) noexcept nogil:
    """RFC 9293 3.10.7.4 seventh: the text of an acceptable segment, cut to the window."""
    cdef TcpConn *t = &flow.body.tcp
    cdef seq_t start = seg.seg_seq
    cdef seq_t end = seg.seg_seq + seg.seg_len
    cdef const uint8_t *text = seg.text
    cdef uint32_t n, sent
    if seq_lt(start, t.rcv_nxt):
        tcp_note_duplicate(t, seg)
        if seq_le(end, t.rcv_nxt):
            t.ack_now = seg.seg_len != 0 or t.ack_now       # all of it is old
            return DROP_NONE
        text += t.rcv_nxt - start
        start = t.rcv_nxt
    if seq_gt(end, t.rcv_adv):
        end = t.rcv_adv
        t.ack_now = True                                    # tell where the window ends
    if seq_le(end, start):
        return DROP_TCP_OUT_OF_WINDOW                       # a probe of a shut window (3.8.6.1)
    n = end - start
    if start != t.rcv_nxt:
        return keep_ahead(c, t, start, text, n)
    sent = 0
    if t.rq.length == 0 and t.ahead == NULL and t.writable and t.host_state == HOST_OPEN:
        sent = send_now(c, flow, text, n)
        if t.host_state != HOST_OPEN:
            return DROP_NONE                                # the socket was dead, the guest knows
    if sent < n:
        if pool_is_low(&c.pool) or not queue_write(&c.pool, &t.rq, t.rq.length, text + sent,
                                                   n - sent):
            t.rcv_nxt += sent                               # only what was taken is acknowledged
            t.ack_pending_bytes += sent
            return DROP_TCP_REASSEMBLY_FULL
        queue_extend(&t.rq, n - sent)
    t.rcv_nxt += n
    t.ack_pending_bytes += n
    if t.ahead != NULL:
        t.ack_now = True                                    # RFC 5681 4.2: a gap is (partly) filled
        join_ahead(t)
    return DROP_NONE


cdef void tcp_flush_to_host(Ctx *c, Flow *flow) noexcept nogil:
    """Hand queued text to the host's socket until it is empty or takes no more. A dead socket ends
    the flow.
    """
    cdef TcpConn *t = &flow.body.tcp
    cdef iovec iov[QUEUE_IOV_MAX]
    cdef int count
    cdef ssize_t sent
    while t.rq.length and t.writable and t.host_state == HOST_OPEN:
        count = queue_iov(&t.rq, 0, t.rq.length, iov, QUEUE_IOV_MAX)
        sent = c.host.tcp_send(c.host.impl, flow.fd, iov, count)
        if sent < 0:
            not_sent(c, flow, <int>-sent)
            return
        queue_consume(&c.pool, &t.rq, <uint32_t>sent)
    if t.rq.length == 0 and t.ahead == NULL and t.rq.n_slots:
        queue_clear(&c.pool, &t.rq)
