# cython: language_level=3
"""SipHash-2-4 (Aumasson and Bernstein, 2012): a keyed hash that a guest cannot make collide.

Used for the flow table and for initial sequence numbers (RFC 6528). The key is drawn from the
kernel once.
"""
from libc.stdint cimport uint64_t


cdef struct SipKey:
    uint64_t k0
    uint64_t k1


cdef uint64_t siphash_words(const SipKey *key, const uint64_t *words, int n_words) noexcept nogil
