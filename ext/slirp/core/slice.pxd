# cython: language_level=3
"""The thread's slice of CPU time, and how to give it away.

Nothing holds a sender of datagrams back: the TAP's queue and a host's socket drop what we do not
take. So where there are fewer CPUs than there is work for, whatever we take beyond what its readers
get to read is work for nothing, of which they are robbed: a socket has room for three trains. Hence
after a crowd of datagrams the thread yields. A thread that yields forfeits its slice, some
milliseconds, in which a busy neighbour would take nearly all; so while crowds come, and a little
longer, the slice is the least that Linux takes. At other times it is left alone: a short one costs
request and response a tenth. Where the kernel gives threads no slices of their own (before 6.12,
another policy, a sandbox around us) nothing is done at all.
"""
from .wire cimport usec_t


cdef struct Slice:
    bint asked                      # the kernel, for the usual one
    usec_t usual_us                 # 0: it has none to give
    usec_t short_until_us           # 0: it is the usual one


cdef void slice_yield(Slice *s, usec_t now_us) noexcept nogil
cdef void slice_restore(Slice *s) noexcept nogil


cdef inline void slice_check(Slice *s, usec_t now_us) noexcept nogil:
    """No crowd this time."""
    if s.short_until_us and now_us >= s.short_until_us:
        slice_restore(s)
