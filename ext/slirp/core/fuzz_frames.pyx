# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Frames of the fuzzer's guest: see fuzz_frames.pxd for the theory."""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memset

from .fuzz cimport CONNS_MAX, Conn, next16, next32, next8
from .fuzz_guest cimport CSUM_WHOLE, Datum, conns_taint, datum_begin, datum_send, guest_frame
from .fuzz_host cimport fuzz_address
from .wire cimport (
    ETH_HLEN, ETH_P_ARP, IP_PROTO_ICMP, IP_PROTO_TCP, IP_PROTO_UDP, VNET_GSO_UDP_L4, VNET_HLEN,
    Addr, addr_is4, store_be16, store_be32,
)


cdef void op_raw(World *w) noexcept nogil:
    """A frame byte by byte."""
    cdef uint32_t n = min(<uint32_t>next16(w) & 0x07FF, w.left)
    cdef uint32_t i
    for i in range(n):
        w.frame[i] = next8(w)
    conns_taint(w)
    guest_frame(w, n)


cdef void op_mutate(World *w) noexcept nogil:
    """The last frame again, with a byte changed and perhaps cut short."""
    cdef uint32_t n = w.frame_bytes
    cdef uint32_t at = next16(w)
    cdef uint8_t with_ = next8(w)
    cdef uint16_t cut = next16(w)
    conns_taint(w)
    if n:
        w.frame[at % min(n, <uint32_t>120)] ^= with_
    if cut & 0x8000:
        n = min(n, <uint32_t>cut & 0x7FFF)
    guest_frame(w, n)


cdef void datum_between(Datum *d, uint8_t ends, uint8_t proto, uint8_t hops) noexcept nogil:
    """From one fuzz_address (three bits, IPv6 by the fourth) to another."""
    cdef uint8_t family = 16 if ends & 0x80 else 0
    memset(d, 0, sizeof(Datum))
    fuzz_address(&d.src, family + (0 if ends & 0x40 == 0 else 5))
    fuzz_address(&d.dst, family + (ends & 15))
    d.proto = proto
    d.hops = hops


cdef void op_udp(World *w) noexcept nogil:
    """A datagram, or a train: ends, ports, length, how its checksum is, segment size."""
    cdef Datum d
    cdef uint8_t ends = next8(w)
    cdef uint8_t ports = next8(w)
    cdef uint32_t n = next16(w) % (65535 - 48)
    cdef uint8_t how = next8(w)
    cdef uint32_t i
    datum_between(&d, ends, IP_PROTO_UDP, next8(w) if how & 4 else 64)
    d.csum = how & 3
    d.csum_offset = 6
    if how & 8:
        d.gso_type = VNET_GSO_UDP_L4
        d.gso_size = next16(w)
    if how & 16:
        n &= 0xFF
    datum_begin(w, &d)
    store_be16(d.l4, 5000 + (ports & 63))
    store_be16(d.l4 + 2, 53 if ports >> 6 == 0 else 7000 + (ports >> 6))
    store_be16(d.l4 + 4, <uint16_t>(8 + n) if not how & 32 else next16(w))
    store_be16(d.l4 + 6, 0)
    for i in range(n):
        d.l4[8 + i] = <uint8_t>i
    datum_send(w, &d, 8 + n)


cdef void op_icmp(World *w) noexcept nogil:
    """An ICMP message; errors quote a segment of the stack's."""
    cdef Datum d
    cdef uint8_t ends = next8(w)
    cdef uint8_t kind = next8(w)
    cdef uint8_t code = next8(w)
    cdef uint32_t rest = next32(w)
    cdef uint32_t n = next16(w) & 0x3FF
    cdef Conn *conn = &w.conns[code % CONNS_MAX]
    cdef uint32_t i
    datum_between(&d, ends, IP_PROTO_ICMP if not ends & 0x80 else 58, 64)
    d.csum = CSUM_WHOLE
    d.csum_offset = 2
    datum_begin(w, &d)
    d.l4[0] = kind
    d.l4[1] = code
    store_be16(d.l4 + 2, 0)
    store_be32(d.l4 + 4, rest)
    for i in range(n):
        d.l4[8 + i] = next8(w)
    if kind == 3 and conn.used and addr_is4(&conn.dest):
        n = 28
        memset(d.l4 + 8, 0, n)
        d.l4[1] = 4
        d.l4[8] = 0x45
        d.l4[17] = IP_PROTO_TCP
        for i in range(4):
            d.l4[20 + i] = conn.dest.b[12 + i]
            d.l4[24 + i] = conn.guest.b[12 + i]
        store_be16(d.l4 + 28, conn.dest_port)
        store_be16(d.l4 + 30, conn.guest_port)
        store_be32(d.l4 + 32, conn.rcv_nxt - next8(w))
    datum_send(w, &d, 8 + n)


cdef void op_datagram(World *w) noexcept nogil:
    """Any protocol, any options, any fragment, the payload byte by byte."""
    cdef Datum d
    cdef uint8_t ends = next8(w)
    cdef uint8_t proto = next8(w)
    cdef uint8_t shape = next8(w)
    cdef uint32_t n = min(<uint32_t>next16(w) & 0x7FF, w.left)
    cdef uint32_t i
    datum_between(&d, ends, proto, next8(w) if shape & 64 else 64)
    d.n_options = (shape & 3) * 4
    d.csum = CSUM_WHOLE
    d.csum_offset = 16 if proto == IP_PROTO_TCP else 6 if proto == IP_PROTO_UDP else 0
    d.csum_offset = 2 if proto == IP_PROTO_ICMP or proto == 58 else d.csum_offset
    if shape & 4:
        d.fragment = next16(w)
        d.csum_offset = 0
    if shape & 8:
        d.csum = shape >> 4 & 3
    datum_begin(w, &d)
    for i in range(d.n_options):
        d.l4[<int>i - d.n_options] = next8(w)
    for i in range(n):
        d.l4[i] = next8(w)
    if proto == IP_PROTO_TCP:
        conns_taint(w)
    datum_send(w, &d, n)


cdef void op_arp(World *w) noexcept nogil:
    cdef uint8_t *p = w.frame + VNET_HLEN
    cdef uint8_t ends = next8(w)
    cdef Addr addr
    cdef int i
    memset(w.frame, 0, VNET_HLEN + ETH_HLEN + 28)
    for i in range(6):
        p[i] = 0xFF
    p[6] = 2
    p[11] = ends >> 4
    store_be16(p + 12, ETH_P_ARP)
    store_be32(p + 14, 0x00010800)
    store_be32(p + 18, 0x06040000 | (1 + (ends & 1)))
    p[22] = 2
    p[27] = ends >> 4
    fuzz_address(&addr, ends >> 4 & 7)
    for i in range(4):
        p[28 + i] = addr.b[12 + i]
    fuzz_address(&addr, ends >> 1 & 7)
    for i in range(4):
        p[38 + i] = addr.b[12 + i]
    guest_frame(w, VNET_HLEN + ETH_HLEN + 28)
