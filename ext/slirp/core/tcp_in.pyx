# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TCP input: see tcp_in.pxd for the theory."""
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy, memset

from .blocks cimport queue_clear, queue_consume
from .conn cimport FLOW_TCP, Flow, FlowKey, TcpConn
from .ctx cimport touch
from .flow cimport LRU_HALF_OPEN, flow_handle, flow_lookup
from .fwd cimport (
    ROUTE_DNS, ROUTE_LOOPBACK, ROUTE_LOOPBACK_CLOSED, ROUTE_NOWHERE, ROUTE_REFUSED, ROUTE_WORLD,
    Route, Target, fwd_nowhere, fwd_route,
)
from .hostops cimport OPTION_TOS, REF_FLOW, ref_make
from .icmp cimport icmp_error
from .icmp6 cimport ICMP_HOST_UNREACHABLE, ICMP_NET_UNREACHABLE, ICMP_UNREACHABLE
from .ip cimport ip_csum_ok
from .linux cimport EMFILE
from .seq cimport seq_gt, seq_in, seq_le, seq_lt, seq_max
from .stats cimport (
    CTR_TIME_WAIT_RECYCLED, DROP_FLOWS_FULL, DROP_ICMP_MALFORMED, DROP_NONE, DROP_TCP_ACK_TOO_NEW,
    DROP_TCP_ACK_TOO_OLD, DROP_TCP_BAD_CHECKSUM, DROP_TCP_CONNECTING, DROP_TCP_FORBIDDEN,
    DROP_TCP_HOST_REFUSED, DROP_TCP_NO_ACK, DROP_TCP_NO_CONNECTION, DROP_TCP_OUT_OF_WINDOW,
    DROP_TCP_PAWS, DROP_TCP_RST_CHALLENGED, DROP_TCP_RST_OUT_OF_WINDOW, DROP_TCP_SYN_CHALLENGED,
    stats_count,
)
from .tcp cimport (
    HOST_CLOSED, HOST_CONNECTING, TCP_ACK, TCP_CLOSED, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_CWND_OPEN,
    TCP_ESTABLISHED, TCP_FIN, TCP_FIN_WAIT_1, TCP_FIN_WAIT_2, TCP_LAST_ACK, TCP_MSS_DEFAULT,
    TCP_MSS_DEFAULT6, TCP_MSS_MIN, TCP_PAWS_IDLE_S, TCP_RST, TCP_RTO_INITIAL_US, TCP_RTO_MAX_US,
    TCP_RTO_UNTIMED_US, TCP_SYN, TCP_SYN_RCVD, TCP_SYN_SENT, TCP_TIME_WAIT, tcp_alloc, tcp_end,
    tcp_is_passing, tcp_set_state, tcp_shed_half_open, tcp_unhash, tcp_window_shift,
)
from .tcp_host cimport tcp_connect_failed, tcp_connect_next
from .tcp_out cimport (
    tcp_challenge_ack, tcp_clock_ts, tcp_init_sequence, tcp_send_rst_for, tcp_send_syn,
)
from .tcp_recv cimport tcp_note_duplicate, tcp_receive_text
from .tcp_sack cimport tcp_dup_ack, tcp_recovery_ack, tcp_sack_update
from .tcp_timer cimport tcp_rto_reset, tcp_rtt_sample
from .tcp_wire cimport Segment, segment_parse
from .wire cimport (
    ETH_ALEN, ICMP_HLEN, IP4_HLEN, IP4_MTU_MIN, IP6_HLEN, IP6_MTU_MIN, IP_PROTO_TCP, TCP_HLEN,
    TOS_DSCP, IpHdr, addr_set4, ip_hlen, load_be16, load_be32, usec_t,
)


# ---- opening -----------------------------------------------------------------------------------

