# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TCP's timers: see tcp_timer.pxd for the theory."""
from libc.stdint cimport int64_t

from .ctx cimport touch
from .stats cimport (
    CTR_TCP_ABORTED, CTR_TCP_CONNECT_FAILED, CTR_TCP_RETRANSMITS, CTR_TCP_TIMEOUTS, stats_count,
)
from .tcp cimport (
    HOST_CLOSED, HOST_CONNECTING, TCP_CLOSED, TCP_KEEPALIVE_IDLE_S, TCP_KEEPALIVE_INTERVAL_US,
    TCP_KEEPALIVE_PROBES, TCP_RETRIES_MAX, TCP_RETRIES_SYN, TCP_RTO_INITIAL_US, TCP_RTO_MAX_US,
    TCP_RTO_MIN_US, TCP_SYN_RCVD, TCP_SYN_SENT, TCP_TIME_WAIT, tcp_end, tcp_set_state, tcp_unhash,
)
from .tcp_out cimport tcp_send_override, tcp_send_probe, tcp_send_rst, tcp_send_syn
from .tcp_sack cimport tcp_all_lost
from .timers cimport TICK_US, timer_is_set, timer_set


cdef usec_t keepalive_due(const Flow *flow) noexcept nogil:
    cdef const TcpConn *t = &flow.body.tcp
    return (flow.last_us + <usec_t>TCP_KEEPALIVE_IDLE_S * 1000000
            + <usec_t>t.keepalive_probes * TCP_KEEPALIVE_INTERVAL_US)


cdef usec_t nearest_deadline(const Flow *flow) noexcept nogil:
    """When this connection next needs to be looked at; ~0: never."""
    cdef const TcpConn *t = &flow.body.tcp
    cdef usec_t due = ~<usec_t>0
    if t.rto_due_us:
        due = min(due, t.rto_due_us)
    if t.persist_due_us:
        due = min(due, t.persist_due_us)
    if t.ack_delayed:
        due = min(due, t.ack_due_us)
    if t.retry_due_us:
        due = min(due, t.retry_due_us)
    if t.deadline_us:
        due = min(due, t.deadline_us)
    elif t.state != TCP_CLOSED:
        due = min(due, keepalive_due(flow))
    return due


cdef void tcp_arm(Ctx *c, Flow *flow) noexcept nogil:
    """Have the wheel wake us no later than the nearest deadline."""
    cdef usec_t due = nearest_deadline(flow)
    if due == ~<usec_t>0:
        return
    if not timer_is_set(&flow.timer) or flow.timer.expires_tick * TICK_US > due + TICK_US:
        timer_set(&c.timers, &flow.timer, due)


cdef void tcp_rto_reset(TcpConn *t) noexcept nogil:
    """Leave the backed-off time-out behind: what the estimate says, or the initial one."""
    cdef uint32_t var = max(4 * t.rttvar_us, <uint32_t>TICK_US)
    if t.srtt_us == 0:
        t.rto_us = TCP_RTO_INITIAL_US
    else:
        t.rto_us = min(max(t.srtt_us + var, <uint32_t>TCP_RTO_MIN_US), <uint32_t>TCP_RTO_MAX_US)


