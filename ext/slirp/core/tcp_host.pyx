# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TCP's host side and the joint service: see tcp_host.pxd for the theory."""
from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from .blocks cimport QUEUE_IOV_MAX, queue_commit, queue_reserve_iov
from .conn cimport FlowKey, TcpConn
from .ctx cimport FORWARDS_MAX, Forward, touch
from .flow cimport flow_handle, flow_lookup
from .fwd cimport (
    DNS_PORT, fwd_at, fwd_dns_left, fwd_dns_next, fwd_dns_verdict, fwd_guest_view,
)
from .hostops cimport EVENT_ENDING, EVENT_ERROR, EVENT_READABLE, EVENT_WRITABLE, REF_FLOW, ref_make
from .icmp cimport icmp_code_of_errno, icmp_unreachable_for_tcp
from .ip cimport neigh_lookup
from .linux cimport EAGAIN, ECONNABORTED, ECONNREFUSED, EINPROGRESS, EINTR, EMFILE, ETIMEDOUT, iovec
from .stats cimport (
    CTR_DNS_FAILOVERS, CTR_FORWARDS_ACCEPTED, CTR_FORWARDS_DEFERRED, CTR_TCP_CONNECT_FAILED,
    stats_count,
)
from .tcp cimport (
    HOST_CLOSED, HOST_CONNECTING, HOST_OPEN, TCP_CLOSED, TCP_CLOSE_WAIT, TCP_CWND_OPEN,
    TCP_DELACK_US, TCP_ESTABLISHED, TCP_HANDSHAKE_TIMEOUT_US, TCP_MSS_DEFAULT, TCP_MSS_DEFAULT6,
    TCP_RTO_INITIAL_US, TCP_SYN_SENT, TCP_TIME_WAIT, tcp_alloc, tcp_close_host,
    tcp_end, tcp_free, tcp_is_passing, tcp_retry_later, tcp_set_state, tcp_shed_half_open,
    tcp_window_shift,
)
from .tcp_out cimport (
    tcp_init_sequence, tcp_output, tcp_send_room, tcp_send_rst, tcp_send_syn, tcp_unsent,
)
from .tcp_recv cimport tcp_flush_to_host
from .tcp_timer cimport tcp_arm
from .timers cimport timer_is_set, timer_set
from .wire cimport ETH_ALEN, IP_PROTO_TCP, Addr, addr_is4, usec_t

cdef enum:
    PULL_TURN_BYTES = 524288        # read from the host's sockets between two looks at the link
    PULL_MIN_BYTES = 65536          # and from each of them
    PULL_MAX_BYTES = 262144
    ACCEPT_BATCH = 64               # clients taken from a listener at once
    ACCEPT_RETRY_US = 100000


cdef enum Service:
    SERVICE_DONE
    SERVICE_MORE                # there is more to do: again after the others
    SERVICE_FREED               # the flow is gone


# ---- the host's socket ends or begins ----------------------------------------------------------

cdef void tcp_connect_failed(Ctx *c, Flow *flow, int error) noexcept nogil:
    """The guest sees what it would see without us: RST, an ICMP error, or nothing (RFC 1122
    4.2.3.9).
    """
    cdef int icmp_code = icmp_code_of_errno(error)
    stats_count(&c.stats, CTR_TCP_CONNECT_FAILED)
    if icmp_code >= 0 and error != ECONNREFUSED:
        icmp_unreachable_for_tcp(c, flow, <uint8_t>icmp_code)
    elif error != ETIMEDOUT:
        tcp_send_rst(c, flow)
    tcp_end(c, flow, False)