cdef void take_syn_options(Ctx *c, TcpConn *t, const Segment *seg) noexcept nogil:
    """What a SYN of the guest's settles: MSS (RFC 6691), and what both sides know of RFC 7323 and
    2018.
    """
    cdef uint32_t mss = TCP_MSS_DEFAULT6 if seg.ip.v6 else TCP_MSS_DEFAULT
    if seg.mss:
        mss = seg.mss
    t.snd_mss = <uint16_t>min(max(mss, <uint32_t>TCP_MSS_MIN),
                              c.conf.mtu - ip_hlen(&seg.ip.dst) - TCP_HLEN)
    t.snd_wind_shift = <uint8_t>seg.wscale if seg.wscale >= 0 else 0
    t.rcv_wind_shift = tcp_window_shift(c.conf.tcp_buffer_bytes) if seg.wscale >= 0 else 0
    t.sack_ok = seg.sack_permitted
    t.ts_ok = seg.has_ts
    if seg.has_ts:
        t.ts_recent = seg.ts_val
        t.ts_recent_us = c.now_us
    t.irs = seg.seg_seq
    t.rcv_nxt = seg.seg_seq + 1
    t.rcv_adv = seq_max(t.rcv_adv,
                        t.rcv_nxt) if t.state == TCP_SYN_SENT and t.rcv_adv else t.rcv_nxt
    t.last_ack_sent = t.rcv_nxt


cdef inline void take_class(Ctx *c, Flow *flow, uint8_t tos) noexcept nogil:
    """RFC 1122 4.2.4.2: a connection's class may change; the host's socket follows the guest. What
    ECN says is each side's own (RFC 3168).
    """
    if tos & TOS_DSCP == flow.body.tcp.tos:
        return
    flow.body.tcp.tos = tos & TOS_DSCP
    if flow.fd >= 0:
        c.host.set_option(c.host.impl, flow.fd, OPTION_TOS, flow.body.tcp.tos)


cdef Drop refuse_syn(Ctx *c, const Segment *seg, Route route) noexcept nogil:
    """There is nothing to connect to (fwd.pxd); to ROUTE_DNS_CLOSED, silence."""
    if route == ROUTE_NOWHERE:
        icmp_error(c, seg.ip, ICMP_UNREACHABLE, ICMP_HOST_UNREACHABLE)
        return fwd_nowhere(seg.ip)
    if route == ROUTE_REFUSED:
        tcp_send_rst_for(c, seg)
    elif route == ROUTE_LOOPBACK_CLOSED:
        icmp_error(c, seg.ip, ICMP_UNREACHABLE, ICMP_NET_UNREACHABLE)
    return DROP_TCP_FORBIDDEN


cdef Drop tcp_accept_syn(Ctx *c, const FlowKey *key, const Segment *seg) noexcept nogil:
    """RFC 9293 3.10.7.2, LISTEN: every port of the world listens. Text on a SYN (RFC 7413) is not
    taken: it comes again.
    """
    cdef Target target
    cdef Flow *flow
    cdef TcpConn *t
    cdef int fd
    fwd_route(c, &key.dest_addr, key.dest_port, &target)
    if target.route not in (ROUTE_WORLD, ROUTE_LOOPBACK, ROUTE_DNS):
        return refuse_syn(c, seg, target.route)
    flow = tcp_alloc(c, key)
    if flow == NULL:
        return DROP_FLOWS_FULL
    t = &flow.body.tcp
    memcpy(flow.guest_mac, c.frame_mac, ETH_ALEN)
    flow.last_us = c.now_us
    t.host_state = HOST_CONNECTING
    t.rto_us = TCP_RTO_INITIAL_US
    t.cwnd = TCP_CWND_OPEN
    t.ssthresh = TCP_CWND_OPEN
    take_syn_options(c, t, seg)
    t.syn_text = seg.seg_len
    t.tos = seg.ip.tos & TOS_DSCP
    tcp_init_sequence(c, flow)
    tcp_set_state(c, flow, TCP_SYN_RCVD)
    touch(c, flow)
    if target.route == ROUTE_DNS:
        t.dns = target.tries
    fd = c.host.tcp_connect(c.host.impl, ref_make(REF_FLOW, flow_handle(flow)), &target.addr,
                            target.port, t.tos)
    if fd == -EMFILE and c.flows.lru[<int>LRU_HALF_OPEN].oldest != flow:
        # Out of descriptors: whoever has been trying for longest gives way.
        tcp_shed_half_open(c)
        fd = c.host.tcp_connect(c.host.impl, ref_make(REF_FLOW, flow_handle(flow)), &target.addr,
                                target.port, t.tos)
    if fd >= 0:
        flow.fd = fd
        return DROP_NONE
    if tcp_is_passing(-fd):
        # Our trouble, not the destination's: the guest's SYN will come again
        tcp_end(c, flow, False)
    elif tcp_connect_next(c, flow):
        return DROP_NONE
    else:
        tcp_connect_failed(c, flow, -fd)
    return DROP_TCP_HOST_REFUSED


