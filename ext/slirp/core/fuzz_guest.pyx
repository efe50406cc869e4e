# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The fuzzer's guest: see fuzz_guest.pxd for the theory."""
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from .fuzz cimport CONNS_MAX, SOCKETS_MAX, Socket, guest_byte, next16, next32, next8, sum16
from .fuzz_host cimport fuzz_address
from .seq cimport seq_gt
from .stack cimport stack_input
from .tcp cimport TCP_ACK, TCP_FIN, TCP_SYN
from .wire cimport (
    ETH_HLEN, ETH_P_IP, ETH_P_IPV6, IP4_HLEN, IP6_HLEN, IP_PROTO_TCP, VNET_F_DATA_VALID,
    VNET_F_NEEDS_CSUM, VNET_GSO_TCPV4, VNET_GSO_TCPV6, VNET_HLEN, VnetHdr, addr_eq, addr_is4,
    load_be16, load_be32, store_be16, store_be32, vnet_build,
)

cdef enum:
    TEXT_MAX = 65535 - 20 - 60

    OPT_MSS = 1                     # of `options`: what a segment says beside its text
    OPT_WSCALE = 2
    OPT_SACK_OK = 4
    OPT_TS = 8                      # on a SYN; later: the contrary of what was agreed
    OPT_SACK = 16
    OPT_RAW = 32
    OPT_GSO = 64
    OPT_CSUM = 128                  # how the checksum is, is said


# ---- connections -------------------------------------------------------------------------------

cdef Conn *conn_find(World *w, const Addr *guest, uint16_t guest_port, const Addr *dest,
                     uint16_t dest_port) noexcept nogil:
    cdef Conn *conn
    cdef int i
    for i in range(CONNS_MAX):
        conn = &w.conns[i]
        if (conn.used and conn.guest_port == guest_port and conn.dest_port == dest_port
                and addr_eq(&conn.guest, guest) and addr_eq(&conn.dest, dest)):
            return conn
    return NULL


cdef Conn *conn_forwarded(World *w, const Addr *guest, uint16_t guest_port, const Addr *dest,
                          uint16_t dest_port) noexcept nogil:
    """A SYN of the stack's, for a client of a forward: a place of the upper half, where the guest
    will answer it from. NULL without an accept() in hand.
    """
    cdef Conn *conn
    cdef Socket *s
    cdef int at, i
    if w.accepted_fd == 0:
        return NULL
    at = CONNS_MAX // 2 + w.accepted_fd % (CONNS_MAX // 2)
    conn = &w.conns[at]
    for i in range(SOCKETS_MAX):
        s = &w.sockets[i]
        if s.kind and s.conn == at:
            s.conn = -1                     # of the place's last owner
        if s.kind and s.fd == w.accepted_fd:
            s.conn = at
    memset(conn, 0, sizeof(Conn))
    conn.used = True
    conn.by_forward = True
    conn.guest = guest[0]
    conn.dest = dest[0]
    conn.guest_port = guest_port
    conn.dest_port = dest_port
    conn.pending_fd = w.accepted_fd
    w.accepted_fd = 0
    return conn


cdef void conn_takes_syn(Conn *conn, const uint8_t *p, uint32_t hlen) noexcept nogil:
    """The stack's SYN: its number and options."""
    cdef uint32_t i = 20
    if conn.iss != load_be32(p + 4):
        conn.edge = 0
    conn.iss = load_be32(p + 4)
    conn.iss_known = True
    conn.rcv_nxt = conn.iss + 1
    conn.window = load_be16(p + 14)
    conn.ack_due = True
    conn.their_shift = 0
    conn.ts_ok = False
    while i + 1 < hlen and p[i]:
        if p[i] == 1:
            i += 1
            continue
        if p[i] == 3:
            conn.their_shift = p[i + 2]
        if p[i] == 8:
            conn.ts_ok = True
            conn.ts_recent = load_be32(p + i + 2)
        i += max(p[i + 1], <uint8_t>2)


