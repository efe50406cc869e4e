# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The thread's slice of CPU time: see slice.pxd for the theory."""
from libc.stdint cimport int32_t, uint32_t, uint64_t

from .linux cimport (
    SCHED_OTHER, SYS_sched_getattr, SYS_sched_setattr, sched_yield, syscall,
)

cdef enum:
    SHORT_US = 100                  # the least that Linux takes
    CROWDED_US = 100000             # from the last crowd on, until the slice is the usual one again


cdef struct SchedAttr:              # struct sched_attr of linux/sched/types.h, its first version
    uint32_t size
    uint32_t policy
    uint64_t flags
    int32_t nice
    uint32_t priority
    uint64_t runtime_ns             # of SCHED_OTHER: the slice, from Linux 6.12 on
    uint64_t deadline_ns
    uint64_t period_ns


cdef usec_t slice_get() noexcept nogil:
    """This thread's, or 0."""
    cdef SchedAttr attr
    if (syscall(SYS_sched_getattr, 0, &attr, <unsigned int>sizeof(attr), 0) < 0
            or attr.policy != SCHED_OTHER):
        return 0
    return attr.runtime_ns // 1000


cdef void slice_set(usec_t us) noexcept nogil:
    """This thread's; its nice value stays."""
    cdef SchedAttr attr
    if (syscall(SYS_sched_getattr, 0, &attr, <unsigned int>sizeof(attr), 0) < 0
            or attr.policy != SCHED_OTHER):
        return
    attr.runtime_ns = us * 1000
    syscall(SYS_sched_setattr, 0, &attr, 0)


cdef void slice_yield(Slice *s, usec_t now_us) noexcept nogil:
    """There was a crowd: let those run who are to read what we have delivered."""
    if not s.asked:
        s.asked = True
        s.usual_us = slice_get()
    if s.usual_us == 0:
        return
    if s.short_until_us == 0:
        slice_set(SHORT_US)
        if slice_get() != SHORT_US:             # refused
            s.usual_us = 0
            return
    s.short_until_us = now_us + CROWDED_US
    sched_yield()


cdef void slice_restore(Slice *s) noexcept nogil:
    """The crowds are over, or the thread leaves."""
    if s.short_until_us:
        slice_set(s.usual_us)
    s.short_until_us = 0
