# cython: language_level=3
"""A hierarchical timer wheel (Varghese and Lauck, 1987): setting and cancelling cost the same for
one timer or a million.

LEVELS wheels of 64 slots; a slot of level k spans 64^k ticks of TICK_US. A timer is put on the
level its distance asks for and moves down as time comes near. It never fires early, and at most a
tick late. A bit mask per level tells the occupied slots, so that `timers_next` reads a few words.
The wheel calls nobody: `timers_pop` hands out what is due and the stack dispatches.
"""
from libc.stdint cimport uint32_t, uint64_t

from .wire cimport usec_t


cdef enum:
    TICK_US = 1000
    WHEEL_LEVELS = 5                # 64^5 ticks: 12 days; what is further away waits on the last
                                    # level
    WHEEL_SLOTS = 64


cdef struct TimerNode:
    TimerNode *next
    TimerNode *prev                 # NULL: not set
    uint64_t expires_tick
    uint32_t level
    uint32_t slot


cdef struct TimerWheel:
    uint64_t tick                   # ticks handled so far
    uint64_t occupied[5]            # a bit per slot
    TimerNode slots[5][64]          # list heads
    TimerNode due                   # list head: expired, not yet popped
    uint32_t armed                  # timers set


cdef void timers_init(TimerWheel *wheel, usec_t now_us) noexcept nogil
cdef void timer_set(TimerWheel *wheel, TimerNode *node, usec_t expires_us) noexcept nogil
cdef void timer_cancel(TimerWheel *wheel, TimerNode *node) noexcept nogil
cdef TimerNode *timers_pop(TimerWheel *wheel, usec_t now_us) noexcept nogil
cdef usec_t timers_next(const TimerWheel *wheel) noexcept nogil


cdef inline bint timer_is_set(const TimerNode *node) noexcept nogil:
    return node.prev != NULL