cdef Drop syn_sent_arrives(Ctx *c, Flow *flow, const Segment *seg) noexcept nogil:
    """RFC 9293 3.10.7.3: the guest answers the SYN of a forwarded port's client."""
    cdef TcpConn *t = &flow.body.tcp
    cdef bint ack_ok = seg.flags & TCP_ACK and seg.seg_ack == t.snd_nxt
    if seg.flags & TCP_ACK and not ack_ok:                          # first
        tcp_send_rst_for(c, seg)
        return DROP_TCP_ACK_TOO_OLD if seq_le(seg.seg_ack, t.iss) else DROP_TCP_ACK_TOO_NEW
    if seg.flags & TCP_RST:                                         # second
        if not ack_ok:
            return DROP_TCP_RST_OUT_OF_WINDOW
        tcp_end(c, flow, True)
        return DROP_NONE
    if not seg.flags & TCP_SYN:                                     # fourth, fifth
        return DROP_TCP_NO_ACK
    take_syn_options(c, t, seg)
    if ack_ok:
        # As our SYN said
        t.rcv_adv = t.rcv_nxt + min(c.conf.tcp_buffer_bytes, <uint32_t>0xFFFF)
        establish(c, flow, seg, seg.seg_wnd)
        t.ack_now = True
    else:
        # both opened at once (3.5 figure 8)
        tcp_set_state(c, flow, TCP_SYN_RCVD)
        tcp_send_syn(c, flow)
    return DROP_NONE


cdef void establish(Ctx *c, Flow *flow, const Segment *seg, uint32_t window) noexcept nogil:
    """Our SYN is acknowledged."""
    cdef TcpConn *t = &flow.body.tcp
    t.snd_una = seg.seg_ack
    t.rexmit_nxt = t.snd_una
    t.rexmit_end = t.snd_una
    t.recover = t.snd_una
    t.snd_wnd = window
    t.max_snd_wnd = window
    t.snd_wl1 = seg.seg_seq
    t.snd_wl2 = seg.seg_ack
    t.rto_due_us = 0
    take_rtt(c, t, seg)
    if t.retries and t.srtt_us == 0:
        t.rto_us = TCP_RTO_UNTIMED_US
    t.retries = 0
    tcp_set_state(c, flow, TCP_ESTABLISHED)


# ---- otherwise: RFC 9293 3.10.7.4, step by step ------------------------------------------------

cdef bint acceptable(const TcpConn *t, const Segment *seg) noexcept nogil:
    """The RFC's table. At a shut window a segment at rcv_nxt passes, so that its ACK, URG and RST
    count; its text is cut off.
    """
    cdef uint32_t wnd = t.rcv_adv - t.rcv_nxt
    cdef uint32_t length = seg.seg_len
    length += (1 if seg.flags & TCP_SYN else 0) + (1 if seg.flags & TCP_FIN else 0)
    if wnd == 0:
        return seg.seg_seq == t.rcv_nxt
    if length == 0:
        return seq_in(seg.seg_seq, t.rcv_nxt, wnd) or seg.seg_seq == t.rcv_adv
    return seq_in(seg.seg_seq, t.rcv_nxt, wnd) or seq_in(seg.seg_seq + length - 1, t.rcv_nxt, wnd)


cdef Drop check_seq(Ctx *c, Flow *flow, const Segment *seg) noexcept nogil:
    """First: sequence number, after PAWS (RFC 7323 5.3)."""
    cdef TcpConn *t = &flow.body.tcp
    cdef bint rst = seg.flags & TCP_RST
    if t.ts_ok and not rst:
        if not seg.has_ts:                                          # RFC 7323 3.2
            return DROP_TCP_PAWS
        if (<int32_t>(seg.ts_val - t.ts_recent) < 0
                and c.now_us - t.ts_recent_us < <usec_t>TCP_PAWS_IDLE_S * 1000000):
            t.ack_now = True
            return DROP_TCP_PAWS
    if not acceptable(t, seg):
        if rst:
            return DROP_TCP_RST_OUT_OF_WINDOW
        # 3.10.7.4: the guest's FIN again, restart the 2 MSL
        if t.state == TCP_TIME_WAIT and seg.flags & TCP_FIN:
            tcp_set_state(c, flow, TCP_TIME_WAIT)
        tcp_note_duplicate(t, seg)
        t.ack_now = True
        return DROP_TCP_OUT_OF_WINDOW
    if t.ts_ok and seg.has_ts and seq_le(seg.seg_seq, t.last_ack_sent):     # RFC 7323 4.3 (2)
        if (<int32_t>(seg.ts_val - t.ts_recent) >= 0
                or c.now_us - t.ts_recent_us >= <usec_t>TCP_PAWS_IDLE_S * 1000000):
            t.ts_recent = seg.ts_val
            t.ts_recent_us = c.now_us
    return DROP_NONE