cdef void conns_taint(World *w) noexcept nogil:
    """The guest has sent what nobody keeps account of."""
    cdef int i
    w.raw_sent = True
    for i in range(CONNS_MAX):
        w.conns[i].tainted = True


cdef Conn *conn_at(World *w, uint8_t which) noexcept nogil:
    """The connection of that number: its addresses and ports are settled when it is first used."""
    cdef Conn *conn = &w.conns[which % CONNS_MAX]
    if not conn.used:
        conn.used = True
        fuzz_address(&conn.guest, 0 if which < 64 else 16)
        fuzz_address(&conn.dest, (0 if which < 64 else 16) + 1 + (which >> 3) % 4)
        conn.guest_port = 40000 + which % CONNS_MAX
        conn.dest_port = 53 if which & 0x20 else 80
    return conn


# ---- frames ------------------------------------------------------------------------------------

cdef void guest_frame(World *w, uint32_t n) noexcept nogil:
    """The stack gets the first `n` bytes of w.frame, in a buffer of just that size."""
    cdef uint8_t *exact = <uint8_t *>malloc(n if n else 1)
    if exact == NULL:
        return
    memcpy(exact, w.frame, n)
    w.frame_bytes = n
    w.frames_in += 1
    w.may_answer += 1
    stack_input(w.c, exact, n)
    free(exact)


cdef void datum_begin(World *w, Datum *d) noexcept nogil:
    """Where the upper-layer header goes; addresses and options are known."""
    d.l4 = w.frame + VNET_HLEN + ETH_HLEN
    d.l4 += IP4_HLEN + d.n_options if addr_is4(&d.dst) else IP6_HLEN


