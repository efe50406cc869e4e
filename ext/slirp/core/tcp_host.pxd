# cython: language_level=3
"""TCP's host side: what the host's sockets tell, and `tcp_service`, where the two sides of a
connection meet.

Events only set facts (`readable`, `writable`, `eof_seen`); `tcp_service` runs once for each
connection that a batch touched and does, in order: text to the host, shutdown, bytes from the host,
output to the guest, timers, end. One ACK per batch, and no event is acted on twice.
"""
from libc.stdint cimport uint16_t, uint32_t

from .conn cimport Flow
from .ctx cimport Ctx


cdef void tcp_on_host_event(Ctx *c, Flow *flow, uint32_t events) noexcept nogil
cdef void tcp_on_accept(Ctx *c, uint32_t forward_index) noexcept nogil
cdef void tcp_accept_again(Ctx *c) noexcept nogil
cdef bint tcp_connect_next(Ctx *c, Flow *flow) noexcept nogil
cdef void tcp_connect_failed(Ctx *c, Flow *flow, int error) noexcept nogil
cdef bint tcp_serve(Ctx *c) noexcept nogil