cdef Drop check_rst(Ctx *c, Flow *flow, const Segment *seg) noexcept nogil:
    """Second: RST, by RFC 5961 3.2 only at exactly rcv_nxt."""
    cdef TcpConn *t = &flow.body.tcp
    if not seg.flags & TCP_RST:
        return DROP_NONE
    if seg.seg_seq != t.rcv_nxt:
        tcp_challenge_ack(c, flow)
        return DROP_TCP_RST_CHALLENGED
    tcp_end(c, flow, True)
    return DROP_NONE


cdef Drop check_syn(Ctx *c, Flow *flow, const Segment *seg) noexcept nogil:
    """Fourth: SYN (RFC 5961 4.2)."""
    if not seg.flags & TCP_SYN:
        return DROP_NONE
    tcp_challenge_ack(c, flow)
    return DROP_TCP_SYN_CHALLENGED


cdef void update_window(Ctx *c, TcpConn *t, const Segment *seg, uint32_t window) noexcept nogil:
    """SND.WND from a segment that is not older than the last that set it (RFC 9293 3.10.7.4 fifth).

    A newer ACK always is a newer segment, whatever its number: else the window would be counted
    from an ACK that it was not sent with.
    """
    cdef bint was_shut
    if seq_gt(seg.seg_ack, t.snd_wl2) or (seg.seg_ack == t.snd_wl2
                                          and seq_le(t.snd_wl1, seg.seg_seq)):
        was_shut = t.snd_wnd == 0
        t.snd_wnd = window
        t.snd_wl1 = seg.seg_seq
        t.snd_wl2 = seg.seg_ack
        t.max_snd_wnd = max(t.max_snd_wnd, window)
        # The window opens: what was sent against it, a probe or a FIN, was not taken; send it again
        if window and was_shut:
            t.persist_due_us = 0
            t.retries = 0
            t.rtt_timing = False                                    # Karn
            tcp_rto_reset(t)
            t.rexmit_nxt = t.snd_una
            t.rexmit_end = t.snd_nxt
            if t.snd_nxt != t.snd_una:
                t.rto_due_us = c.now_us + t.rto_us


cdef void take_rtt(Ctx *c, TcpConn *t, const Segment *seg) noexcept nogil:
    """Measure the round trip that an acknowledgement of new data ends.

    The segment that is timed gives it in microseconds; it was sent once only (Karn). While none is,
    since all that is out was retransmitted, the time-stamp that comes back tells which sending was
    acknowledged (RFC 7323 4.1), if only in milliseconds.
    """
    cdef uint32_t since_ms
    if t.rtt_timing:
        if seq_gt(seg.seg_ack, t.rtt_seq):
            tcp_rtt_sample(t, c.now_us - t.rtt_start_us)
            t.rtt_timing = False
    elif t.ts_ok and seg.has_ts:
        since_ms = tcp_clock_ts(c, t) - seg.ts_ecr
        if since_ms <= TCP_RTO_MAX_US // 1000:                      # more: no time-stamp of ours
            tcp_rtt_sample(t, <usec_t>max(since_ms, <uint32_t>1) * 1000)