cdef uint32_t ip_header(World *w, Datum *d, uint32_t n) noexcept nogil:
    """Write Ethernet and IP headers before `n` bytes; the pseudo-header's sum."""
    cdef uint8_t *eth = w.frame + VNET_HLEN
    cdef uint8_t *ip = eth + ETH_HLEN
    cdef uint32_t hlen = IP4_HLEN + d.n_options
    cdef uint32_t total
    memcpy(eth, w.c.conf.gateway_mac, 6)
    memcpy(eth + 6, b"\x02\x00\x00\x00\x00\x01", 6)
    if addr_is4(&d.dst):
        store_be16(eth + 12, ETH_P_IP)
        ip[0] = <uint8_t>(0x40 | hlen // 4)
        ip[1] = 0
        store_be16(ip + 2, <uint16_t>(hlen + n))
        store_be32(ip + 4, d.fragment)
        ip[8] = d.hops
        ip[9] = d.proto
        store_be16(ip + 10, 0)
        memcpy(ip + 12, &d.src.b[12], 4)
        memcpy(ip + 16, &d.dst.b[12], 4)
        store_be16(ip + 10, <uint16_t>~sum16(ip, hlen))
        total = sum16(ip + 12, 8)
    else:
        store_be16(eth + 12, ETH_P_IPV6)
        store_be32(ip, 0x60000000)
        store_be16(ip + 4, <uint16_t>n)
        ip[6] = d.proto
        ip[7] = d.hops
        memcpy(ip + 8, d.src.b, 16)
        memcpy(ip + 24, d.dst.b, 16)
        total = sum16(ip + 8, 32)
    total += d.proto + n
    return (total & 0xFFFF) + (total >> 16)


cdef void datum_send(World *w, Datum *d, uint32_t n) noexcept nogil:
    """Put headers before the `n` bytes at d.l4, and have the stack take the frame."""
    cdef uint32_t pseudo = ip_header(w, d, n)
    cdef uint8_t *field = d.l4 + d.csum_offset
    cdef uint32_t total = pseudo
    cdef VnetHdr vnet
    memset(&vnet, 0, sizeof(VnetHdr))
    pseudo = (pseudo & 0xFFFF) + (pseudo >> 16)
    if d.csum_offset and d.csum_offset + 2 <= n:
        store_be16(field, <uint16_t>pseudo)
        if d.csum == CSUM_OFFLOADED:
            vnet.flags = VNET_F_NEEDS_CSUM
            vnet.csum_start = <uint16_t>(d.l4 - w.frame) - VNET_HLEN
            vnet.csum_offset = d.csum_offset
        elif d.csum == CSUM_VOUCHED:
            vnet.flags = VNET_F_DATA_VALID
        else:
            store_be16(field, 0)
            total = sum16(d.l4, n) + (0 if d.proto == 1 else pseudo)
            total = (total & 0xFFFF) + (total >> 16)
            store_be16(field, <uint16_t>~(total + (d.csum == CSUM_WRONG)))
    vnet.gso_type = d.gso_type
    vnet.gso_size = d.gso_size
    vnet_build(w.frame, &vnet)
    guest_frame(w, <uint32_t>(d.l4 - w.frame) + n)


# ---- segments ----------------------------------------------------------------------------------

cdef seq_t segment_seq(World *w, Conn *conn, uint8_t flags, uint8_t which) noexcept nogil:
    """SEG.SEQ, three bits of it."""
    if flags & TCP_SYN:
        if which == 0 or not conn.syn_out:
            w.next_isn += 0x00200001
            conn.pending_isn = w.next_isn
            if not conn.by_forward:
                conn.pending_fd = -1
        conn.syn_out = True
        return conn.pending_isn
    if which == 1:
        return conn.snd_nxt - 1 - next8(w)
    if which == 2:
        return conn.una
    if which == 3:
        return conn.una + conn.window               # the right edge
    if which == 4:
        return conn.una + conn.window - 1 - next8(w)
    if which == 5:
        return conn.snd_nxt + 64 * <uint32_t>next8(w)
    if which == 6:
        return next32(w)
    if which == 7:
        return conn.una - 1 - 16 * <uint32_t>next8(w)
    return conn.snd_nxt


cdef seq_t segment_ack(World *w, Conn *conn, uint8_t which) noexcept nogil:
    """SEG.ACK, three bits of it."""
    if which == 1:
        return conn.rcv_nxt - 1 - next8(w)
    if which == 2:
        return conn.rcv_nxt - 16 * <uint32_t>next16(w)
    if which == 3:
        return conn.rcv_nxt + 1 + next8(w)
    if which == 4:
        return next32(w)
    if which == 5:
        return conn.iss + 1
    if which == 6:
        return conn.iss
    return conn.rcv_nxt


cdef uint32_t segment_length(World *w, uint8_t which) noexcept nogil:
    """Bytes of text, four bits of it."""
    if which == 0:
        return 0
    if which == 1:
        return 1
    if which == 2:
        return next8(w)
    if which == 3:
        return 536
    if which == 4:
        return 1460
    if which == 5:
        return 16 * <uint32_t>next8(w) + 7
    if which == 6:
        return next16(w) % TEXT_MAX
    if which == 7:
        return 60000
    return 0


cdef uint16_t segment_window(World *w, uint8_t which) noexcept nogil:
    if which == 1:
        return 0
    if which == 2:
        return next8(w)
    if which == 3:
        return next16(w)
    return 65535


cdef uint32_t segment_options(World *w, Conn *conn, uint8_t flags, uint8_t options,
                              uint8_t *p) noexcept nogil:
    """Write options at `p`, at most 40 bytes; how many, a multiple of four."""
    cdef uint32_t n = 0
    cdef uint32_t raw, i
    cdef bint syn = flags & TCP_SYN
    if syn and options & OPT_MSS:
        store_be32(p, 0x02040000 | next16(w))
        n += 4
    if syn and options & OPT_WSCALE:
        conn.our_shift = max(conn.our_shift, min(next8(w), <uint8_t>14))
        store_be32(p + n, 0x01030300 | conn.our_shift)
        n += 4
    if syn and options & OPT_SACK_OK:
        store_be32(p + n, 0x01010402)
        n += 4
    if (options & OPT_TS != 0) != (not syn and conn.ts_ok):
        store_be32(p + n, 0x0101080A)
        store_be32(p + n + 4, <uint32_t>(w.c.now_us // 1000))
        store_be32(p + n + 8, conn.ts_recent)
        n += 12
    if options & OPT_SACK and not syn:
        i = 1 + next8(w) % 3
        store_be32(p + n, 0x01010502 + 8 * i)
        n += 4
        while i:
            store_be32(p + n, conn.rcv_nxt + next16(w))
            store_be32(p + n + 4, load_be32(p + n) + next16(w))
            n += 8
            i -= 1
    if options & OPT_RAW:
        if syn:
            conn.our_shift = 14                 # a scale may be among them
        raw = min(<uint32_t>next8(w) & 0x3C, 40 - n)
        for i in range(raw):
            p[n + i] = next8(w)
        n += raw
    return n


cdef void note_sent(World *w, Conn *conn, seq_t seq, uint32_t length, uint8_t flags, seq_t ack,
                    uint16_t window) noexcept nogil:
    """Keep the furthest that was sent and offered. What is beyond all windows is not: it would let
    the numbers run away.
    """
    cdef seq_t end = seq + length + (1 if flags & TCP_FIN else 0)
    cdef seq_t edge
    if conn.open and not flags & TCP_SYN and seq_gt(end, conn.snd_nxt):
        if end - conn.snd_nxt < 1 << 24:
            conn.snd_nxt = end
    # Else nobody takes it for a window
    if flags & TCP_ACK and conn.iss_known and ack - conn.iss < 1 << 26:
        edge = ack + (<uint32_t>window << (0 if flags & TCP_SYN else conn.our_shift))
        if conn.edge == 0 or seq_gt(edge, conn.edge):
            conn.edge = edge


cdef void guest_segment(World *w, uint8_t which, uint8_t flags, uint8_t numbers,
                        uint8_t sizes, uint8_t options) noexcept nogil:
    """A segment of a connection: SEQ in the lower three bits of `numbers`, ACK in the next; the
    length in the lower four of `sizes`, the window in the next two.
    """
    cdef Conn *conn = conn_at(w, which)
    cdef seq_t seq = segment_seq(w, conn, flags, numbers & 7)
    cdef seq_t ack = segment_ack(w, conn, numbers >> 3 & 7)
    cdef uint32_t n = segment_length(w, sizes & 15)
    cdef uint16_t window = segment_window(w, sizes >> 4 & 3)
    cdef uint32_t hlen, i, offset
    cdef Datum d
    memset(&d, 0, sizeof(Datum))
    d.src = conn.guest
    d.dst = conn.dest
    d.proto = IP_PROTO_TCP
    d.hops = 64
    d.csum_offset = 16
    datum_begin(w, &d)
    hlen = 20 + segment_options(w, conn, flags, options, d.l4 + 20)
    if options & OPT_GSO:
        d.gso_type = VNET_GSO_TCPV4 if addr_is4(&d.dst) else VNET_GSO_TCPV6
        d.gso_size = next16(w)
    if options & OPT_CSUM:
        d.csum = next8(w) & 3
    store_be16(d.l4, conn.guest_port)
    store_be16(d.l4 + 2, conn.dest_port)
    store_be32(d.l4 + 4, seq)
    store_be32(d.l4 + 8, ack if flags & TCP_ACK else 0)
    d.l4[12] = <uint8_t>(hlen // 4 << 4)
    d.l4[13] = flags
    store_be16(d.l4 + 14, window)
    store_be32(d.l4 + 16, 0)
    offset = seq - (conn.isn + 1)
    for i in range(n):
        d.l4[hlen + i] = guest_byte(which % CONNS_MAX, offset + i)
    note_sent(w, conn, seq, n, flags, ack, window)
    w.conn_in_hand = which % CONNS_MAX
    datum_send(w, &d, hlen + n)
    w.conn_in_hand = -1


cdef void guest_acks(World *w) noexcept nogil:
    """Acknowledge all that came in order."""
    cdef int i
    for i in range(CONNS_MAX):
        if w.conns[i].ack_due and w.conns[i].open:
            w.conns[i].ack_due = False
            guest_segment(w, <uint8_t>i, TCP_ACK, 0, 0, 0)
