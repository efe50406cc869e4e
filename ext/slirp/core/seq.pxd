# cython: language_level=3
"""Sequence numbers and their arithmetic modulo 2^32 (RFC 9293 3.4). Nothing else may compare them.
"""
from libc.stdint cimport int32_t, uint32_t

ctypedef uint32_t seq_t         # a point in sequence space; lengths are plain uint32_t


cdef inline bint seq_lt(seq_t a, seq_t b) noexcept nogil:
    return <int32_t>(a - b) < 0

cdef inline bint seq_le(seq_t a, seq_t b) noexcept nogil:
    return <int32_t>(a - b) <= 0

cdef inline bint seq_gt(seq_t a, seq_t b) noexcept nogil:
    return <int32_t>(a - b) > 0

cdef inline bint seq_ge(seq_t a, seq_t b) noexcept nogil:
    return <int32_t>(a - b) >= 0

cdef inline seq_t seq_max(seq_t a, seq_t b) noexcept nogil:
    return a if seq_gt(a, b) else b

cdef inline seq_t seq_min(seq_t a, seq_t b) noexcept nogil:
    return a if seq_lt(a, b) else b

cdef inline bint seq_in(seq_t x, seq_t start, uint32_t length) noexcept nogil:
    """start <= x < start + length."""
    return x - start < length
