# cython: language_level=3
"""IPv4 headers of the guest's (RFC 791, 1122 3.2): parsed and checked.

`ip4_parse` trusts nothing: afterwards `payload_bytes` lie in the frame and every field is checked.
Options may stand there but not route (RFC 7126).
"""
from libc.stdint cimport uint8_t, uint32_t

from .ctx cimport Ctx
from .stats cimport Drop
from .wire cimport Addr, IpHdr, VnetHdr


cdef bint ip4_is_source(Ctx *c, const Addr *src) noexcept nogil
cdef Drop ip4_parse(Ctx *c, const VnetHdr *vnet, const uint8_t *p, uint32_t n,
                    IpHdr *ip) noexcept nogil
