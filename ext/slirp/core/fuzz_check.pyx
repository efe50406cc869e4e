# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The fuzzer's judge: see fuzz_check.pxd for the theory."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from .flow cimport LRU_HALF_OPEN, LRU_PING, LRU_UDP, SLAB_FLOWS
from .fuzz cimport CALL_LINK_SEND, SOCKETS_MAX, Conn, Socket, broken, host_byte, sum16
from .fuzz_guest cimport conn_find, conn_forwarded, conn_takes_syn
from .linux cimport EAGAIN, EINPROGRESS
from .seq cimport seq_gt, seq_le, seq_t
from .stats cimport CTR_FRAMES_FROM_GUEST, DROP_COUNT
from .tcp cimport TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN
from .wire cimport (
    ETH_HLEN, ETH_P_ARP, ETH_P_IP, ETH_P_IPV6, IP4_HLEN, IP6_HLEN, IP_PROTO_ICMP, IP_PROTO_TCP,
    IP_PROTO_UDP, VNET_F_NEEDS_CSUM, VNET_GSO_NONE, VNET_GSO_TCPV4, VNET_GSO_TCPV6,
    VNET_GSO_UDP_L4, VNET_HLEN, Addr, VnetHdr, addr_eq, addr_set4, load_be16, load_be32, vnet_parse,
)

cdef enum:
    IP_PROTO_ICMPV6_ = 58
    IP_PROTO_FRAGMENT_ = 44


cdef struct Packet:                 # a frame of the stack's, taken apart
    VnetHdr vnet
    Addr src
    Addr dst
    uint8_t proto
    bint fragment                   # of a datagram; the first of them
    bint first
    const uint8_t *ip
    const uint8_t *l4
    uint32_t l4_bytes


cdef uint32_t fold(uint32_t total) noexcept nogil:
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


# ---- frames ------------------------------------------------------------------------------------

cdef bint take_ip(World *w, const uint8_t *p, uint32_t n, Packet *packet) noexcept nogil:
    """Take an IP header apart; False when it is not one."""
    if n >= IP4_HLEN and p[0] == 0x45:
        if load_be16(p + 2) != n or sum16(p, IP4_HLEN) != 0xFFFF or p[8] == 0:
            broken(w, "an IPv4 header's length, checksum or life is wrong")
        addr_set4(&packet.src, p + 12)
        addr_set4(&packet.dst, p + 16)
        packet.proto = p[9]
        packet.l4 = p + IP4_HLEN
        packet.l4_bytes = n - IP4_HLEN
        packet.fragment = load_be16(p + 6) & 0x3FFF != 0
        packet.first = load_be16(p + 6) & 0x1FFF == 0
    elif n >= IP6_HLEN and p[0] >> 4 == 6:
        if load_be16(p + 4) != n - IP6_HLEN or p[7] == 0:
            broken(w, "an IPv6 header's length or life is wrong")
        memcpy(packet.src.b, p + 8, 16)
        memcpy(packet.dst.b, p + 24, 16)
        packet.proto = p[6]
        packet.l4 = p + IP6_HLEN
        packet.l4_bytes = n - IP6_HLEN
        if p[6] == IP_PROTO_FRAGMENT_ and n >= IP6_HLEN + 8:
            packet.fragment = True
            packet.first = load_be16(p + 42) >> 3 == 0
            packet.proto = p[40]
    else:
        broken(w, "neither IPv4 nor IPv6")
        return False
    packet.ip = p
    return True


cdef uint32_t pseudo_sum(const Packet *packet) noexcept nogil:
    """Of the pseudo-header (RFC 9293 3.1, RFC 8200 8.1)."""
    cdef uint32_t start = 12 if packet.ip[0] >> 4 == 4 else 8
    cdef uint32_t n = 8 if packet.ip[0] >> 4 == 4 else 32
    return fold(sum16(packet.ip + start, n) + packet.proto + packet.l4_bytes)


