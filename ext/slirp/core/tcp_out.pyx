# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""TCP output: see tcp_out.pxd for the theory."""
from libc.stdint cimport int32_t, uint64_t
from libc.string cimport memset

from .blocks cimport QUEUE_IOV_MAX, queue_iov
from .conn cimport FlowKey, TcpConn
from .ctx cimport LINK_TSO4, LINK_TSO6
from .ip cimport OutFrame, ip_output
from .rate cimport rate_allows
from .seq cimport seq_ge, seq_gt, seq_lt, seq_max
from .siphash cimport siphash_words
from .stats cimport (
    CTR_TCP_CHALLENGE_ACKS, CTR_TCP_CHALLENGE_LIMITED, CTR_TCP_RESETS_SENT, CTR_TCP_RETRANSMITS,
    stats_count,
)
from .tcp cimport (
    TCP_ACK, TCP_CLOSE_WAIT, TCP_ESTABLISHED, TCP_FIN, TCP_FIN_WAIT_1, TCP_GSO_MAX_BYTES,
    TCP_LAST_ACK, TCP_PSH, TCP_RST, TCP_SACK_BLOCKS, TCP_SYN, TCP_SYN_RCVD, TCP_SYN_SENT,
    TCP_TIME_WAIT, tcp_set_state,
)
from .tcp_sack cimport ranges_report, ranges_skip, tcp_payload_mss, tcp_pipe
from .tcp_wire cimport SegmentOptions, segment_build
from .wire cimport (
    HEADROOM_BYTES, IP_PROTO_TCP, TCP_HLEN, TCP_OPTIONS_MAX, VNET_GSO_TCPV4, VNET_GSO_TCPV6,
    addr_is4, ip_hlen,
)

cdef enum:
    CHALLENGE_ACK_EVERY_US = 1000           # RFC 5961 7: 1,000 a second, all connections together
    CHALLENGE_ACK_CONN_EVERY_US = 100000    # and 10 a second for one, which leaves others theirs
    CHALLENGE_ACKS_CONN_BURST = 10
    CHALLENGE_ACKS_BURST = 100
    TCP_CSUM_OFFSET = 16


# ---- building blocks ---------------------------------------------------------------------------

