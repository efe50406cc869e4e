# cython: language_level=3
"""A token bucket: what may be sent unasked, errors and challenges, is bounded by it."""
from libc.stdint cimport uint64_t

from .wire cimport usec_t


cdef struct RateLimit:              # by what is missing from the bucket: zero is full
    uint64_t missing_us
    usec_t last_us


cdef inline bint rate_allows(RateLimit *limit, usec_t now_us, usec_t every_us,
                             uint64_t burst) noexcept nogil:
    """Take a token, of which one comes in `every_us` and at most `burst` are kept; False when there
    is none.
    """
    limit.missing_us -= min(limit.missing_us, now_us - limit.last_us)
    limit.last_us = now_us
    if limit.missing_us + every_us > burst * every_us:
        return False
    limit.missing_us += every_us
    return True