cdef void new_ack(Ctx *c, Flow *flow, const Segment *seg) noexcept nogil:
    """SND.UNA < SEG.ACK =< SND.NXT: the guest has more of our bytes, or our FIN."""
    cdef TcpConn *t = &flow.body.tcp
    cdef uint32_t acked = seg.seg_ack - t.snd_una
    cdef uint32_t data = acked - (1 if t.fin_sent and seq_gt(seg.seg_ack, t.snd_fin) else 0)
    queue_consume(&c.pool, &t.sq, data)
    if t.sq.length == 0:
        queue_clear(&c.pool, &t.sq)
    t.snd_una = seg.seg_ack
    t.retries = 0
    # Karn: never a segment sent twice
    take_rtt(c, t, seg)
    tcp_recovery_ack(c, t, acked)
    t.rto_due_us = c.now_us + t.rto_us if t.snd_una != t.snd_nxt else 0      # RFC 6298 5.2, 5.3
    if t.persist_due_us:
        t.persist_due_us = 0
        tcp_rto_reset(t)


cdef Drop process_ack(Ctx *c, Flow *flow, const Segment *seg) noexcept nogil:
    """Fifth: ACK, with RFC 5961 5.2's bounds."""
    cdef TcpConn *t = &flow.body.tcp
    cdef uint32_t window = seg.seg_wnd << t.snd_wind_shift
    cdef bint news = False
    if not seg.flags & TCP_ACK:
        return DROP_TCP_NO_ACK
    if t.state == TCP_SYN_RCVD:
        if seq_le(seg.seg_ack, t.snd_una) or seq_gt(seg.seg_ack, t.snd_nxt):
            tcp_send_rst_for(c, seg)
            return DROP_TCP_ACK_TOO_NEW if seq_gt(seg.seg_ack, t.snd_nxt) else DROP_TCP_ACK_TOO_OLD
        establish(c, flow, seg, window)
        return DROP_NONE
    if seq_gt(seg.seg_ack, t.snd_nxt):
        tcp_challenge_ack(c, flow)
        return DROP_TCP_ACK_TOO_NEW
    if seq_lt(seg.seg_ack, t.snd_una - t.max_snd_wnd):
        tcp_challenge_ack(c, flow)
        return DROP_TCP_ACK_TOO_OLD
    if seq_lt(seg.seg_ack, t.snd_una):
        # An old one: its text may still be new
        return DROP_NONE
    if t.sack_ok and seg.n_sack:
        news = tcp_sack_update(t, seg)
    if seq_gt(seg.seg_ack, t.snd_una):
        new_ack(c, flow, seg)
        update_window(c, t, seg, window)
    else:
        # RFC 5681 2: a duplicate ACK has bytes outstanding, no text, and says nothing else new.
        if (t.snd_una != t.snd_nxt and t.rto_due_us and seg.seg_len == 0 and not seg.flags & TCP_FIN
                and (news or (window == t.snd_wnd and seg.n_sack == 0))):
            tcp_dup_ack(c, t)
        update_window(c, t, seg, window)
        if t.snd_wnd == 0:
            # The guest lives: its window may stay shut for ever (RFC 9293 3.8.6.1 MUST-37)
            t.retries = 0
    return DROP_NONE


cdef void after_ack(Ctx *c, Flow *flow) noexcept nogil:
    """Fifth, continued: what an acknowledged FIN of ours means."""
    cdef TcpConn *t = &flow.body.tcp
    if not t.fin_sent or seq_le(t.snd_una, t.snd_fin):
        return
    if t.state == TCP_FIN_WAIT_1:
        tcp_set_state(c, flow, TCP_FIN_WAIT_2)
    elif t.state == TCP_CLOSING:
        tcp_set_state(c, flow, TCP_TIME_WAIT)
    elif t.state == TCP_LAST_ACK:
        tcp_unhash(c, flow)
        tcp_set_state(c, flow, TCP_CLOSED)


cdef void process_fin(Ctx *c, Flow *flow, const Segment *seg) noexcept nogil:
    """Eighth: FIN, once all before it is here."""
    cdef TcpConn *t = &flow.body.tcp
    if seg.flags & TCP_FIN and not t.fin_received and seq_gt(seg.seg_seq + seg.seg_len + 1,
                                                             t.rcv_nxt):
        t.rcv_fin = seg.seg_seq + seg.seg_len
        t.rcv_fin_ahead = True
    if not t.rcv_fin_ahead:
        return
    if t.rcv_nxt != t.rcv_fin:
        t.ack_now = True                                    # behind a gap (RFC 5681 4.2)
        return
    t.rcv_fin_ahead = False
    t.fin_received = True
    t.rcv_nxt += 1
    t.rcv_adv = seq_max(t.rcv_adv, t.rcv_nxt)
    t.ack_now = True
    if t.state == TCP_ESTABLISHED:
        tcp_set_state(c, flow, TCP_CLOSE_WAIT)
    elif t.state == TCP_FIN_WAIT_1:
        tcp_set_state(c, flow, TCP_CLOSING)
    elif t.state == TCP_FIN_WAIT_2:
        tcp_set_state(c, flow, TCP_TIME_WAIT)


