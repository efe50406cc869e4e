# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The one writer of a connection's state, and the ends of its life. The theory is in tcp.pxd."""
from libc.stdint cimport uint32_t
from libc.stdlib cimport abort, free

from .blocks cimport queue_clear
from .conn cimport FLOW_TCP, TcpConn
from .flow cimport (
    LRU_HALF_OPEN, LRU_TCP, LRU_TIME_WAIT, flow_alloc, flow_free, flow_set_class, flow_unhash,
)
from .ctx cimport touch
from .linux cimport EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, ENOSPC
from .stats cimport CTR_HALF_OPEN_EVICTED, CTR_TCP_OPENED, stats_count
from .timers cimport timer_cancel
from .wire cimport usec_t

cdef enum:
    TIME_WAIT_RESERVE = 128         # places: for a batch of frames and one of forwards' clients

cdef extern from *:
    """
    #ifdef PYSLIRP_DEBUG
    #define SLIRP_DEBUG 1
    #else
    #define SLIRP_DEBUG 0
    #endif
    """
    const bint SLIRP_DEBUG


cdef void tcp_set_state(Ctx *c, Flow *flow, TcpState state) noexcept nogil:
    """Move along an edge of RFC 9293 figure 5; the list of its class and the state's own deadline
    follow from it.
    """
    cdef TcpState old = <TcpState>flow.body.tcp.state
    # TIME-WAIT may begin anew (3.10.7.4 eighth: restart the 2 MSL time-out).
    if (SLIRP_DEBUG and state != TCP_CLOSED and not tcp_edges(old) & (1 << <int>state)
            and not (state == TCP_TIME_WAIT and old == TCP_TIME_WAIT)):
        abort()
    flow.body.tcp.state = <uint8_t>state
    flow.body.tcp.deadline_us = 0
    if state == TCP_SYN_SENT or state == TCP_SYN_RCVD:
        flow_set_class(&c.flows, flow, LRU_HALF_OPEN)
        flow.body.tcp.deadline_us = c.now_us + TCP_CONNECT_TIMEOUT_US
    elif state == TCP_TIME_WAIT:
        flow_set_class(&c.flows, flow, LRU_TIME_WAIT)
        flow.body.tcp.deadline_us = c.now_us + TCP_TIME_WAIT_US
        flow.body.tcp.rto_due_us = 0
        flow.body.tcp.persist_due_us = 0
    elif state == TCP_CLOSED:
        flow_set_class(&c.flows, flow, LRU_TCP)
        flow.body.tcp.deadline_us = c.now_us + TCP_LINGER_US
        flow.body.tcp.rto_due_us = 0
        flow.body.tcp.persist_due_us = 0
        flow.body.tcp.ack_delayed = False
    elif old == TCP_SYN_SENT or old == TCP_SYN_RCVD:
        flow_set_class(&c.flows, flow, LRU_TCP)
        stats_count(&c.stats, CTR_TCP_OPENED)


cdef void tcp_unhash(Ctx *c, Flow *flow) noexcept nogil:
    """Leave the place to another connection of the same addresses and ports."""
    if not flow.body.tcp.hashed_out:
        flow.body.tcp.hashed_out = True
        flow_unhash(&c.flows, flow)


cdef void tcp_close_host(Ctx *c, Flow *flow, bint reset_host) noexcept nogil:
    """Be done with the host's socket; with `reset_host` its peer sees a reset."""
    if flow.fd >= 0:
        if reset_host:
            c.host.reset(c.host.impl, flow.fd)
        else:
            c.host.close(c.host.impl, flow.fd)
        flow.fd = -1
    flow.body.tcp.host_state = HOST_CLOSED
    queue_clear(&c.pool, &flow.body.tcp.rq)
    free(flow.body.tcp.ahead)
    flow.body.tcp.ahead = NULL


cdef void tcp_end(Ctx *c, Flow *flow, bint reset_host) noexcept nogil:
    """Both sides are over at once. The entry itself is freed when it is served, since others in
    this batch may still hold it.
    """
    tcp_close_host(c, flow, reset_host)
    queue_clear(&c.pool, &flow.body.tcp.sq)
    free(flow.body.tcp.sacked)
    flow.body.tcp.sacked = NULL
    tcp_unhash(c, flow)
    tcp_set_state(c, flow, TCP_CLOSED)
    touch(c, flow)


cdef void tcp_free(Ctx *c, Flow *flow) noexcept nogil:
    """Give back an ended flow; nothing points to it but the slab."""
    timer_cancel(&c.timers, &flow.timer)
    flow_free(&c.flows, flow)


cdef bint tcp_shed_half_open(Ctx *c) noexcept nogil:
    """End the connection that has been opening for longest, to make room; False when none is."""
    cdef Flow *oldest = c.flows.lru[<int>LRU_HALF_OPEN].oldest
    if oldest == NULL:
        return False
    stats_count(&c.stats, CTR_HALF_OPEN_EVICTED)
    tcp_end(c, oldest, True)
    return True


cdef void shed_time_wait(Ctx *c) noexcept nogil:
    """End the oldest TIME-WAIT while there is still room for the newcomers of a batch: its place is
    free when the batch is over, and who finds none tries again after a whole second. Two go for one
    that comes, since mappings and pings come too.
    """
    cdef uint32_t reserve = min(<uint32_t>TIME_WAIT_RESERVE, c.flows.max_flows // 8)
    cdef int _
    for _ in range(2):
        if (c.flows.n_flows + reserve <= c.flows.max_flows
                or c.flows.lru[<int>LRU_TIME_WAIT].oldest == NULL):
            return
        tcp_end(c, c.flows.lru[<int>LRU_TIME_WAIT].oldest, True)


cdef Flow *tcp_alloc(Ctx *c, const FlowKey *key) noexcept nogil:
    """A flow for a connection that begins, on either side; half-open connections and TIME-WAIT give
    way, oldest first, at their bounds. NULL: there is no room, now.
    """
    if c.flows.lru[<int>LRU_HALF_OPEN].count >= c.conf.max_half_open:
        tcp_shed_half_open(c)
    shed_time_wait(c)
    return flow_alloc(&c.flows, key, FLOW_TCP)


cdef void tcp_retry_later(Ctx *c, TcpConn *t) noexcept nogil:
    """Means were out, and no event will tell when they are there again. The more flows there are,
    the later, so that all together ask no more than 6,400 times a second.
    """
    t.retry_due_us = c.now_us + TCP_RETRY_US * (1 + <usec_t>c.flows.n_flows // 64)


cdef bint tcp_is_passing(int error) noexcept nogil:
    """An errno that tells of our machine's means, not of a connection: it may work again soon."""
    return (error == ENOMEM or error == ENOBUFS or error == EMFILE or error == ENFILE
            or error == ENOSPC or error == EINTR)