cdef void check_checksum(World *w, const Packet *packet, uint32_t field) noexcept nogil:
    """The upper layer's, whole or left to the guest's kernel (virtio 1.2, 5.1.6.2)."""
    cdef uint32_t partial = pseudo_sum(packet)
    cdef uint32_t start = <uint32_t>(packet.l4 - packet.ip) + ETH_HLEN
    if packet.vnet.flags & VNET_F_NEEDS_CSUM:
        if (packet.vnet.csum_start != start or packet.vnet.csum_offset != field
                or load_be16(packet.l4 + field) != partial):
            broken(w, "what is said of an unfinished checksum is wrong")
    elif fold(sum16(packet.l4, packet.l4_bytes) + partial) != 0xFFFF:
        broken(w, "a checksum is wrong")


cdef void check_train(World *w, const Packet *packet) noexcept nogil:
    """Within the MTU, or a train whose segments are; pieces of UDP are as long as they came."""
    cdef uint32_t headers = <uint32_t>(packet.l4 - packet.ip)
    cdef uint8_t gso = packet.vnet.gso_type
    if packet.proto == IP_PROTO_TCP:
        headers += (packet.l4[12] >> 4) * 4
    else:
        headers += 8
    if gso == VNET_GSO_NONE:
        if packet.l4 - packet.ip + packet.l4_bytes > w.c.conf.mtu:
            broken(w, "a datagram over the MTU")
        return
    if not (packet.proto == IP_PROTO_TCP and (gso == VNET_GSO_TCPV4 or gso == VNET_GSO_TCPV6)
            or packet.proto == IP_PROTO_UDP and gso == VNET_GSO_UDP_L4):
        broken(w, "a train of the wrong kind")
    if not packet.vnet.flags & VNET_F_NEEDS_CSUM:
        broken(w, "a train with finished checksums")
    if packet.proto == IP_PROTO_TCP and headers + packet.vnet.gso_size > w.c.conf.mtu:
        broken(w, "a train of segments over the MTU")
    if packet.vnet.gso_size == 0 or (
            packet.l4 - packet.ip + packet.l4_bytes - headers <= packet.vnet.gso_size):
        broken(w, "a train of one")


cdef void check_addresses(World *w, const Packet *packet) noexcept nogil:
    """Frames are for somebody in the guest, and never from him."""
    cdef uint32_t dst4 = load_be32(&packet.dst.b[12])
    if packet.ip[0] >> 4 == 4:
        if (addr_eq(&packet.dst, &w.c.conf.gateway4) or addr_eq(&packet.dst, &w.c.conf.dns4)
                or dst4 >> 24 == 127 or dst4 >> 28 >= 14 or dst4 == 0):
            broken(w, "a datagram to nobody in the guest")
    elif packet.dst.w[0] == 0 and packet.dst.w[1] == 0:
        broken(w, "a datagram to nobody in the guest")


cdef void check_frame(World *w, uint32_t n) noexcept nogil:
    """Take the frame in w.out apart and judge it."""
    cdef const uint8_t *eth = w.out + VNET_HLEN
    cdef uint16_t ethertype
    cdef Packet packet
    memset(&packet, 0, sizeof(Packet))
    if n < VNET_HLEN + ETH_HLEN:
        broken(w, "a frame without an Ethernet header")
        return
    vnet_parse(&packet.vnet, w.out)
    ethertype = load_be16(eth + 12)
    if memcmp(eth + 6, w.c.conf.gateway_mac, 6) != 0:
        broken(w, "a frame from somebody else's hardware address")
    if ethertype == ETH_P_ARP:
        answer_caused(w)
        return
    if ethertype != ETH_P_IP and ethertype != ETH_P_IPV6:
        broken(w, "a frame of an unknown type")
        return
    if not take_ip(w, eth + ETH_HLEN, n - VNET_HLEN - ETH_HLEN, &packet):
        return
    check_addresses(w, &packet)
    if packet.fragment:
        if packet.vnet.flags or packet.vnet.gso_type or packet.proto == IP_PROTO_TCP:
            broken(w, "a fragment of a segment, or with promises of the link's")
        if packet.l4 - packet.ip + packet.l4_bytes > w.c.conf.mtu:
            broken(w, "a fragment over the MTU")
        if packet.first:
            answer_caused(w)
    elif packet.proto == IP_PROTO_TCP and packet.l4_bytes >= 20:
        check_train(w, &packet)
        check_checksum(w, &packet, 16)
        check_segment(w, &packet)
    elif packet.proto == IP_PROTO_UDP and packet.l4_bytes >= 8:
        check_train(w, &packet)
        if load_be16(packet.l4 + 6) == 0 or load_be16(packet.l4 + 4) != packet.l4_bytes:
            broken(w, "a UDP length is wrong or a checksum missing")
        check_checksum(w, &packet, 6)
        if w.may_deliver == 0:
            broken(w, "a datagram that nobody sent")
        w.may_deliver -= w.may_deliver != 0
    elif packet.proto == IP_PROTO_ICMP and packet.l4_bytes >= 8:
        if sum16(packet.l4, packet.l4_bytes) != 0xFFFF:
            broken(w, "an ICMP checksum is wrong")
        answer_caused(w)
    elif packet.proto == IP_PROTO_ICMPV6_ and packet.l4_bytes >= 4:
        check_checksum(w, &packet, 2)
    else:
        broken(w, "a datagram of an unknown protocol, or cut short")