cdef Drop segment_arrives(Ctx *c, Flow *flow, const Segment *seg) noexcept nogil:
    """RFC 9293 3.10.7.4 for a connection that has begun."""
    cdef TcpConn *t = &flow.body.tcp
    cdef Drop d = check_seq(c, flow, seg)
    if d == DROP_NONE:
        d = check_rst(c, flow, seg)
    if d != DROP_NONE or t.state == TCP_CLOSED:
        return d
    d = check_syn(c, flow, seg)
    if d == DROP_NONE:
        d = process_ack(c, flow, seg)
    if d != DROP_NONE:
        return d
    after_ack(c, flow)
    if t.state == TCP_ESTABLISHED or t.state == TCP_FIN_WAIT_1 or t.state == TCP_FIN_WAIT_2:
        if seg.seg_len:
            d = tcp_receive_text(c, flow, seg)
        if d == DROP_NONE and t.state != TCP_CLOSED:
            process_fin(c, flow, seg)
    elif t.state != TCP_CLOSED and (seg.seg_len or seg.flags & TCP_FIN):
        # An old FIN, or text behind it: it has its answer
        t.ack_now = True
    return d


# ---- which connection --------------------------------------------------------------------------

cdef bint may_recycle(const TcpConn *t, const Segment *seg) noexcept nogil:
    """A SYN that may begin a new connection in the old one's place (RFC 9293 3.6.1, RFC 6191): the
    guest has closed, and its clock
    or its sequence numbers show that the SYN is no relic."""
    if t.state != TCP_TIME_WAIT and t.state != TCP_LAST_ACK and t.state != TCP_CLOSING:
        return False
    if t.ts_ok and seg.has_ts and seg.ts_val != t.ts_recent:
        return <int32_t>(seg.ts_val - t.ts_recent) > 0
    return seq_gt(seg.seg_seq, t.rcv_nxt - 1)


cdef Drop syn_for_flow(Ctx *c, Flow *flow, const Segment *seg, bint *again) noexcept nogil:
    """A SYN without ACK for a key that is taken. `again`: the old connection has stepped aside."""
    cdef TcpConn *t = &flow.body.tcp
    again[0] = False
    if may_recycle(t, seg):
        stats_count(&c.stats, CTR_TIME_WAIT_RECYCLED)
        # Acknowledged bytes go on to the host
        if t.host_state != HOST_CLOSED and t.rq.length:
            tcp_unhash(c, flow)
            tcp_set_state(c, flow, TCP_CLOSED)
        else:
            tcp_end(c, flow, False)
        again[0] = True
        return DROP_NONE
    if t.state != TCP_SYN_RCVD:
        return DROP_NONE
    if seg.seg_seq == t.irs:                                        # the same SYN again
        if t.host_state == HOST_CONNECTING:
            tcp_connect_next(c, flow)           # a name server that has been silent for a second
            return DROP_TCP_CONNECTING
        tcp_send_syn(c, flow)
        return DROP_TCP_CONNECTING
    # The guest gave up and tries anew
    if t.host_state == HOST_CONNECTING:
        tcp_end(c, flow, True)
        again[0] = True
    return DROP_NONE


