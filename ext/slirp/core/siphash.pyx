# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""SipHash-2-4 over whole 64-bit words."""
from libc.string cimport memcpy


cdef inline uint64_t rotl(uint64_t x, int bits) noexcept nogil:
    return (x << bits) | (x >> (64 - bits))


cdef inline void sip_round(uint64_t *v) noexcept nogil:
    v[0] += v[1]
    v[1] = rotl(v[1], 13) ^ v[0]
    v[0] = rotl(v[0], 32)
    v[2] += v[3]
    v[3] = rotl(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotl(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotl(v[1], 17) ^ v[2]
    v[2] = rotl(v[2], 32)


cdef uint64_t siphash_words(const SipKey *key, const uint64_t *words, int n_words) noexcept nogil:
    """The hash of `n_words` words; equals SipHash-2-4 of the same bytes on a little-endian machine.
    """
    cdef uint64_t v[4]
    cdef uint64_t last = <uint64_t>n_words << 59        # length in bytes, modulo 256, in the top
                                                        # byte
    cdef int i
    v[0] = key.k0 ^ 0x736F6D6570736575ULL
    v[1] = key.k1 ^ 0x646F72616E646F6DULL
    v[2] = key.k0 ^ 0x6C7967656E657261ULL
    v[3] = key.k1 ^ 0x7465646279746573ULL
    for i in range(n_words):
        v[3] ^= words[i]
        sip_round(v)
        sip_round(v)
        v[0] ^= words[i]
    v[3] ^= last
    sip_round(v)
    sip_round(v)
    v[0] ^= last
    v[2] ^= 0xFF
    for _ in range(4):
        sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def siphash(bytes key, bytes data):
    """SipHash-2-4 of `data` (a multiple of 8 bytes) under a 16-byte key, for the published test
    vectors.

    Raises ValueError for other lengths.
    """
    cdef SipKey k
    cdef uint64_t words[64]
    if len(key) != 16 or len(data) % 8 or len(data) > 512:
        raise ValueError("key of 16 bytes, data of a multiple of 8 bytes up to 512")
    memcpy(&k, <const char *>key, 16)
    memcpy(words, <const char *>data, len(data))
    return siphash_words(&k, words, <int>(len(data) // 8))
