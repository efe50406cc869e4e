# cython: language_level=3
"""The way up and back for frames too rare to be written in the data plane: DHCP, router
solicitations.

A handler that has checked a frame as far as UDP or ICMPv6 punts it: the frame in hand is copied,
from its Ethernet header on, into a small ring in Ctx that the control plane empties when a turn of
the engine tells of it. The guest decides how many there are, so a bucket bounds how often, and the
ring how many wait; what does not fit is dropped under a name. Answers come back as whole frames.
Nothing that came in pieces is punted, since no frame holds it.
"""
from libc.stdint cimport uint8_t, uint32_t

from .ctx cimport Ctx
from .stats cimport Drop
from .wire cimport IpHdr


cdef Drop punt_frame(Ctx *c) noexcept nogil
cdef bint punt_is_dhcp4(Ctx *c, const IpHdr *ip, bint to_group) noexcept nogil
cdef bint punt_is_dhcp6(const IpHdr *ip) noexcept nogil
cdef Drop punt_dhcp(Ctx *c, const IpHdr *ip) noexcept nogil
cdef void send_whole_frame(Ctx *c, const uint8_t *eth, uint32_t n) noexcept nogil
cdef list punt_take(Ctx *c)
cdef int punt_reply(Ctx *c, bytes frame) except -1
