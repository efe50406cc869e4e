# cython: language_level=3
"""The whole stack: a frame in, dispatched and counted; events and timers in; touched connections
served.

`stack_input`, `stack_host_event` and `stack_run_timers` only change state; `stack_serve` then
serves each touched flow once. So a batch of any number of frames and events costs each connection
one service. The clock is `Ctx.now_us`, set by the caller before each batch.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .ctx cimport Ctx
from .wire cimport Addr, usec_t


cdef bint stack_init(Ctx *c, uint32_t max_flows, uint64_t memory_bytes,
                     usec_t now_us) noexcept nogil
cdef void stack_destroy(Ctx *c) noexcept nogil
cdef void stack_input(Ctx *c, const uint8_t *frame, uint32_t n) noexcept nogil
cdef void stack_host_event(Ctx *c, uint64_t ref, uint32_t events) noexcept nogil
cdef void stack_run_timers(Ctx *c) noexcept nogil
cdef bint stack_serve(Ctx *c) noexcept nogil
cdef int stack_add_forward(Ctx *c, uint8_t proto, int fd, const Addr *guest_addr,
                           uint16_t guest_port) noexcept nogil
cdef bint stack_remove_forward(Ctx *c, uint32_t index) noexcept nogil
