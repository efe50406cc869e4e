# cython: language_level=3
"""Python's side of the stack: settings, name servers and forwards in, what each flow is doing out;
and `Stack`, the whole as an object without I/O, for tests: frames and a clock in, frames out.

All that has to do with Python objects below the Engine is here. It is called now and then, with
nobody else inside.
"""
from libc.stdint cimport uint16_t

from .ctx cimport Ctx
from .wire cimport Addr


cdef void seam_configure(Ctx *c, dict settings) except *
cdef void seam_take_addr(Addr *addr, bytes wire) except *
cdef void seam_set_dns(Ctx *c, list servers) except *
cdef int seam_forward(Ctx *c, str proto, int fd, bytes guest_addr, uint16_t guest_port) except 0
cdef list seam_flows(Ctx *c)
cdef dict seam_stats(Ctx *c)
