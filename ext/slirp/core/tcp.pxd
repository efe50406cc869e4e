# cython: language_level=3
"""Our TCP: what it is, its states, and the joint rules of its two sides.

Every connection of the guest ends here (RFC 9293) and goes on as a socket of the host. Two small
machines, one per side, and a table of what they do to each other; the machines meet in
`tcp_service` (tcp_out.pyx), which runs once for every connection that a batch of events touched.

Guest side: the states of RFC 9293 figure 5, written only by `tcp_set_state`, which holds each move
against TCP_EDGES. Differences from the book:
  * SYN-RECEIVED begins when the guest's SYN starts a connect() on the host; our SYN-ACK leaves only
    when that has succeeded ("connect before
    SYN-ACK"): a refused port is refused, an unreachable host is reported by ICMP, and silence stays
    silence.
  * CLOSED is the state of a connection whose guest side is over while the host's socket still takes
    what the guest was told we have.
Host side: HOST_CONNECTING, HOST_OPEN, HOST_CLOSED, with three facts beside: `eof_seen` (the host's
peer has closed), `wr_shut` (we have closed towards it), and the edge-triggered readiness
`readable`, `writable`.

    event                        state it meets            what follows
    ---------------------------  ------------------------  ---------------------------------------
    guest SYN                    none                      connect(); SYN-RECEIVED
    host connected               SYN-RECEIVED              SYN-ACK
    host refused                 SYN-RECEIVED              RST
    host unreachable             SYN-RECEIVED              ICMP unreachable of the matching code
    host connect timed out       SYN-RECEIVED              silence; the flow ends
    host client accepted         none (port forward)       SYN to the guest; SYN-SENT
    guest FIN                    ESTABLISHED, FIN-WAIT-x   shutdown(WR) once the socket took all
    host EOF                     ESTABLISHED, CLOSE-WAIT   FIN behind the last byte read
    host reset or error          any with a host socket    RST to the guest; the flow ends
    guest RST (RFC 5961)         any                       the host's socket is closed with RST
    guest gone (R2, keep-alive)  any                       as guest RST, and RST to the guest
    both FINs seen and acked     TIME-WAIT or CLOSED       host socket closed once drained
    guest SYN, newer             TIME-WAIT, CLOSING,       the old flow steps aside at once
                                 LAST-ACK, CLOSED          (RFC 9293 3.6.1, RFC 6191)

Towards the guest there is no network, only a queue in memory. Hence these are done more simply than
between hosts:
  * cwnd starts at the guest's whole window; only a loss (a full backlog in the guest) brings slow
    start and congestion avoidance into play (RFC 5681, 6582, 6675 for what is then retransmitted
    and when).
  * There is no Nagle algorithm (RFC 9293 3.7.4 is a SHOULD): the host's peer has had its own, and
    a small segment more costs nobody's line.
  * Keep-alive is on (RFC 1122 4.2.3.6 has it off): who would turn it on is on the host's side, and
    a guest that was killed says no word.
  * RTO has a floor of 200 ms, not 1 s (RFC 6298 2.4 is a SHOULD; the reason for it, spurious
    time-outs over slow paths, is absent).
  * TIME-WAIT lasts TCP_TIME_WAIT_US: no segment can be older than the queue that holds it.
"""
from libc.stdint cimport uint8_t, uint32_t

from .conn cimport Flow, FlowKey, TcpConn
from .ctx cimport Ctx


cdef enum TcpState:
    TCP_CLOSED = 0
    TCP_SYN_SENT
    TCP_SYN_RCVD
    TCP_ESTABLISHED
    TCP_FIN_WAIT_1
    TCP_FIN_WAIT_2
    TCP_CLOSE_WAIT
    TCP_CLOSING
    TCP_LAST_ACK
    TCP_TIME_WAIT


cdef enum HostState:
    HOST_CONNECTING = 0
    HOST_OPEN
    HOST_CLOSED


