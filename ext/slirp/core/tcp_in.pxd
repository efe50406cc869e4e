# cython: language_level=3
"""TCP input: RFC 9293 3.10.7, one function per step, in the RFC's order and under its words.

A step returns a Drop, or DROP_NONE to go on. Nothing is sent from here but resets and challenge
ACKs: whatever else is due, `tcp_service` finds.
"""
from .ctx cimport Ctx
from .stats cimport Drop
from .wire cimport IpHdr


cdef Drop tcp_input(Ctx *c, const IpHdr *ip) noexcept nogil
cdef Drop tcp_packet_too_big(Ctx *c, const IpHdr *ip) noexcept nogil
