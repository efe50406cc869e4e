# cython: language_level=3
"""The Internet checksum (RFC 1071, 1624), whole or in parts.

Sums are kept unfolded in 64 bits and in the machine's byte order, which RFC 1071 2(B) allows;
`csum_fold` gives the 16-bit complement, and `csum_store` puts it into a header. Parts at odd
offsets are not supported: every part but the last has an even length.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .linux cimport iovec
from .wire cimport Addr


cdef uint64_t csum_add(uint64_t total, const uint8_t *p, size_t n) noexcept nogil
cdef uint64_t csum_add_iov(uint64_t total, const iovec *iov, int n_iov) noexcept nogil
cdef uint64_t csum_pseudo(const Addr *src, const Addr *dst, uint8_t proto,
                          uint32_t length) noexcept nogil
cdef uint16_t csum_fold(uint64_t total) noexcept nogil
cdef void csum_store(uint8_t *field, uint64_t total) noexcept nogil
cdef void csum_store_partial(uint8_t *field, uint64_t total) noexcept nogil
