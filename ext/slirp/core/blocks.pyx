# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The pool of blocks and the byte queues: see blocks.pxd for the theory."""
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #include <stdlib.h>
    #include <sys/mman.h>
    #ifdef PYSLIRP_DEBUG            /* so that a sanitizer sees each byte too far */
    #define slirp_block_map(n) malloc(n)
    #define slirp_block_unmap(p, n) free(p)
    #else
    static inline void *slirp_block_map(size_t n) {
        void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        return p == MAP_FAILED ? NULL : p;
    }
    #define slirp_block_unmap(p, n) munmap(p, n)
    #endif
    """
    void *block_map "slirp_block_map"(size_t n) noexcept nogil
    void block_unmap "slirp_block_unmap"(void *p, size_t n) noexcept nogil


cdef void pool_init(BlockPool *pool, uint64_t limit_bytes) noexcept nogil:
    memset(pool, 0, sizeof(BlockPool))
    pool.limit_blocks = <uint32_t>(limit_bytes >> BLOCK_SHIFT)


cdef void pool_destroy(BlockPool *pool) noexcept nogil:
    """Free the cached blocks; every queue has been cleared."""
    cdef Block *block
    while pool.free != NULL:
        block = pool.free
        pool.free = block.next
        block_unmap(block, BLOCK_BYTES)
    pool.free_blocks = 0


cdef uint8_t *block_get(BlockPool *pool) noexcept nogil:
    """A block, or NULL when the limit or the system's memory is reached."""
    cdef Block *block = pool.free
    if block != NULL:
        pool.free = block.next
        pool.free_blocks -= 1
    elif pool.used_blocks >= pool.limit_blocks:
        return NULL
    else:
        block = <Block *>block_map(BLOCK_BYTES)
        if block == NULL:
            return NULL
    pool.used_blocks += 1
    return <uint8_t *>block


cdef void block_put(BlockPool *pool, uint8_t *bytes_) noexcept nogil:
    cdef Block *block = <Block *>bytes_
    pool.used_blocks -= 1
    if pool.free_blocks >= CACHED_BLOCKS:
        block_unmap(block, BLOCK_BYTES)
        return
    block.next = pool.free
    pool.free = block
    pool.free_blocks += 1


cdef bint queue_grow(ByteQueue *q, uint32_t want_slots) noexcept nogil:
    """Make room for `want_slots` block pointers, keeping the order. False without memory."""
    cdef uint32_t n_slots = q.n_slots if q.n_slots else QUEUE_INLINE
    cdef uint8_t **blocks
    cdef uint32_t i
    if q.n_slots == 0:
        q.n_slots = QUEUE_INLINE
        q.blocks = q.inline_blocks
        memset(q.inline_blocks, 0, sizeof(q.inline_blocks))
    if want_slots <= q.n_slots:
        return True
    while n_slots < want_slots:
        n_slots *= 2
    blocks = <uint8_t **>calloc(n_slots, sizeof(uint8_t *))
    if blocks == NULL:
        return False
    for i in range(q.n_slots):
        blocks[i] = q.blocks[(q.head + i) & (q.n_slots - 1)]
    if q.blocks != q.inline_blocks:
        free(q.blocks)
    q.blocks = blocks
    q.n_slots = n_slots
    q.head = 0
    return True


cdef uint32_t queue_back(BlockPool *pool, ByteQueue *q, uint32_t offset,
                         uint32_t n) noexcept nogil:
    """Put blocks behind [offset, offset + n), n > 0. How many bytes from its start have them: fewer
    than `n` when the pool ran dry; the blocks got stay and are of use later.
    """
    cdef uint32_t at = q.start + offset
    cdef uint32_t first = at >> BLOCK_SHIFT
    cdef uint32_t last = (at + n - 1) >> BLOCK_SHIFT
    cdef uint32_t i, slot
    if not queue_grow(q, last + 1):
        return 0
    for i in range(first, last + 1):
        slot = (q.head + i) & (q.n_slots - 1)
        if q.blocks[slot] == NULL:
            q.blocks[slot] = block_get(pool)
            if q.blocks[slot] == NULL:
                return (i << BLOCK_SHIFT) - at if i > first else 0
        if ((i + 1) << BLOCK_SHIFT) - q.start > q.span:
            q.span = ((i + 1) << BLOCK_SHIFT) - q.start
    return n


