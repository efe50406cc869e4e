# cython: language_level=3
"""IPv6 headers of the guest's (RFC 8200): parsed, checked, extension headers walked.

Addresses in IPv4's mapped form are refused at the door, since inside such an `Addr` means IPv4: no
spelling of an IPv4 address reaches policy as IPv6. A wrong extension header ends as
DROP_IP6_BAD_EXTENSION with the parameter problem to report in `problem_code` and `problem_at`.

A fragment header ends the walk: `ip6_walk` goes on with the whole datagram when it is reassembled.
One that says "the first piece, and the last" is passed over (RFC 6946).
"""
from libc.stdint cimport uint8_t, uint32_t

from .ctx cimport Ctx
from .stats cimport Drop
from .wire cimport IpHdr, VnetHdr


cdef enum:
    PROBLEM_FIELD = 0               # codes of a parameter problem (RFC 4443 3.4)
    PROBLEM_NEXT_HEADER = 1
    PROBLEM_OPTION = 2
    PROBLEM_CHAIN = 3               # RFC 7112: the first piece lacks a part of the header chain


cdef Drop ip6_parse(Ctx *c, const VnetHdr *vnet, const uint8_t *p, uint32_t n,
                    IpHdr *ip) noexcept nogil
cdef Drop ip6_walk(IpHdr *ip) noexcept nogil