cdef void answer_caused(World *w) noexcept nogil:
    """An ARP or ICMP message: something has asked for it."""
    if w.may_answer == 0 and w.may_deliver == 0:
        broken(w, "an answer without its cause")
    elif w.may_answer:
        w.may_answer -= 1
    else:
        w.may_deliver -= 1


cdef int world_link_send(void *impl, const iovec *iov, int n) noexcept nogil:
    """LinkOps.send: a frame for the guest, or a link that refuses it."""
    cdef World *w = <World *>impl
    cdef uint32_t total = 0
    cdef int i
    if w.fault_count[<int>CALL_LINK_SEND]:
        w.fault_count[<int>CALL_LINK_SEND] -= 1
        w.accepted_fd = 0                       # whose SYN it may have been
        return -w.fault_errno[<int>CALL_LINK_SEND]
    for i in range(n):
        if total + iov[i].iov_len > sizeof(w.out):
            broken(w, "a frame over 64 KiB")
            return -EAGAIN
        memcpy(w.out + total, iov[i].iov_base, iov[i].iov_len)
        total += <uint32_t>iov[i].iov_len
    for i in range(min(<int>total, 96)):
        w.digest = (w.digest ^ w.out[i]) * <uint64_t>0x100000001B3      # FNV-1a
    check_frame(w, total)
    return 0


# ---- segments ----------------------------------------------------------------------------------

cdef void check_segment(World *w, const Packet *packet) noexcept nogil:
    """A segment, held against what its connection's guest knows; then he takes it."""
    cdef const uint8_t *p = packet.l4
    cdef uint32_t hlen = (p[12] >> 4) * 4
    cdef uint8_t flags = p[13]
    cdef Conn *conn
    if hlen < 20 or hlen > packet.l4_bytes:
        broken(w, "a TCP header's length is wrong")
        return
    if flags & TCP_SYN and packet.l4_bytes > hlen:
        broken(w, "text on a SYN")
    conn = conn_find(w, &packet.dst, load_be16(p + 2), &packet.src, load_be16(p))
    if (flags & (TCP_SYN | TCP_ACK) == TCP_SYN
            and (conn == NULL or w.accepted_fd and conn.iss != load_be32(p + 4))):
        if conn != NULL:
            conn.used = False                   # another client, from where one came before
        conn = conn_forwarded(w, &packet.dst, load_be16(p + 2), &packet.src, load_be16(p))
    if conn == NULL or flags & TCP_RST:
        return
    if flags & TCP_ACK:
        check_ack(w, conn, p)
    if flags & TCP_SYN:
        conn_takes_syn(conn, p, hlen)
    elif conn.open and conn.iss_known:
        check_text(w, conn, p, p + hlen, packet.l4_bytes - hlen)