cdef Drop tcp_input(Ctx *c, const IpHdr *ip) noexcept nogil:
    """A segment, or a train of them, from the guest."""
    cdef Segment seg
    cdef FlowKey key
    cdef Flow *flow
    cdef Target target
    cdef bint again = False
    cdef Drop d = segment_parse(ip, &seg)
    if d != DROP_NONE:
        return d
    if not ip_csum_ok(ip, ip.payload_bytes):
        return DROP_TCP_BAD_CHECKSUM
    memset(&key, 0, sizeof(FlowKey))
    key.guest_addr = ip.src
    key.dest_addr = ip.dst
    key.guest_port = seg.src_port
    key.dest_port = seg.dst_port
    key.proto = IP_PROTO_TCP
    flow = flow_lookup(&c.flows, &key)
    if flow != NULL and seg.flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN:
        d = syn_for_flow(c, flow, &seg, &again)
        if again:
            flow = NULL
        elif d != DROP_NONE:
            return d
    if flow == NULL:
        if seg.flags & (TCP_SYN | TCP_ACK | TCP_RST) == TCP_SYN:
            return tcp_accept_syn(c, &key, &seg)
        fwd_route(c, &ip.dst, seg.dst_port, &target)
        if target.route == ROUTE_NOWHERE:                           # RFC 1122 4.2.3.10: silence
            return fwd_nowhere(seg.ip)
        tcp_send_rst_for(c, &seg)
        return DROP_TCP_NO_CONNECTION
    touch(c, flow)
    flow.last_us = c.now_us
    flow.body.tcp.keepalive_probes = 0
    memcpy(flow.guest_mac, c.frame_mac, ETH_ALEN)
    take_class(c, flow, ip.tos)
    if flow.body.tcp.state == TCP_SYN_SENT:
        return syn_sent_arrives(c, flow, &seg)
    return segment_arrives(c, flow, &seg)


cdef Drop find_quoted(Ctx *c, const IpHdr *ip, Flow **out) noexcept nogil:
    """The connection of the segment of ours that an ICMP error of the guest's quotes, if it is
    about bytes that are on their way (RFC 5927 4.1).
    """
    cdef const uint8_t *quote = ip.payload + ICMP_HLEN
    cdef uint32_t quoted = ip.payload_bytes - ICMP_HLEN
    cdef uint32_t hlen = IP6_HLEN
    cdef FlowKey key
    cdef TcpConn *t
    memset(&key, 0, sizeof(FlowKey))
    if quoted < IP4_HLEN:
        return DROP_ICMP_MALFORMED
    if ip.v6:
        if quote[0] >> 4 != 6 or quoted < hlen + 8:
            return DROP_ICMP_MALFORMED
        memcpy(key.dest_addr.b, quote + 8, 16)
        memcpy(key.guest_addr.b, quote + 24, 16)
        key.proto = quote[6]
    else:
        hlen = (quote[0] & 0x0F) * 4
        if quote[0] >> 4 != 4 or hlen < IP4_HLEN or quoted < hlen + 8:
            return DROP_ICMP_MALFORMED
        addr_set4(&key.dest_addr, quote + 12)
        addr_set4(&key.guest_addr, quote + 16)
        key.proto = quote[9]
    key.dest_port = load_be16(quote + hlen)
    key.guest_port = load_be16(quote + hlen + 2)
    out[0] = flow_lookup(&c.flows, &key)
    if out[0] == NULL or out[0].kind != FLOW_TCP:
        return DROP_TCP_NO_CONNECTION
    t = &out[0].body.tcp
    if not seq_in(load_be32(quote + hlen + 4), t.snd_una, t.snd_nxt - t.snd_una):
        return DROP_TCP_OUT_OF_WINDOW
    return DROP_NONE


cdef Drop tcp_packet_too_big(Ctx *c, const IpHdr *ip) noexcept nogil:
    """A router of the guest's says that a segment of ours was too big for it (RFC 1191 6.4, RFC
    8201 4): smaller ones from now on, and what is out goes again.
    """
    cdef uint32_t mtu = load_be32(ip.payload + 4) if ip.v6 else load_be16(ip.payload + 6)
    cdef uint32_t least = IP6_MTU_MIN if ip.v6 else IP4_MTU_MIN
    cdef uint32_t mss
    cdef Flow *flow = NULL
    cdef TcpConn *t
    cdef Drop d = find_quoted(c, ip, &flow)
    if d != DROP_NONE:
        return d
    t = &flow.body.tcp
    mss = max(max(mtu, least) - ip_hlen(&ip.dst) - TCP_HLEN, <uint32_t>TCP_MSS_MIN)
    if mss < t.snd_mss:
        t.snd_mss = <uint16_t>mss
        t.rexmit_nxt = t.snd_una
        t.rexmit_end = t.snd_nxt
        t.rtt_timing = False                                        # Karn
        touch(c, flow)
    return DROP_NONE
