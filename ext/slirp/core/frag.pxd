# cython: language_level=3
"""Reassembly of the guest's fragments (RFC 791 3.2, 815; RFC 8200 4.5), both families.

A datagram in pieces holds one of a few places, and its bytes a share of a bounded amount of
memory; at either bound the oldest gives way. Pieces that overlap end the whole datagram, and what
is left of it is swallowed until its time is over (RFC 5722); the very same piece once more is a
duplicate. Only whole datagrams go on, so that no header is ever read from a piece.

Nothing here calls upwards: a whole datagram, and one that has expired, are handed out as an `IpHdr`
whose bytes are ours until `frag_done`.
"""
from libc.stdint cimport uint32_t

from .ctx cimport Ctx
from .stats cimport Drop
from .wire cimport IpHdr


cdef Drop frag_input(Ctx *c, IpHdr *ip) noexcept nogil
cdef bint frag_pop_expired(Ctx *c, IpHdr *ip) noexcept nogil
cdef void frag_done(Ctx *c) noexcept nogil
cdef void frag_clear(Ctx *c) noexcept nogil
cdef uint32_t frag_count(const Ctx *c) noexcept nogil