cdef enum:
    TCP_FIN = 0x01
    TCP_SYN = 0x02
    TCP_RST = 0x04
    TCP_PSH = 0x08
    TCP_ACK = 0x10
    TCP_URG = 0x20
    TCP_ECE = 0x40
    TCP_CWR = 0x80

    TCP_MSS_DEFAULT = 536                   # RFC 9293 3.7.1, IPv4
    TCP_MSS_DEFAULT6 = 1220                 # and IPv6
    TCP_MSS_MIN = 48                        # a smaller one is taken for this: nobody makes us send
                                            # a header per byte
    TCP_WSCALE_MAX = 14                     # RFC 7323 2.3
    TCP_SACK_BLOCKS = 4                     # in one segment (RFC 2018 3)
    TCP_HOLES_MAX = 32                      # ranges kept out of order, and ranges the guest may
                                            # have SACKed
    TCP_DUP_THRESH = 3                      # RFC 5681 3.2

    TCP_RTO_INITIAL_US = 1000000            # RFC 6298 2.1
    TCP_RTO_UNTIMED_US = 3000000            # RFC 6298 5.7: the SYN was repeated, and not timed
    TCP_RTO_MIN_US = 200000
    TCP_RTO_MAX_US = 60000000               # RFC 6298 2.5
    TCP_RETRIES_SYN = 6                     # R2 for SYN: about two minutes (RFC 1122 4.2.3.5 asks
                                            # for three for SYN; the link is local)
    TCP_RETRY_US = 10000                    # means were out (memory): try again then
    TCP_RETRIES_MAX = 10                    # R2: over 100 s in all (RFC 1122 4.2.3.5)
    TCP_DELACK_US = 10000                   # RFC 1122 4.2.3.2: below 500 ms
    TCP_CWND_OPEN = 0x7FFFFFFF              # no loss seen: the guest's window alone bounds us
    TCP_GSO_MAX_BYTES = 65535 - 60          # of one unsegmented frame: IP header and payload
    TCP_CONNECT_TIMEOUT_US = 130000000      # as long as the host's own connect() tries
    TCP_HANDSHAKE_TIMEOUT_US = 75000000     # our SYN-ACK waits for its ACK so long at most
    TCP_TIME_WAIT_US = 10000000
    TCP_LINGER_US = 600000000               # the host's peer may take so long to read what the
                                            # guest left behind
    TCP_KEEPALIVE_INTERVAL_US = 75000000
    TCP_KEEPALIVE_PROBES = 9
    TCP_KEEPALIVE_IDLE_S = 7200             # RFC 1122 4.2.3.6: two hours
    TCP_PAWS_IDLE_S = 24 * 24 * 3600        # RFC 7323 5.5: ts_recent is invalid after 24 days


cdef inline uint32_t tcp_edges(int state) noexcept nogil:
    """The states that may follow, a bit each (RFC 9293 figure 5; every state may end in CLOSED)."""
    if state == TCP_CLOSED:
        return 1 << TCP_SYN_SENT | 1 << TCP_SYN_RCVD
    if state == TCP_SYN_SENT:
        return 1 << TCP_ESTABLISHED | 1 << TCP_SYN_RCVD
    if state == TCP_SYN_RCVD:
        return 1 << TCP_ESTABLISHED | 1 << TCP_FIN_WAIT_1 | 1 << TCP_CLOSE_WAIT
    if state == TCP_ESTABLISHED:
        return 1 << TCP_FIN_WAIT_1 | 1 << TCP_CLOSE_WAIT
    if state == TCP_FIN_WAIT_1:
        return 1 << TCP_FIN_WAIT_2 | 1 << TCP_CLOSING | 1 << TCP_TIME_WAIT
    if state == TCP_FIN_WAIT_2 or state == TCP_CLOSING:
        return 1 << TCP_TIME_WAIT
    if state == TCP_CLOSE_WAIT:
        return 1 << TCP_LAST_ACK
    return 0


cdef inline uint8_t tcp_window_shift(uint32_t buffer_bytes) noexcept nogil:
    """The scale that lets the window field say `buffer_bytes` (RFC 7323 2.3)."""
    cdef uint8_t shift = 0
    while shift < TCP_WSCALE_MAX and (<uint32_t>0xFFFF << shift) < buffer_bytes:
        shift += 1
    return shift


cdef void tcp_set_state(Ctx *c, Flow *flow, TcpState state) noexcept nogil
cdef void tcp_close_host(Ctx *c, Flow *flow, bint reset_host) noexcept nogil
cdef void tcp_end(Ctx *c, Flow *flow, bint reset_host) noexcept nogil
cdef bint tcp_shed_half_open(Ctx *c) noexcept nogil
cdef void tcp_unhash(Ctx *c, Flow *flow) noexcept nogil
cdef void tcp_free(Ctx *c, Flow *flow) noexcept nogil
cdef Flow *tcp_alloc(Ctx *c, const FlowKey *key) noexcept nogil
cdef void tcp_retry_later(Ctx *c, TcpConn *t) noexcept nogil
cdef bint tcp_is_passing(int error) noexcept nogil