cdef void check_ack(World *w, Conn *conn, const uint8_t *p) noexcept nogil:
    """SEG.ACK: of something that was sent; and the first of all only when the host has connected.
    """
    cdef seq_t ack = load_be32(p + 8)
    cdef uint8_t flags = p[13]
    cdef Socket *s
    cdef int i
    if conn.syn_out and ack == conn.pending_isn + 1:
        conn.syn_out = False
        conn.open = True
        conn.iss_known = False
        conn.isn = conn.pending_isn
        conn.una = ack
        conn.snd_nxt = ack
        conn.fd = conn.pending_fd
        conn.tainted = w.raw_sent
        if not conn.by_forward:
            conn.edge = 0
        for i in range(SOCKETS_MAX):
            s = &w.sockets[i]
            if (flags & TCP_SYN and s.kind and s.fd == conn.fd
                    and s.connect_result == -EINPROGRESS):
                broken(w, "a SYN-ACK before the host has connected")
    elif flags & TCP_SYN and ack != conn.isn + 1:
        conn.tainted = True             # of a SYN whose number is not kept any more
        return
    if not conn.open or conn.tainted:
        return
    if seq_gt(ack, conn.snd_nxt):
        if conn.syn_out:
            conn.tainted = True         # of another SYN before it, whose answer was lost
            return
        broken(w, "acknowledges what was never sent")
    if seq_gt(ack, conn.una):
        conn.una = ack


cdef void check_text(World *w, Conn *conn, const uint8_t *p, const uint8_t *text,
                     uint32_t n) noexcept nogil:
    """Text and FIN: the host's bytes, inside the window or one byte beyond it."""
    cdef seq_t seq = load_be32(p + 4)
    cdef uint32_t offset = seq - (conn.iss + 1)
    cdef uint32_t length = n + (1 if p[13] & TCP_FIN else 0)
    cdef uint32_t i
    for i in range(n):
        if text[i] != host_byte(offset + i):
            broken(w, "the guest was sent what the host had not")
            break
    if n and conn.edge and not conn.tainted and seq_gt(seq + n, conn.edge + 1):
        broken(w, "text beyond the guest's window")
    if length:
        conn.ack_due = True
    if seq_le(seq, conn.rcv_nxt) and seq_gt(seq + length, conn.rcv_nxt):
        conn.rcv_nxt = seq + length
    conn.window = <uint32_t>load_be16(p + 14) << conn.their_shift
    if conn.ts_ok and (p[12] >> 4) >= 8 and p[20] == 1 and p[22] == 8:
        conn.ts_recent = load_be32(p + 24)


# ---- accounts ----------------------------------------------------------------------------------

cdef void check_accounts(World *w) noexcept nogil:
    """Bounds hold, and each frame has ended in one counter."""
    cdef uint64_t ended = 0
    cdef int i
    for i in range(DROP_COUNT):
        ended += w.c.stats.drops[i]
    if ended != w.frames_in or w.c.stats.counters[<int>CTR_FRAMES_FROM_GUEST] != w.frames_in:
        broken(w, "a frame has not ended in one counter")
    if w.c.flows.n_flows > (w.c.flows.max_flows + SLAB_FLOWS - 1) // SLAB_FLOWS * SLAB_FLOWS:
        broken(w, "more flows than may be")
    if w.c.flows.lru[<int>LRU_HALF_OPEN].count > w.c.conf.max_half_open:
        broken(w, "more half-open connections than may be")
    if w.c.flows.lru[<int>LRU_UDP].count > w.c.conf.max_udp_flows:
        broken(w, "more UDP flows than may be")
    if w.c.flows.lru[<int>LRU_PING].count > w.c.conf.max_ping_flows:
        broken(w, "more ping flows than may be")
    w.peak_flows = max(w.peak_flows, w.c.flows.n_flows)
    w.peak_slabs = max(w.peak_slabs, w.c.flows.n_slabs)
    w.peak_blocks = max(w.peak_blocks, w.c.pool.used_blocks)
    if w.c.pool.used_blocks > w.c.pool.limit_blocks:
        broken(w, "more memory than may be")