cdef void tcp_rtt_sample(TcpConn *t, usec_t rtt_us) noexcept nogil:
    """RFC 6298 2.2, 2.3."""
    cdef uint32_t r = <uint32_t>min(max(rtt_us, <usec_t>1), <usec_t>TCP_RTO_MAX_US)
    cdef int64_t delta
    if t.srtt_us == 0:
        t.srtt_us = r
        t.rttvar_us = r // 2
    else:
        delta = <int64_t>t.srtt_us - r
        t.rttvar_us = <uint32_t>((3 * <int64_t>t.rttvar_us
                                  + (delta if delta >= 0 else -delta)) // 4)
        t.srtt_us = max(<uint32_t>((7 * <int64_t>t.srtt_us + r) // 8), <uint32_t>1)
    tcp_rto_reset(t)


cdef void give_up(Ctx *c, Flow *flow) noexcept nogil:
    """R2 is over, or keep-alive found nobody: both sides end with a reset."""
    stats_count(&c.stats, CTR_TCP_ABORTED)
    tcp_send_rst(c, flow)
    tcp_end(c, flow, True)


cdef void on_rto(Ctx *c, Flow *flow) noexcept nogil:
    """RFC 6298 5.4 to 5.7."""
    cdef TcpConn *t = &flow.body.tcp
    cdef bint opening = t.state == TCP_SYN_RCVD or t.state == TCP_SYN_SENT
    stats_count(&c.stats, CTR_TCP_TIMEOUTS)
    if t.retries >= (TCP_RETRIES_SYN if opening else TCP_RETRIES_MAX):
        give_up(c, flow)
        return
    t.rto_us = min(2 * t.rto_us, <uint32_t>TCP_RTO_MAX_US)
    t.rto_due_us = c.now_us + t.rto_us
    if opening:
        stats_count(&c.stats, CTR_TCP_RETRANSMITS)
        t.rtt_timing = False                # Karn
        tcp_send_syn(c, flow)
    else:
        tcp_all_lost(t)
    t.retries += 1


cdef void on_persist(Ctx *c, Flow *flow) noexcept nogil:
    """The window has let nothing through for long: use what little there is of it, or probe it; as
    long as the guest answers, for ever (RFC 9293 3.8.6.1 MUST-37).
    """
    cdef TcpConn *t = &flow.body.tcp
    if tcp_send_override(c, flow):
        return
    if t.retries >= TCP_RETRIES_MAX:
        give_up(c, flow)
        return
    tcp_send_probe(c, flow, False)
    t.retries += 1
    t.rto_us = min(2 * t.rto_us, <uint32_t>TCP_RTO_MAX_US)
    t.persist_due_us = c.now_us + t.rto_us


cdef void on_keepalive(Ctx *c, Flow *flow) noexcept nogil:
    cdef TcpConn *t = &flow.body.tcp
    if t.keepalive_probes >= TCP_KEEPALIVE_PROBES:
        give_up(c, flow)
        return
    t.keepalive_probes += 1
    tcp_send_probe(c, flow, True)


cdef void on_deadline(Ctx *c, Flow *flow) noexcept nogil:
    """A state that may not last has lasted: TIME-WAIT is over, or opening has failed."""
    cdef TcpConn *t = &flow.body.tcp
    if t.state == TCP_TIME_WAIT:
        if t.host_state == HOST_CLOSED:
            tcp_end(c, flow, False)
        else:
            # acknowledged bytes still wait for the host: they may, for a while
            tcp_unhash(c, flow)
            tcp_set_state(c, flow, TCP_CLOSED)
        return
    if t.state == TCP_CLOSED:
        stats_count(&c.stats, CTR_TCP_ABORTED)
        tcp_end(c, flow, True)
        return
    stats_count(&c.stats, CTR_TCP_CONNECT_FAILED)
    if t.host_state != HOST_CONNECTING:
        tcp_send_rst(c, flow)
    tcp_end(c, flow, True)                  # connect() found only silence, and so does the guest


cdef void tcp_on_timer(Ctx *c, Flow *flow) noexcept nogil:
    """The flow's node fired: do what is due, and have the flow served, which arms the node again.
    """
    cdef TcpConn *t = &flow.body.tcp
    touch(c, flow)
    if t.retry_due_us <= c.now_us:
        t.retry_due_us = 0
    if t.deadline_us and t.deadline_us <= c.now_us:
        on_deadline(c, flow)
    elif t.rto_due_us and t.rto_due_us <= c.now_us:
        on_rto(c, flow)
    elif t.persist_due_us and t.persist_due_us <= c.now_us:
        on_persist(c, flow)
    elif t.state != TCP_CLOSED and not t.deadline_us and keepalive_due(flow) <= c.now_us:
        on_keepalive(c, flow)
    if t.ack_delayed and t.ack_due_us <= c.now_us:
        t.ack_now = True