cdef int queue_reserve_iov(BlockPool *pool, ByteQueue *q, uint32_t n, iovec *iov) noexcept nogil:
    """Room for up to `n` more bytes (n > 0) behind the last one, as at most QUEUE_IOV_MAX pieces;
    0 pieces without memory.

    Fill them, then call queue_commit. Not for a queue that holds bytes beyond a gap.
    """
    cdef uint32_t got
    n = min(n, <uint32_t>((QUEUE_IOV_MAX - 1) * BLOCK_BYTES))
    got = queue_back(pool, q, q.length, n)
    if got < n:
        # What a write that failed had got behind its gap may be what is missing
        queue_trim(pool, q, q.length)
        got = queue_back(pool, q, q.length, n)
    return queue_pieces(q, q.length, got, iov, QUEUE_IOV_MAX)


cdef void queue_commit(BlockPool *pool, ByteQueue *q, uint32_t n) noexcept nogil:
    """The first `n` reserved bytes were filled; give back the blocks that stayed empty."""
    q.length += n
    queue_trim(pool, q, q.length)


cdef void queue_trim(BlockPool *pool, ByteQueue *q, uint32_t keep) noexcept nogil:
    """Give back the blocks behind the first `keep` bytes."""
    cdef uint32_t first, last, i, slot
    if q.n_slots == 0 or q.span <= keep:
        return
    if keep == 0:
        queue_clear(pool, q)
        return
    first = ((q.start + keep - 1) >> BLOCK_SHIFT) + 1
    last = (q.start + q.span) >> BLOCK_SHIFT
    for i in range(first, last):
        slot = (q.head + i) & (q.n_slots - 1)
        if q.blocks[slot] != NULL:
            block_put(pool, q.blocks[slot])
            q.blocks[slot] = NULL
    q.span = (first << BLOCK_SHIFT) - q.start


cdef int queue_pieces(ByteQueue *q, uint32_t offset, uint32_t n, iovec *iov,
                      int max_iov) noexcept nogil:
    cdef uint32_t at = q.start + offset
    cdef uint32_t in_block, take
    cdef int count = 0
    while n and count < max_iov:
        in_block = at & (BLOCK_BYTES - 1)
        take = min(n, <uint32_t>BLOCK_BYTES - in_block)
        iov[count].iov_base = q.blocks[(q.head + (at >> BLOCK_SHIFT)) & (q.n_slots - 1)] + in_block
        iov[count].iov_len = take
        count += 1
        at += take
        n -= take
    return count


cdef int queue_iov(ByteQueue *q, uint32_t offset, uint32_t n, iovec *iov,
                   int max_iov) noexcept nogil:
    """The pieces of [offset, offset + n), all of it held; as many as fit into `max_iov`."""
    return queue_pieces(q, offset, n, iov, max_iov)


cdef void queue_consume(BlockPool *pool, ByteQueue *q, uint32_t n) noexcept nogil:
    """Drop the first `n` bytes (n <= length) and give back the blocks that held only them.

    An owner whose queue holds nothing any more, ahead of a gap either, calls queue_clear.
    """
    cdef uint32_t slot
    q.length -= n
    q.start += n
    q.span -= n
    while q.start >= BLOCK_BYTES:
        slot = q.head
        if q.blocks[slot] != NULL:
            block_put(pool, q.blocks[slot])
            q.blocks[slot] = NULL
        q.head = (slot + 1) & (q.n_slots - 1)
        q.start -= BLOCK_BYTES


cdef bint queue_write(BlockPool *pool, ByteQueue *q, uint32_t offset, const uint8_t *data,
                      uint32_t n) noexcept nogil:
    """Copy `n` bytes to `offset` (in or beyond the contiguous part). False without memory: nothing
    was written.
    """
    cdef iovec iov[8]
    cdef int count, i
    cdef uint32_t done = 0
    if n == 0:
        return True
    if queue_back(pool, q, offset, n) < n:
        return False
    while done < n:
        count = queue_pieces(q, offset + done, n - done, iov, 8)
        for i in range(count):
            memcpy(iov[i].iov_base, data + done, iov[i].iov_len)
            done += <uint32_t>iov[i].iov_len
    return True


cdef void queue_extend(ByteQueue *q, uint32_t n) noexcept nogil:
    """The next `n` bytes, written ahead, have become contiguous."""
    q.length += n


cdef void queue_clear(BlockPool *pool, ByteQueue *q) noexcept nogil:
    """Give everything back; the queue is as new."""
    cdef uint32_t i
    for i in range(q.n_slots):
        if q.blocks[i] != NULL:
            block_put(pool, q.blocks[i])
    if q.n_slots and q.blocks != q.inline_blocks:
        free(q.blocks)
    memset(q, 0, sizeof(ByteQueue))