cdef bint tcp_connect_next(Ctx *c, Flow *flow) noexcept nogil:
    """The guest's connection to the DNS address has met a dead server: try the next, before the
    guest is answered. False when there is none, or it is another connection.
    """
    cdef TcpConn *t = &flow.body.tcp
    cdef Addr addr
    cdef int fd
    if not t.dns.tried or not fwd_dns_left(c, &t.dns):
        return False
    fwd_dns_verdict(c, t.dns.generation, t.dns.server, False)
    while fwd_dns_next(c, &t.dns, &addr):
        stats_count(&c.stats, CTR_DNS_FAILOVERS)
        fd = c.host.tcp_connect(c.host.impl, ref_make(REF_FLOW, flow_handle(flow)), &addr, DNS_PORT,
                                t.tos)
        if fd >= 0:
            if flow.fd >= 0:
                c.host.close(c.host.impl, flow.fd)
            flow.fd = fd
            return True
        fwd_dns_verdict(c, t.dns.generation, t.dns.server, False)
    return False


cdef void on_connected(Ctx *c, Flow *flow) noexcept nogil:
    """connect() has ended: on success the guest gets its SYN-ACK."""
    cdef TcpConn *t = &flow.body.tcp
    cdef int result = c.host.tcp_connect_result(c.host.impl, flow.fd)
    if result == -EINPROGRESS:
        return
    if result < 0:
        if not tcp_connect_next(c, flow):
            tcp_connect_failed(c, flow, -result)
        return
    fwd_dns_verdict(c, t.dns.generation, t.dns.server, True)
    t.host_state = HOST_OPEN
    t.writable = True
    t.deadline_us = c.now_us + TCP_HANDSHAKE_TIMEOUT_US
    t.rtt_timing = True
    t.rtt_seq = t.iss
    t.rtt_start_us = c.now_us
    tcp_send_syn(c, flow)


cdef void tcp_on_host_event(Ctx *c, Flow *flow, uint32_t events) noexcept nogil:
    """The host's socket has news: note it; tcp_service acts on it."""
    cdef TcpConn *t = &flow.body.tcp
    if t.host_state == HOST_CLOSED:
        return
    touch(c, flow)
    if t.host_state == HOST_CONNECTING:
        if events & (EVENT_WRITABLE | EVENT_ERROR):
            on_connected(c, flow)
        if t.host_state != HOST_OPEN:
            return
    if events & EVENT_WRITABLE:
        t.writable = True
    if events & EVENT_READABLE:
        t.readable = True
        t.host_ending = events & EVENT_ENDING != 0
    # Reading or writing brings the error to light, in its order; else check_host_error does.
    if events & EVENT_ERROR:
        t.readable = True
        t.writable = True
        t.host_error = True


# ---- clients of a forwarded port ---------------------------------------------------------------

cdef bint open_to_guest(Ctx *c, Forward *forward, int fd, const Addr *peer,
                        uint16_t peer_port) noexcept nogil:
    """An accepted client becomes a connection to the guest, from the client's own address. False
    when there is no room.
    """
    cdef FlowKey key
    cdef Flow *flow
    cdef TcpConn *t
    cdef uint32_t attempts = 0
    memset(&key, 0, sizeof(FlowKey))
    key.guest_addr = forward.guest_addr
    key.guest_port = forward.guest_port
    fwd_guest_view(c, &key.guest_addr, peer, &key.dest_addr)
    key.dest_port = peer_port
    key.proto = IP_PROTO_TCP
    # Two clients behind one address, the gateway's: another port will do
    while flow_lookup(&c.flows, &key) != NULL:
        key.dest_port = <uint16_t>(1024 + (key.dest_port + 7919) % 64512)
        attempts += 1
        if attempts == 16:
            return False
    flow = tcp_alloc(c, &key)
    if flow == NULL:
        return False
    t = &flow.body.tcp
    flow.fd = fd
    flow.last_us = c.now_us
    memcpy(flow.guest_mac, neigh_lookup(c, &key.guest_addr), ETH_ALEN)
    t.host_state = HOST_OPEN
    t.writable = True
    t.snd_mss = TCP_MSS_DEFAULT if addr_is4(&key.guest_addr) else TCP_MSS_DEFAULT6
    t.rto_us = TCP_RTO_INITIAL_US
    t.cwnd = TCP_CWND_OPEN
    t.ssthresh = TCP_CWND_OPEN
    t.sack_ok = True
    t.ts_ok = True
    t.rcv_wind_shift = tcp_window_shift(c.conf.tcp_buffer_bytes)
    tcp_init_sequence(c, flow)
    tcp_set_state(c, flow, TCP_SYN_SENT)
    t.rtt_timing = True
    t.rtt_seq = t.iss
    t.rtt_start_us = c.now_us
    tcp_send_syn(c, flow)
    touch(c, flow)
    if c.host.watch(c.host.impl, fd, ref_make(REF_FLOW, flow_handle(flow))) < 0:
        tcp_end(c, flow, True)
    return True


