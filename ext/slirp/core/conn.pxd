# cython: language_level=3
"""All state of a flow: no code here. A flow is a TCP connection, a UDP mapping or a ping exchange
of the guest.

Flows live in slabs (flow.pyx) and are named from outside by a handle, index and generation, so that
a late event of the host finds "not you" instead of freed memory. Each field has one writer, named
with its group.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .blocks cimport ByteQueue
from .rate cimport RateLimit
from .seq cimport seq_t
from .timers cimport TimerNode
from .wire cimport Addr, usec_t


cdef enum FlowKind:
    FLOW_FREE = 0
    FLOW_TCP
    FLOW_UDP            # a guest's port towards the world: one socket for every destination (RFC
                        # 4787 4.1)
    FLOW_UDP_PEER       # a guest's port and one peer: the host's loopback
    FLOW_UDP_FORWARD    # a client of a forwarded UDP port; the socket is the forward's
    FLOW_PING
    FLOW_DNS            # a query for the DNS address, and the name servers it was put to


cdef struct FlowKey:        # hashed as five words: no padding, all bytes set
    Addr guest_addr
    Addr dest_addr          # what the guest wrote; zero for FLOW_UDP
    uint16_t guest_port     # ping: the identifier
    uint16_t dest_port      # FLOW_DNS: the identifier
    uint8_t proto
    uint8_t is_query          # FLOW_DNS
    uint8_t zero[2]


cdef struct Range:          # of sequence space: [start, end)
    seq_t start
    seq_t end


cdef struct RangeList:      # ordered, disjoint; allocated only while there is a hole
    uint32_t count
    Range ranges[32]        # TCP_HOLES_MAX
    uint32_t n_recent
    seq_t recent[4]         # starts of those that changed last, newest first (RFC 2018 4)


cdef struct DnsTries:           # which name servers of the host have been tried
    uint32_t generation         # of the list (Ctx.dns_generation): of another, none
    uint8_t tried               # a bit each
    uint8_t server              # the latest


cdef struct TcpConn:
    # -- states: tcp_set_state, tcp_host ---------------------------------------------------------
    uint8_t state               # TcpState
    uint8_t host_state          # HostState
    bint readable               # the host's socket may hold bytes or EOF: cleared by EAGAIN, or by
                                # a recv() that was not filled
    bint writable               # it may take bytes: cleared by EAGAIN
    bint host_ending            # what is read may be followed by the end at once (EVENT_ENDING)
    bint eof_seen               # recv() gave 0
    bint wr_shut                # shutdown(WR) done
    bint fin_received           # the guest's FIN is in order: no byte follows
    bint fin_sent               # our FIN has been sent at least once; its number is snd_fin
    bint host_error             # the host's socket may be dead: asked when nothing is to be read
    DnsTries dns                # for a connection to the DNS address
    uint8_t tos                 # of the guest's last segment, less its ECN: the host's socket's and
                                # our segments' too
    bint hashed_out             # no longer found by its key: it only drains to the host

    # -- send sequence space, RFC 9293 3.3.1: tcp_out sends, tcp_in acknowledges -----------------
    seq_t iss
    seq_t snd_una
    seq_t snd_nxt
    seq_t snd_fin               # number of our FIN, once fin_sent
    seq_t snd_wl1
    seq_t snd_wl2
    uint32_t snd_wnd            # bytes, scaled
    uint32_t max_snd_wnd        # largest ever (RFC 9293 3.8.6.2.1 and RFC 5961 5.2)
    uint8_t snd_wind_shift
    uint8_t rcv_wind_shift
    uint16_t snd_mss            # payload bytes in a segment without options (RFC 6691)

    # -- receive sequence space: tcp_recv, tcp_out -----------------------------------------------
    seq_t irs
    seq_t rcv_nxt
    seq_t rcv_adv               # right edge of the window last advertised: never moves left
    seq_t rcv_fin               # number of the guest's FIN when it came ahead of a gap
    bint rcv_fin_ahead
    uint32_t ack_pending_bytes  # received and not yet acknowledged
    bint ack_now
    bint ack_delayed            # an acknowledgement is owed at ack_due_us
    usec_t ack_due_us

    # -- options, RFC 7323 and 2018 --------------------------------------------------------------
    bint sack_ok
    bint ts_ok
    uint32_t ts_recent
    usec_t ts_recent_us         # when ts_recent was taken
    uint32_t ts_offset          # our clock's offset (RFC 7323 5.4)
    seq_t last_ack_sent
    bint dsack_due              # report `dsack`, text that came twice, with the next ACK (RFC 2883)
    Range dsack
    RateLimit challenge_limit   # RFC 5961 7
    uint32_t syn_text           # bytes of text on the guest's SYN, which were not taken

    # -- retransmission, RFC 6298, 5681, 6582, 6675: tcp_in, tcp_sack, tcp_timer -----------------
    uint32_t srtt_us            # 0: no sample yet
    uint32_t rttvar_us
    uint32_t rto_us
    usec_t rto_due_us           # 0: nothing is outstanding
    usec_t persist_due_us       # 0: the window is open or nothing waits (RFC 9293 3.8.6.1)
    uint8_t retries             # time-outs in a row without progress
    bint rtt_timing             # one segment is timed (without timestamps; Karn)
    seq_t rtt_seq
    usec_t rtt_start_us
    uint32_t cwnd
    uint32_t ssthresh
    uint32_t dupacks
    bint in_recovery
    seq_t recover               # RFC 6582 3.2
    seq_t rexmit_nxt            # [rexmit_nxt, rexmit_end) is taken for lost: next to be sent again
    seq_t rexmit_end

    # -- life ------------------------------------------------------------------------------------
    usec_t deadline_us          # SYN-RECEIVED, SYN-SENT, TIME-WAIT: when this state ends by itself;
                                # else 0
    usec_t retry_due_us         # memory was out: try again then; else 0
    uint8_t keepalive_probes    # sent since the guest was last heard

    # -- bytes: sq by tcp_host and tcp_in, rq by tcp_recv ----------------------------------------
    ByteQueue sq                # from the host, [snd_una, ...): unacknowledged, then unsent
    ByteQueue rq                # from the guest: [rcv_nxt - rq.length, rcv_nxt) not yet taken by
                                # the host, then ahead of gaps
    RangeList *ahead            # what rq holds beyond rcv_nxt
    RangeList *sacked           # what the guest holds beyond snd_una


cdef enum Cutting:              # what a flow's own socket was told last about what is too big
    CUTTING_UNSAID = 0
    CUTTING_ALLOWED
    CUTTING_FORBIDDEN


cdef struct Sent:               # the start of the guest's last datagram, for ICMP errors to quote
    uint8_t b[48]               # IP header without options, and the first 8 bytes behind it
    uint8_t header_bytes
    bint valid


cdef struct UdpFlow:
    bint replied                # a datagram came back: the longer time-out holds (RFC 4787 4.3)
    uint8_t cutting             # Cutting
    Sent sent
    Addr peer_addr              # FLOW_UDP_PEER, FLOW_UDP_FORWARD: the host's peer
    uint16_t peer_port
    Addr local_addr             # FLOW_UDP_FORWARD: the address the client wrote to; zero: any
    uint32_t forward_id


cdef struct PingFlow:
    uint8_t cutting             # Cutting
    Sent sent


cdef struct DnsFlow:
    UdpFlow udp                 # first: what UDP sends and times takes either
    DnsTries tries
    uint8_t n_asked
    uint8_t n_open              # asked, and an answer may still come
    uint8_t asked[8]            # which server, in order
    int fds[8]                  # a connected socket for each; -1: it has failed
    usec_t next_due_us          # when the next server is asked too; 0: never
    uint8_t *query              # kept for that
    uint16_t query_bytes


cdef union FlowBody:
    TcpConn tcp
    UdpFlow udp
    DnsFlow dns
    PingFlow ping


cdef struct Flow:
    TimerNode timer             # one a flow: the nearest of its deadlines, or earlier. First: a
                                # node's address is its flow's
    FlowKey key
    uint32_t index              # in the slab
    uint32_t generation
    uint64_t hash
    uint8_t kind                # FlowKind
    bint touched                # on Ctx.touched, waiting for its service
    int fd                      # the host's socket; -1: none
    Flow *touched_next
    Flow *lru_next              # the list of its class (FlowTable.lru), least recently used first
    Flow *lru_prev
    uint8_t lru_class
    uint8_t guest_mac[6]        # where the guest's frames came from
    usec_t last_us              # last heard of, either side
    FlowBody body