cdef uint32_t tcp_clock_ts(Ctx *c, const TcpConn *t) noexcept nogil:
    """RFC 7323 5.4: a clock of 1 ms, from an offset that tells nobody our uptime."""
    return <uint32_t>(c.now_us // 1000) + t.ts_offset


cdef void out_init(OutFrame *out, const Flow *flow, uint8_t *buf) noexcept nogil:
    memset(out, 0, sizeof(OutFrame))
    out.src = flow.key.dest_addr
    out.dst = flow.key.guest_addr
    out.proto = IP_PROTO_TCP
    out.tos = flow.body.tcp.tos
    out.guest_mac = flow.guest_mac
    out.l4 = buf + HEADROOM_BYTES - TCP_HLEN - TCP_OPTIONS_MAX
    out.csum_offset = TCP_CSUM_OFFSET


cdef uint32_t receive_room(Ctx *c, const TcpConn *t) noexcept nogil:
    """How much more the receive queue may hold; never more than the window field can say."""
    cdef uint32_t buffer_bytes = min(c.conf.tcp_buffer_bytes, <uint32_t>0xFFFF << t.rcv_wind_shift)
    return buffer_bytes - min(t.rq.length, buffer_bytes)


cdef void select_window(Ctx *c, TcpConn *t) noexcept nogil:
    """Move the right edge of the window to what the buffer can hold (RFC 9293 3.8.6.2.2: not in
    silly steps, never back).
    """
    cdef uint32_t buffer_bytes = min(c.conf.tcp_buffer_bytes, <uint32_t>0xFFFF << t.rcv_wind_shift)
    cdef uint32_t room = receive_room(c, t)
    cdef seq_t edge = t.rcv_nxt + room
    cdef uint32_t step = min(buffer_bytes // 2, <uint32_t>t.snd_mss)
    if seq_gt(edge, t.rcv_adv) and edge - t.rcv_adv >= step:
        t.rcv_adv = edge


cdef uint16_t window_field(TcpConn *t) noexcept nogil:
    """The window as it goes on the wire. Rounded down; the edge that the guest knows stays where it
    was said to be.
    """
    cdef uint32_t wnd = t.rcv_adv - t.rcv_nxt
    cdef uint32_t scaled = wnd >> t.rcv_wind_shift
    return <uint16_t>min(scaled, <uint32_t>0xFFFF)


cdef int sack_room(const TcpConn *t) noexcept nogil:
    """How many SACK blocks fit beside the other options."""
    return TCP_SACK_BLOCKS - 1 if t.ts_ok else TCP_SACK_BLOCKS


cdef void ack_options(Ctx *c, TcpConn *t, SegmentOptions *options) noexcept nogil:
    memset(options, 0, sizeof(SegmentOptions))
    options.wscale = -1
    if t.ts_ok:
        options.has_ts = True
        options.ts_val = tcp_clock_ts(c, t)
        options.ts_ecr = t.ts_recent
    if t.dsack_due:
        options.sack[0] = t.dsack                               # RFC 2883 4: before all others
        options.n_sack = 1
    if t.sack_ok:
        options.n_sack += ranges_report(t.ahead, &options.sack[options.n_sack],
                                        sack_room(t) - options.n_sack)


cdef void acked_now(TcpConn *t) noexcept nogil:
    """A segment with the current acknowledgement has left: none is owed."""
    t.ack_now = False
    t.ack_delayed = False
    t.ack_pending_bytes = 0
    t.dsack_due = False
    t.last_ack_sent = t.rcv_nxt


cdef int send_segment(Ctx *c, Flow *flow, seq_t seq, uint32_t n, uint8_t flags,
                      uint32_t mss) noexcept nogil:
    """One frame of `n` payload bytes from sequence number `seq` on, cut by the guest into `mss`. 0
    or -errno.
    """
    cdef TcpConn *t = &flow.body.tcp
    cdef uint8_t buf[HEADROOM_BYTES]
    cdef OutFrame out
    cdef SegmentOptions options
    cdef int result
    out_init(&out, flow, buf)
    ack_options(c, t, &options)
    select_window(c, t)
    out.l4_bytes = segment_build(out.l4, flow.key.dest_port, flow.key.guest_port, seq, t.rcv_nxt,
                                 flags | TCP_ACK,
                                 window_field(t), &options)
    if n:
        out.n_payload = queue_iov(&t.sq, seq - t.snd_una, n, out.payload, QUEUE_IOV_MAX)
        out.payload_bytes = n
        if n > mss:
            out.gso_type = VNET_GSO_TCPV4 if addr_is4(&out.dst) else VNET_GSO_TCPV6
            out.gso_size = <uint16_t>mss
    result = ip_output(c, &out)
    if result == 0:
        acked_now(t)
    return result


# ---- what tcp_output may send ------------------------------------------------------------------

cdef uint32_t tcp_unsent(const Flow *flow) noexcept nogil:
    """Bytes of the send queue that were never sent."""
    cdef const TcpConn *t = &flow.body.tcp
    if t.fin_sent:
        return 0
    return t.sq.length - (t.snd_nxt - t.snd_una)


cdef uint32_t tcp_send_room(const Flow *flow) noexcept nogil:
    """How many new bytes the guest's window and cwnd let us send now."""
    cdef const TcpConn *t = &flow.body.tcp
    cdef int32_t window = <int32_t>(t.snd_una + t.snd_wnd - t.snd_nxt)
    cdef uint32_t pipe = tcp_pipe(t)
    if window <= 0 or pipe >= t.cwnd:
        return 0
    return min(<uint32_t>window, t.cwnd - pipe)


cdef uint32_t frame_limit(Ctx *c, const Flow *flow, uint32_t mss) noexcept nogil:
    """The most payload that one frame may carry: whole segments, or one where the link does not
    cut.
    """
    cdef uint32_t most = TCP_GSO_MAX_BYTES - ip_hlen(&flow.key.guest_addr)
    if c.conf.offload & (LINK_TSO4 if addr_is4(&flow.key.guest_addr) else LINK_TSO6):
        return most - most % mss if mss < most else mss
    return mss


cdef bint send_lost(Ctx *c, Flow *flow, uint32_t mss) noexcept nogil:
    """Send one frame of what is taken for lost. False when none may or needs to go."""
    cdef TcpConn *t = &flow.body.tcp
    cdef seq_t end = t.rexmit_end
    cdef uint32_t pipe, n
    t.rexmit_nxt = ranges_skip(t.sacked, seq_max(t.rexmit_nxt, t.snd_una), &end)
    if seq_ge(t.rexmit_nxt, t.rexmit_end):
        return False
    pipe = tcp_pipe(t)
    # The first goes whatever cwnd is (RFC 5681 3.2 step 2, 6582 3.2 step 5, 6675 5 step 4.3)
    if pipe and pipe + mss > t.cwnd and t.rexmit_nxt != t.snd_una:
        return False
    if t.fin_sent and t.rexmit_nxt == t.snd_fin:
        if send_segment(c, flow, t.snd_fin, 0, TCP_FIN, mss) < 0:
            return False
        t.rexmit_nxt += 1
    else:
        n = (t.snd_fin if t.fin_sent and seq_gt(end, t.snd_fin) else end) - t.rexmit_nxt
        n = min(n, mss)
        if send_segment(c, flow, t.rexmit_nxt, n, TCP_PSH, mss) < 0:
            return False
        t.rexmit_nxt += n
    stats_count(&c.stats, CTR_TCP_RETRANSMITS)
    return True


cdef void start_timers(Ctx *c, TcpConn *t) noexcept nogil:
    """Something new, from snd_nxt on, is on its way: time it (Karn: never a retransmission) and
    watch it (RFC 6298 5.1).
    """
    t.persist_due_us = 0
    if not t.rtt_timing:
        t.rtt_timing = True
        t.rtt_seq = t.snd_nxt
        t.rtt_start_us = c.now_us
    if t.rto_due_us == 0:
        t.rto_due_us = c.now_us + t.rto_us


cdef bint send_new(Ctx *c, Flow *flow, uint32_t mss) noexcept nogil:
    """Send one frame of new bytes, with FIN behind the last. False when none may or needs to go."""
    cdef TcpConn *t = &flow.body.tcp
    cdef uint32_t unsent = tcp_unsent(flow)
    cdef uint32_t n = min(min(unsent, tcp_send_room(flow)), frame_limit(c, flow, mss))
    cdef bint last = n == unsent
    cdef bint fin = last and t.eof_seen and not t.fin_sent
    cdef uint8_t flags = 0
    if n == 0 and not fin:
        return False
    # RFC 9293 3.8.6.2.1: a full segment, or all there is, or half of the largest window.
    if n < mss and not last and n < t.max_snd_wnd // 2:
        return False
    if n > mss and not last:
        n -= n % mss
    if last and n:
        flags |= TCP_PSH
    if fin:
        flags |= TCP_FIN
    if send_segment(c, flow, t.snd_nxt, n, flags, mss) < 0:
        return False
    start_timers(c, t)
    t.snd_nxt += n
    if fin:
        t.fin_sent = True
        t.snd_fin = t.snd_nxt
        t.snd_nxt += 1
        tcp_set_state(c, flow, TCP_FIN_WAIT_1 if t.state == TCP_ESTABLISHED else TCP_LAST_ACK)
    return True


cdef bint ack_is_due(Ctx *c, Flow *flow) noexcept nogil:
    """An acknowledgement, or a window update, has to go by itself."""
    cdef TcpConn *t = &flow.body.tcp
    cdef uint32_t buffer_bytes = min(c.conf.tcp_buffer_bytes, <uint32_t>0xFFFF << t.rcv_wind_shift)
    cdef uint32_t left = t.rcv_adv - t.rcv_nxt
    cdef uint32_t room = receive_room(c, t)
    cdef uint32_t gain = room - left if room > left else 0
    if t.ack_now or t.ack_pending_bytes >= 2 * <uint32_t>t.snd_mss:
        return True
    if t.fin_received or t.rcv_nxt == t.irs + 1:
        # No byte will come; or none came yet: the first ACK will tell the window
        return False
    # The guest waits for room: told as soon as a segment fits, or in big steps where it still has
    # some.
    if left < 2 * <uint32_t>t.snd_mss:
        return gain >= min(buffer_bytes // 2, <uint32_t>t.snd_mss)
    return left < buffer_bytes // 2 and gain >= buffer_bytes // 4


cdef bint tcp_output(Ctx *c, Flow *flow) noexcept nogil:
    """Send whatever is due. True when new bytes went out, so that there may be room for more."""
    cdef TcpConn *t = &flow.body.tcp
    cdef bint sent = False
    cdef uint32_t mss = tcp_payload_mss(t)
    if t.state == TCP_SYN_SENT or t.state == TCP_SYN_RCVD:
        if t.ack_now and t.state == TCP_SYN_RCVD and t.snd_nxt != t.iss:
            tcp_send_ack(c, flow)                       # behind our SYN-ACK only: before, silence
        return False
    while send_lost(c, flow, mss):
        pass
    if t.state == TCP_ESTABLISHED or t.state == TCP_CLOSE_WAIT:
        while send_new(c, flow, mss):
            sent = True
            if t.fin_sent:
                break
    if t.rto_due_us == 0 and t.persist_due_us == 0 and tcp_unsent(flow) and t.snd_nxt == t.snd_una:
        # RFC 9293 3.8.6.1: the window is shut and nothing will open it for us
        t.persist_due_us = c.now_us + t.rto_us
    if ack_is_due(c, flow):
        tcp_send_ack(c, flow)
    return sent


# ---- single segments ---------------------------------------------------------------------------

cdef void tcp_send_ack(Ctx *c, Flow *flow) noexcept nogil:
    cdef TcpConn *t = &flow.body.tcp
    send_segment(c, flow, t.snd_nxt, 0, 0, 0)


cdef bint tcp_send_override(Ctx *c, Flow *flow) noexcept nogil:
    """RFC 9293 3.8.6.2.1 (4): the window is small, not shut, and has been so for long: use it."""
    cdef TcpConn *t = &flow.body.tcp
    cdef uint32_t n = min(min(tcp_unsent(flow), tcp_send_room(flow)), tcp_payload_mss(t))
    if n == 0 or send_segment(c, flow, t.snd_nxt, n, TCP_PSH, n) < 0:
        return False
    start_timers(c, t)
    t.snd_nxt += n
    return True


cdef void tcp_send_probe(Ctx *c, Flow *flow, bint keepalive) noexcept nogil:
    """A window probe: one new byte beyond the window (RFC 9293 3.8.6.1); or a keep-alive: an old
    number (RFC 1122 4.2.3.6).
    """
    cdef TcpConn *t = &flow.body.tcp
    if keepalive:
        send_segment(c, flow, t.snd_una - 1, 0, 0, 0)
        return
    if t.snd_nxt != t.snd_una:                          # the byte is out already: the same again
        send_segment(c, flow, t.snd_una, 1, TCP_PSH, 1)
    elif send_segment(c, flow, t.snd_nxt, 1, TCP_PSH, 1) == 0:
        t.snd_nxt += 1


cdef void tcp_challenge_ack(Ctx *c, Flow *flow) noexcept nogil:
    """RFC 5961: answer what may be forged with what only the true peer can use; at a bounded rate
    (section 7).
    """
    cdef TcpConn *t = &flow.body.tcp
    if (not rate_allows(&t.challenge_limit, c.now_us, CHALLENGE_ACK_CONN_EVERY_US,
                        CHALLENGE_ACKS_CONN_BURST)
            or not rate_allows(&c.challenge_limit, c.now_us, CHALLENGE_ACK_EVERY_US,
                               CHALLENGE_ACKS_BURST)):
        stats_count(&c.stats, CTR_TCP_CHALLENGE_LIMITED)
        return
    stats_count(&c.stats, CTR_TCP_CHALLENGE_ACKS)
    tcp_send_ack(c, flow)


cdef void tcp_init_sequence(Ctx *c, Flow *flow) noexcept nogil:
    """ISN = M + F(addresses, ports, secret), M a clock of 4 us (RFC 6528 3); the time-stamp's
    offset alike (RFC 7323 5.4).
    """
    cdef TcpConn *t = &flow.body.tcp
    cdef uint64_t h = siphash_words(&c.secret, <const uint64_t *>&flow.key, sizeof(FlowKey) // 8)
    t.iss = <uint32_t>h + <uint32_t>(c.now_us // 4)
    t.ts_offset = <uint32_t>(h >> 32)
    t.snd_una = t.iss
    t.snd_nxt = t.iss
    t.recover = t.iss
    t.rexmit_nxt = t.iss
    t.rexmit_end = t.iss


cdef void tcp_send_syn(Ctx *c, Flow *flow) noexcept nogil:
    """SYN in SYN-SENT, SYN and ACK in SYN-RECEIVED: first or again. Its window is not scaled (RFC
    7323 2.2).
    """
    cdef TcpConn *t = &flow.body.tcp
    cdef uint8_t buf[HEADROOM_BYTES]
    cdef OutFrame out
    cdef SegmentOptions options
    cdef bint passive = t.state == TCP_SYN_RCVD
    cdef uint32_t window = min(c.conf.tcp_buffer_bytes, <uint32_t>0xFFFF)
    out_init(&out, flow, buf)
    memset(&options, 0, sizeof(SegmentOptions))
    options.mss = <uint16_t>(c.conf.mtu - ip_hlen(&out.dst) - TCP_HLEN)  # RFC 6691: without
                                                                        # options
    options.sack_permitted = t.sack_ok
    options.has_ts = t.ts_ok
    options.ts_val = tcp_clock_ts(c, t)
    options.ts_ecr = t.ts_recent if passive else 0
    options.wscale = t.rcv_wind_shift if t.rcv_wind_shift else -1
    out.l4_bytes = segment_build(out.l4, flow.key.dest_port, flow.key.guest_port, t.iss, t.rcv_nxt
                                 if passive else 0,
                                 TCP_SYN | TCP_ACK if passive else TCP_SYN, <uint16_t>window,
                                 &options)
    ip_output(c, &out)
    if passive:
        acked_now(t)
        if seq_lt(t.rcv_adv, t.rcv_nxt + window):
            t.rcv_adv = t.rcv_nxt + window
    t.snd_nxt = t.iss + 1
    if t.rto_due_us == 0:
        t.rto_due_us = c.now_us + t.rto_us


cdef void send_bare_rst(Ctx *c, OutFrame *out, uint16_t src_port, uint16_t dst_port, seq_t seq,
                        seq_t ack,
                        uint8_t flags) noexcept nogil:
    cdef SegmentOptions options
    memset(&options, 0, sizeof(SegmentOptions))
    options.wscale = -1
    out.l4_bytes = segment_build(out.l4, src_port, dst_port, seq, ack, TCP_RST | flags, 0, &options)
    ip_output(c, out)
    stats_count(&c.stats, CTR_TCP_RESETS_SENT)


cdef void tcp_send_rst(Ctx *c, Flow *flow) noexcept nogil:
    """Tell the guest that its connection is over; where it is already, a RST could only hit the
    next one.
    """
    cdef TcpConn *t = &flow.body.tcp
    cdef uint8_t buf[HEADROOM_BYTES]
    cdef OutFrame out
    cdef seq_t seq = t.snd_nxt
    if t.hashed_out or t.state == TCP_TIME_WAIT:
        return
    out_init(&out, flow, buf)
    # Our SYN never left: as to a closed port (RFC 9293 3.10.7.1)
    if t.state == TCP_SYN_RCVD and t.snd_nxt == t.iss:
        send_bare_rst(c, &out, flow.key.dest_port, flow.key.guest_port, 0,
                      t.rcv_nxt + t.syn_text, TCP_ACK)
        return
    # Believed only at the guest's RCV.NXT (RFC 5961 3.2): what went beyond its window, a probe, it
    # did not take.
    if (seq_gt(seq, t.snd_una + t.snd_wnd) and not t.fin_sent
            and t.state != TCP_SYN_SENT and t.state != TCP_SYN_RCVD):
        seq = t.snd_una + t.snd_wnd
    send_bare_rst(c, &out, flow.key.dest_port, flow.key.guest_port, seq, t.rcv_nxt, TCP_ACK)


cdef void tcp_send_rst_for(Ctx *c, const Segment *seg) noexcept nogil:
    """RFC 9293 3.5.2 and 3.10.7.1: the reset that a segment to no connection calls for. None
    answers a RST.
    """
    cdef uint8_t buf[HEADROOM_BYTES]
    cdef OutFrame out
    cdef uint32_t length = seg.seg_len
    if seg.flags & TCP_RST:
        return
    memset(&out, 0, sizeof(OutFrame))
    out.src = seg.ip.dst
    out.dst = seg.ip.src
    out.proto = IP_PROTO_TCP
    out.guest_mac = c.frame_mac
    out.l4 = buf + HEADROOM_BYTES - TCP_HLEN - TCP_OPTIONS_MAX
    out.csum_offset = TCP_CSUM_OFFSET
    if seg.flags & TCP_ACK:
        send_bare_rst(c, &out, seg.dst_port, seg.src_port, seg.seg_ack, 0, 0)
        return
    length += (1 if seg.flags & TCP_SYN else 0) + (1 if seg.flags & TCP_FIN else 0)
    send_bare_rst(c, &out, seg.dst_port, seg.src_port, 0, seg.seg_seq + length, TCP_ACK)
