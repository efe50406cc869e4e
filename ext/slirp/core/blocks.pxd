# cython: language_level=3
"""Buffers: a bounded pool of blocks, and byte queues made of them.

A `ByteQueue` holds a stretch of a byte stream: `length` bytes from its head on, and, behind them,
bytes written ahead of a gap (reassembly), which become part of it when the gap is filled
(`queue_extend`). It owns blocks only where it holds bytes, so that an idle connection owns none; a
block given back is the next one handed out, so that a busy connection runs in cache.

The pool is bounded by `limit_blocks`. When it is empty, a queue cannot grow: callers shed load and
count it. Blocks are
mapped from the system one by one; up to CACHED_BLOCKS free ones are kept, the rest go back at once,
so that a busy hour leaves no memory behind.
"""
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from .linux cimport iovec


cdef enum:
    BLOCK_BYTES = 32768
    BLOCK_SHIFT = 15
    CACHED_BLOCKS = 128             # free blocks kept: 4 MiB
    QUEUE_INLINE = 4                # block pointers inside the queue itself
    QUEUE_IOV_MAX = 8               # pieces that one queue_*_iov may give


cdef struct Block:
    Block *next                     # while free; otherwise the block's bytes begin here


cdef struct BlockPool:
    Block *free
    uint32_t free_blocks
    uint32_t used_blocks            # in queues
    uint32_t limit_blocks


cdef struct ByteQueue:
    uint8_t **blocks                # circular, `n_slots` long (a power of two), NULL where no byte
                                    # is held
    uint8_t *inline_blocks[4]
    uint32_t n_slots                # 0: nothing was ever held, `blocks` is not set
    uint32_t head                   # slot of the first byte
    uint32_t start                  # offset of the first byte in that slot's block
    uint32_t length                 # contiguous bytes held
    uint32_t span                   # bytes up to the end of the last block in use: >= length


cdef inline bint pool_is_low(const BlockPool *pool) noexcept nogil:
    """Only the last eighth is left: it is for what flows, not for what waits."""
    return pool.used_blocks > pool.limit_blocks - (pool.limit_blocks >> 3)


cdef void pool_init(BlockPool *pool, uint64_t limit_bytes) noexcept nogil
cdef void pool_destroy(BlockPool *pool) noexcept nogil
cdef int queue_reserve_iov(BlockPool *pool, ByteQueue *q, uint32_t n, iovec *iov) noexcept nogil
cdef void queue_commit(BlockPool *pool, ByteQueue *q, uint32_t n) noexcept nogil
cdef int queue_iov(ByteQueue *q, uint32_t offset, uint32_t n, iovec *iov,
                   int max_iov) noexcept nogil
cdef void queue_consume(BlockPool *pool, ByteQueue *q, uint32_t n) noexcept nogil
cdef bint queue_write(BlockPool *pool, ByteQueue *q, uint32_t offset, const uint8_t *data,
                      uint32_t n) noexcept nogil
cdef void queue_extend(ByteQueue *q, uint32_t n) noexcept nogil
cdef void queue_clear(BlockPool *pool, ByteQueue *q) noexcept nogil