cdef void accept_later(Ctx *c, Forward *forward, usec_t delay_us) noexcept nogil:
    """Clients are left with the listener, whose event was the last for them."""
    forward.waiting = True
    if delay_us == 0 or not timer_is_set(&c.accept_timer):
        timer_set(&c.timers, &c.accept_timer, c.now_us + delay_us)


cdef void tcp_accept_again(Ctx *c) noexcept nogil:
    """The accept_timer has expired."""
    cdef uint32_t i
    for i in range(FORWARDS_MAX):
        if c.forwards[i].fd >= 0 and c.forwards[i].waiting:
            tcp_on_accept(c, i)


cdef void tcp_on_accept(Ctx *c, uint32_t forward_index) noexcept nogil:
    """A forwarded port has clients: take them until none waits. Who cannot be taken waits in the
    listener's backlog; that is asked again now and then, and not at once for ever.
    """
    cdef Forward *forward = fwd_at(c, forward_index)
    cdef Addr peer
    cdef uint16_t port
    cdef int fd, _
    if forward == NULL:
        return
    forward.waiting = False
    for _ in range(ACCEPT_BATCH):
        fd = c.host.tcp_accept(c.host.impl, forward.fd, &peer, &port)
        if fd == -EMFILE and tcp_shed_half_open(c):         # one that opens for longest gives way
            fd = c.host.tcp_accept(c.host.impl, forward.fd, &peer, &port)
        if fd == -ECONNABORTED or fd == -EINTR:
            continue
        if fd < 0:
            if fd != -EAGAIN:
                stats_count(&c.stats, CTR_FORWARDS_DEFERRED)
                accept_later(c, forward, ACCEPT_RETRY_US)
            return
        stats_count(&c.stats, CTR_FORWARDS_ACCEPTED)
        if not open_to_guest(c, forward, fd, &peer, port):
            c.host.reset(c.host.impl, fd)
    accept_later(c, forward, 0)


# ---- service -----------------------------------------------------------------------------------

cdef bint pull_from_host(Ctx *c, Flow *flow) noexcept nogil:
    """Read from the host what the guest's window has room for, and a segment more: to probe a shut
    window with, and to know that what fits is not all (RFC 9293 3.8.6.2.1). True when bytes or the
    end came. What is not read stays in the kernel, whose window then holds the sender back.
    """
    cdef TcpConn *t = &flow.body.tcp
    cdef iovec iov[QUEUE_IOV_MAX]
    cdef uint32_t unsent = tcp_unsent(flow)
    cdef uint32_t ahead = tcp_send_room(flow) + t.snd_mss
    cdef uint32_t want
    cdef int count, i
    cdef ssize_t got
    if not t.readable or t.eof_seen or t.host_state != HOST_OPEN:
        return False
    if t.state != TCP_ESTABLISHED and t.state != TCP_CLOSE_WAIT:
        return False
    want = min(ahead - min(unsent, ahead), c.pull_bytes)
    want = min(want, c.conf.tcp_buffer_bytes - min(t.sq.length, c.conf.tcp_buffer_bytes))
    if want == 0:
        return False
    count = queue_reserve_iov(&c.pool, &t.sq, want, iov)
    want = 0
    if count == 0:
        tcp_retry_later(c, t)                           # the pool is empty: others will give back
        return False
    for i in range(count):
        want += <uint32_t>iov[i].iov_len
    got = c.host.tcp_recv(c.host.impl, flow.fd, iov, count)
    queue_commit(&c.pool, &t.sq, <uint32_t>got if got > 0 else 0)
    if got > 0:
        if <uint32_t>got < want and not t.host_ending:
            t.readable = False                          # hostops.pxd: that was all
        return True
    if tcp_is_passing(<int>-got):
        tcp_retry_later(c, t)
        return False
    t.readable = False
    if got == 0:
        t.eof_seen = True
        return True
    if got != -EAGAIN:
        tcp_send_rst(c, flow)
        tcp_end(c, flow, True)
    return False


