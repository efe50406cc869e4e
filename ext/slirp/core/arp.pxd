# cython: language_level=3
"""ARP (RFC 826): we answer for the gateway's and the DNS address, and for no other, so that the
guest's duplicate detection (RFC 5227) works. Who asks, or answers, is remembered; and we ask for a
guest that something is for, whose place we do not know.
"""
from libc.stdint cimport uint8_t, uint32_t

from .ctx cimport Ctx
from .stats cimport Drop
from .wire cimport Addr


cdef Drop arp_input(Ctx *c, const uint8_t *p, uint32_t n) noexcept nogil
cdef void arp_ask(Ctx *c, const Addr *target) noexcept nogil
