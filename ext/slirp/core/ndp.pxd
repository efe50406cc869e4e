# cython: language_level=3
"""Neighbour discovery (RFC 4861): who has an address, and duplicate address detection (RFC 4862).

We answer for the gateway's and the DNS address and for no other, so that a guest's duplicate
detection finds its own address free. What a guest says of itself is learned, for the frames that
begin on our side; of one who has said nothing we ask. Router solicitations are rare: they go up to
Python, which advertises the prefix. Nobody takes our own addresses away from us.
"""
from .ctx cimport Ctx
from .stats cimport Drop
from .wire cimport IpHdr


cdef bint ndp_is_ours(const IpHdr *ip) noexcept nogil
cdef Drop ndp_input(Ctx *c, const IpHdr *ip) noexcept nogil
cdef void ndp_ask_for_guests(Ctx *c) noexcept nogil
