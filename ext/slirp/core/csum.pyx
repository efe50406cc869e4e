# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The Internet checksum: see csum.pxd for the rules of the sums."""
from libc.string cimport memcpy

from .wire cimport addr_is4


cdef uint64_t csum_add(uint64_t total, const uint8_t *p, size_t n) noexcept nogil:
    """Add `n` bytes. Words of 32 bits in a 64-bit sum: no carry is lost below 2^32 words."""
    cdef uint32_t word
    cdef uint16_t half
    while n >= 4:
        memcpy(&word, p, 4)
        total += word
        p += 4
        n -= 4
    if n >= 2:
        memcpy(&half, p, 2)
        total += half
        p += 2
        n -= 2
    if n:
        half = 0
        memcpy(&half, p, 1)
        total += half
    return total


cdef uint64_t csum_add_iov(uint64_t total, const iovec *iov, int n_iov) noexcept nogil:
    """Add a list of pieces, of which any may have an odd length."""
    cdef int i
    cdef bint odd = False
    cdef uint64_t part
    for i in range(n_iov):
        part = csum_add(0, <const uint8_t *>iov[i].iov_base, iov[i].iov_len)
        # RFC 1071 2(B): a sum shifted by a byte is the sum swapped
        if odd:
            part = csum_swap(part)
        total += part
        odd = odd ^ (iov[i].iov_len & 1)
    return total


cdef inline uint64_t csum_swap(uint64_t total) noexcept nogil:
    cdef uint16_t folded = <uint16_t>~csum_fold(total)
    return <uint16_t>((folded << 8) | (folded >> 8))


cdef uint64_t csum_pseudo(const Addr *src, const Addr *dst, uint8_t proto,
                          uint32_t length) noexcept nogil:
    """The pseudo-header's sum for either family (RFC 9293 3.1, RFC 8200 8.1)."""
    cdef uint8_t tail[8]
    cdef uint64_t total
    tail[0] = <uint8_t>(length >> 24)
    tail[1] = <uint8_t>(length >> 16)
    tail[2] = <uint8_t>(length >> 8)
    tail[3] = <uint8_t>length
    tail[4] = 0
    tail[5] = 0
    tail[6] = 0
    tail[7] = proto
    if addr_is4(src):
        total = csum_add(0, &src.b[12], 4)
        total = csum_add(total, &dst.b[12], 4)
    else:
        total = csum_add(0, src.b, 16)
        total = csum_add(total, dst.b, 16)
    return csum_add(total, tail, 8)


cdef uint16_t csum_fold(uint64_t total) noexcept nogil:
    total = <uint32_t>total + (total >> 32)
    total = <uint32_t>total + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return <uint16_t>~total


cdef void csum_store(uint8_t *field, uint64_t total) noexcept nogil:
    """Store the complement: a finished checksum."""
    cdef uint16_t folded = csum_fold(total)
    memcpy(field, &folded, 2)


cdef void csum_store_partial(uint8_t *field, uint64_t total) noexcept nogil:
    """Store the sum itself, uncomplemented, as VIRTIO_NET_HDR_F_NEEDS_CSUM wants it of a
    pseudo-header.
    """
    cdef uint16_t folded = <uint16_t>~csum_fold(total)
    memcpy(field, &folded, 2)


def checksum(bytes data, *more):
    """The Internet checksum of the concatenation of all arguments, in host order (for tests)."""
    cdef iovec iov[8]
    cdef uint16_t folded
    pieces = (data, *more)
    if len(pieces) > 8:
        raise ValueError("at most 8 pieces")
    for i, piece in enumerate(pieces):
        iov[i].iov_base = <void *><char *>piece
        iov[i].iov_len = len(piece)
    folded = csum_fold(csum_add_iov(0, iov, <int>len(pieces)))
    return ((folded & 0xFF) << 8 | folded >> 8) if _LITTLE_ENDIAN else folded


_LITTLE_ENDIAN = __import__("sys").byteorder == "little"
