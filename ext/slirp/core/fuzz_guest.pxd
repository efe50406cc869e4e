# cython: language_level=3
"""The fuzzer's guest: the numbers of its connections, and frames made with or without them.

A segment's numbers are said relative to the connection's (`SEQ_*`, `ACK_*`), so that a few bytes of
script say "the next", "the one before", "the window's edge".
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t

from .fuzz cimport Conn, World
from .seq cimport seq_t
from .wire cimport Addr


cdef struct Datum:                  # an upper-layer datagram on its way into a frame
    Addr src
    Addr dst
    uint8_t proto
    uint8_t hops
    uint16_t fragment               # IPv4's flags and offset
    uint8_t n_options               # bytes of IPv4 options, a multiple of four
    uint8_t csum                    # CSUM_*
    uint16_t csum_offset
    uint8_t gso_type
    uint16_t gso_size
    uint8_t *l4


cdef enum:
    CSUM_OFFLOADED = 0
    CSUM_WHOLE = 1
    CSUM_WRONG = 2
    CSUM_VOUCHED = 3                # DATA_VALID


cdef Conn *conn_find(World *w, const Addr *guest, uint16_t guest_port, const Addr *dest,
                     uint16_t dest_port) noexcept nogil
cdef Conn *conn_forwarded(World *w, const Addr *guest, uint16_t guest_port, const Addr *dest,
                          uint16_t dest_port) noexcept nogil
cdef void conn_takes_syn(Conn *conn, const uint8_t *p, uint32_t hlen) noexcept nogil
cdef void conns_taint(World *w) noexcept nogil
cdef void guest_frame(World *w, uint32_t n) noexcept nogil
cdef void datum_begin(World *w, Datum *d) noexcept nogil
cdef void datum_send(World *w, Datum *d, uint32_t n) noexcept nogil
cdef void guest_segment(World *w, uint8_t which, uint8_t flags, uint8_t numbers,
                        uint8_t sizes, uint8_t options) noexcept nogil
cdef void guest_acks(World *w) noexcept nogil