cdef void check_host_error(Ctx *c, Flow *flow) noexcept nogil:
    """The host's socket said that it may be dead, and there is nothing to be read, or no room to
    read into, that would show it: ask, and tell the guest.
    """
    cdef TcpConn *t = &flow.body.tcp
    if not t.host_error or t.host_state != HOST_OPEN or t.state == TCP_CLOSED:
        return
    if t.readable and not t.eof_seen and tcp_send_room(flow) and (
            t.state == TCP_ESTABLISHED or t.state == TCP_CLOSE_WAIT):
        return                              # what came before the error goes first
    t.host_error = False
    if c.host.tcp_connect_result(c.host.impl, flow.fd) < 0:
        tcp_send_rst(c, flow)
        tcp_end(c, flow, True)


cdef bint finish(Ctx *c, Flow *flow) noexcept nogil:
    """Both directions are through where they are: shut down, close or end the flow. True when it is
    freed.
    """
    cdef TcpConn *t = &flow.body.tcp
    if t.host_state == HOST_OPEN and t.fin_received and not t.wr_shut and t.rq.length == 0:
        t.wr_shut = True
        c.host.tcp_shutdown(c.host.impl, flow.fd)
    if (t.host_state != HOST_CLOSED and t.rq.length == 0
            and (t.state == TCP_TIME_WAIT or t.state == TCP_CLOSED)):
        tcp_close_host(c, flow, False)
    if t.state == TCP_CLOSED and t.host_state == HOST_CLOSED:
        tcp_free(c, flow)
        return True
    tcp_arm(c, flow)
    return False


cdef Service tcp_service(Ctx *c, Flow *flow) noexcept nogil:
    """Do all that the batch made possible for one connection. Only here is one freed."""
    cdef TcpConn *t = &flow.body.tcp
    cdef bint more = False
    tcp_flush_to_host(c, flow)
    if t.state != TCP_CLOSED:
        more = pull_from_host(c, flow)
    if more and t.host_ending and not t.host_error and t.state != TCP_CLOSED:
        pull_from_host(c, flow)             # the end behind it goes with it
    if t.state != TCP_CLOSED:
        more = tcp_output(c, flow) or more
    check_host_error(c, flow)
    if t.state != TCP_CLOSED and t.ack_pending_bytes and not t.ack_delayed:
        t.ack_delayed = True
        t.ack_due_us = c.now_us + TCP_DELACK_US
    if finish(c, flow):
        return SERVICE_FREED
    return SERVICE_MORE if more and t.state != TCP_CLOSED else SERVICE_DONE


cdef bint tcp_serve(Ctx *c) noexcept nogil:
    """Serve each touched connection once. True when some want another turn.

    What they may read together is bounded, so that the guest gets it out of the CPU's cache.
    """
    cdef Flow *flow = c.touched
    cdef Flow *following
    cdef Service result
    cdef uint32_t share = PULL_TURN_BYTES // max(c.served, <uint32_t>1)     # as many as last time
    c.pull_bytes = min(max(share, <uint32_t>PULL_MIN_BYTES), <uint32_t>PULL_MAX_BYTES)
    c.served = 0
    c.touched = NULL
    c.touched_last = NULL
    while flow != NULL:
        # Flow.touched stays set meanwhile: no one puts it on the new list
        following = flow.touched_next
        c.served += 1
        result = tcp_service(c, flow)
        if result != SERVICE_FREED:
            flow.touched = False
            if result == SERVICE_MORE:
                touch(c, flow)
        flow = following
    return c.touched != NULL
