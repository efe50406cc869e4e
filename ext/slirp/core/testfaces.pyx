# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Python faces of the small machines inside, for their tests: timer wheel, byte queue, flow table,
ranges, headers.

Nothing of the daemon imports this module. Each face owns one machine and gives its C functions as
methods of the same names; entries are named by small ints. What C leaves undefined (a byte read
beyond a queue, a flow freed twice) a face refuses with an exception, so that no test wanders there.
"""
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from .blocks cimport (
    BLOCK_BYTES, QUEUE_IOV_MAX, BlockPool, ByteQueue, pool_destroy, pool_init, queue_clear,
    queue_commit, queue_consume, queue_extend, queue_iov, queue_reserve_iov, queue_write,
)
from .conn cimport FLOW_UDP, Flow, FlowKey, Range, RangeList
from .csum cimport csum_add, csum_fold, csum_pseudo, csum_store, csum_store_partial
from .flow cimport (
    LRU_CLASSES, SLAB_FLOWS, FlowTable, flow_alloc, flow_by_handle, flow_free, flow_handle,
    flow_lookup, flow_set_class, flow_unhash, flow_use, flows_destroy, flows_init,
)
from .linux cimport iovec
from .seq cimport seq_t
from .siphash cimport SipKey
from .tcp_sack cimport ranges_add, ranges_bytes, ranges_report, ranges_skip, ranges_trim
from .timers cimport (
    TimerNode, TimerWheel, timer_cancel, timer_is_set, timer_set, timers_init, timers_next,
    timers_pop,
)
from .wire cimport VNET_HLEN, Addr, VnetHdr, addr_set4, usec_t, vnet_build, vnet_parse


# ---- timers ------------------------------------------------------------------------------------

@cython.final
cdef class Timers:
    """A wheel and `n` timers, 0 to n - 1."""
    cdef TimerWheel wheel
    cdef TimerNode *nodes
    cdef uint32_t n

    def __cinit__(self, uint32_t n, usec_t now_us=0):
        self.n = n
        self.nodes = <TimerNode *>calloc(n, sizeof(TimerNode))
        if self.nodes == NULL:
            raise MemoryError
        timers_init(&self.wheel, now_us)

    def __dealloc__(self):
        free(self.nodes)

    cdef TimerNode *node(self, uint32_t which) except NULL:
        if which >= self.n:
            raise IndexError(which)
        return &self.nodes[which]

    def set(self, uint32_t which, usec_t expires_us):
        timer_set(&self.wheel, self.node(which), expires_us)

    def cancel(self, uint32_t which):
        timer_cancel(&self.wheel, self.node(which))

    def is_set(self, uint32_t which):
        return bool(timer_is_set(self.node(which)))

    def pop(self, usec_t now_us):
        """The number of the next timer that is due, or None."""
        cdef TimerNode *node = timers_pop(&self.wheel, now_us)
        return None if node == NULL else <object>(node - self.nodes)

    def next(self):
        """When to pop next, in microseconds; None: no timer is set."""
        cdef usec_t at = timers_next(&self.wheel)
        return None if at == ~<usec_t>0 else at

    @property
    def armed(self):
        return self.wheel.armed


# ---- blocks ------------------------------------------------------------------------------------

@cython.final
cdef class Pool:
    """A pool of blocks with a bound."""
    cdef BlockPool pool

    block_bytes = BLOCK_BYTES

    def __cinit__(self, uint64_t limit_bytes):
        pool_init(&self.pool, limit_bytes)

    def __dealloc__(self):
        pool_destroy(&self.pool)

    @property
    def used_blocks(self):
        return self.pool.used_blocks

    @property
    def free_blocks(self):
        return self.pool.free_blocks


@cython.final
cdef class Queue:
    """A byte queue on a pool."""
    cdef Pool owner
    cdef ByteQueue q
    cdef uint32_t reserved

    def __cinit__(self, Pool pool not None):
        self.owner = pool

    def __dealloc__(self):
        queue_clear(&self.owner.pool, &self.q)

    def __len__(self):
        return self.q.length

    def append(self, bytes data not None):
        """Reserve, fill and commit, as one read from a socket does; how many bytes found room."""
        cdef iovec iov[QUEUE_IOV_MAX]
        cdef size_t done = 0
        cdef size_t take
        cdef int i
        cdef int n = queue_reserve_iov(&self.owner.pool, &self.q, <uint32_t>len(data), iov)
        for i in range(n):
            take = min(iov[i].iov_len, len(data) - done)
            memcpy(iov[i].iov_base, <const char *>data + done, take)
            done += take
        queue_commit(&self.owner.pool, &self.q, <uint32_t>done)
        return done

    def reserve(self, uint32_t n):
        """Reserve room, fill none of it and commit nothing: the room offered."""
        cdef iovec iov[QUEUE_IOV_MAX]
        cdef int pieces = queue_reserve_iov(&self.owner.pool, &self.q, n, iov)
        cdef size_t room = 0
        cdef int i
        for i in range(pieces):
            room += iov[i].iov_len
        queue_commit(&self.owner.pool, &self.q, 0)
        return room

    def write(self, uint32_t offset, bytes data not None):
        """Write at an offset, also beyond the end. False without memory."""
        return bool(queue_write(&self.owner.pool, &self.q, offset,
                                <const uint8_t *><const char *>data, <uint32_t>len(data)))

    def extend(self, uint32_t n):
        """`n` bytes written beyond the end have become part of the queue."""
        if self.q.length + n > self.q.span:
            raise ValueError("never written")
        queue_extend(&self.q, n)

    def read(self, uint32_t offset, uint32_t n, int max_iov=QUEUE_IOV_MAX):
        """The pieces of [offset, offset + n)."""
        cdef iovec iov[64]
        cdef int i
        if offset + n > self.q.length or not 1 <= max_iov <= 64:
            raise ValueError("beyond the end")
        return [(<const char *>iov[i].iov_base)[:iov[i].iov_len]
                for i in range(queue_iov(&self.q, offset, n, iov, max_iov))]

    def consume(self, uint32_t n):
        if n > self.q.length:
            raise ValueError("beyond the end")
        queue_consume(&self.owner.pool, &self.q, n)

    def clear(self):
        queue_clear(&self.owner.pool, &self.q)


# ---- flows -------------------------------------------------------------------------------------

@cython.final
cdef class Flows:
    """A flow table. Keys are 40 bytes (FlowKey), flows are named by their handles."""
    cdef FlowTable table

    slab_flows = SLAB_FLOWS
    lru_classes = LRU_CLASSES

    def __cinit__(self, uint32_t max_flows, bytes secret not None=bytes(16)):
        cdef SipKey key
        if len(secret) != 16:
            raise ValueError("a secret has 16 bytes")
        memcpy(&key, <const char *>secret, 16)
        if not flows_init(&self.table, max_flows, &key):
            raise MemoryError

    def __dealloc__(self):
        flows_destroy(&self.table)

    cdef Flow *flow(self, uint32_t handle) except NULL:
        cdef Flow *flow = flow_by_handle(&self.table, handle)
        if flow == NULL:
            raise KeyError(handle)
        return flow

    def alloc(self, bytes key not None):
        """The handle of a new flow under a key that is not in the table; None at the bound."""
        cdef Flow *flow
        if self.lookup(key) is not None:
            raise KeyError("in the table already")
        flow = flow_alloc(&self.table, <const FlowKey *><const char *>key, FLOW_UDP)
        return None if flow == NULL else flow_handle(flow)

    def lookup(self, bytes key not None):
        cdef Flow *flow
        if len(key) != sizeof(FlowKey):
            raise ValueError("a key has 40 bytes")
        flow = flow_lookup(&self.table, <const FlowKey *><const char *>key)
        return None if flow == NULL else flow_handle(flow)

    def alive(self, uint32_t handle):
        """The handle names a flow still."""
        return flow_by_handle(&self.table, handle) != NULL

    def key(self, uint32_t handle):
        return (<const char *>&self.flow(handle).key)[:sizeof(FlowKey)]

    def unhash(self, uint32_t handle):
        cdef Flow *flow = self.flow(handle)
        if flow_lookup(&self.table, &flow.key) != flow:
            raise KeyError("unhashed already")
        flow_unhash(&self.table, flow)

    def free(self, uint32_t handle):
        cdef Flow *flow = self.flow(handle)
        if flow_lookup(&self.table, &flow.key) == flow:
            raise KeyError("hashed still")
        flow_free(&self.table, flow)

    def set_class(self, uint32_t handle, int lru_class):
        if not 0 <= lru_class <= LRU_CLASSES:
            raise ValueError(lru_class)
        flow_set_class(&self.table, self.flow(handle), lru_class)

    def use(self, uint32_t handle):
        cdef Flow *flow = self.flow(handle)
        if flow.lru_class == LRU_CLASSES:
            raise ValueError("in no list")
        flow_use(&self.table, flow)

    def by_age(self, int lru_class):
        """The handles of a class, least recently used first; the list read backwards must agree."""
        cdef Flow *flow = self.table.lru[lru_class].oldest
        cdef list forth = []
        cdef list back = []
        while flow != NULL:
            forth.append(flow_handle(flow))
            flow = flow.lru_next
        flow = self.table.lru[lru_class].newest
        while flow != NULL:
            back.append(flow_handle(flow))
            flow = flow.lru_prev
        if back[::-1] != forth or len(forth) != self.table.lru[lru_class].count:
            raise AssertionError((forth, back, self.table.lru[lru_class].count))
        return forth

    @property
    def n_flows(self):
        return self.table.n_flows

    @property
    def n_slots(self):
        return self.table.n_slots


# ---- ranges ------------------------------------------------------------------------------------

@cython.final
cdef class Ranges:
    """A list of ranges of sequence space."""
    cdef RangeList *held

    def __dealloc__(self):
        free(self.held)

    def add(self, seq_t start, seq_t end):
        """False when the list is full."""
        return bool(ranges_add(&self.held, start, end))

    def trim(self, seq_t below):
        ranges_trim(&self.held, below)

    def report(self, int max_out):
        """SACK blocks, in their order."""
        cdef Range out[32]
        cdef int i
        if not 1 <= max_out <= 32:
            raise ValueError(max_out)
        return [(out[i].start, out[i].end) for i in range(ranges_report(self.held, out, max_out))]

    def bytes_in(self, seq_t start, seq_t end):
        return ranges_bytes(self.held, start, end)

    def skip(self, seq_t at, seq_t limit):
        """(the first number from `at` on that is not held, where the list goes on or `limit`)."""
        cdef seq_t next_start = limit
        at = ranges_skip(self.held, at, &next_start)
        return at, next_start

    @property
    def ranges(self):
        if self.held == NULL:
            return []
        return [(self.held.ranges[i].start, self.held.ranges[i].end)
                for i in range(self.held.count)]

    @property
    def allocated(self):
        return self.held != NULL


# ---- headers -----------------------------------------------------------------------------------

cdef int take_addr(Addr *addr, bytes wire) except -1:
    if len(wire) == 4:
        addr_set4(addr, <const uint8_t *><const char *>wire)
    elif len(wire) == 16:
        memcpy(addr.b, <const char *>wire, 16)
    else:
        raise ValueError("an address has 4 or 16 bytes")
    return 0


def pseudo_checksum(bytes src not None, bytes dst not None, uint8_t proto, bytes segment not None,
                    bint partial=False):
    """The two bytes of the checksum field: over pseudo-header and segment, or (`partial`) the
    pseudo-header's sum alone.
    """
    cdef uint8_t field[2]
    cdef Addr a, b
    cdef uint64_t total
    take_addr(&a, src)
    take_addr(&b, dst)
    total = csum_pseudo(&a, &b, proto, <uint32_t>len(segment))
    if partial:
        csum_store_partial(field, total)
    else:
        csum_store(field, csum_add(total, <const uint8_t *><const char *>segment, len(segment)))
    return (<const char *>field)[:2]


def fold(uint64_t total):
    """`csum_fold` of a raw sum."""
    return csum_fold(total)


def vnet_fields(bytes header not None):
    """(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset) of a virtio-net header."""
    cdef VnetHdr hdr
    if len(header) != VNET_HLEN:
        raise ValueError("a header has 12 bytes")
    vnet_parse(&hdr, <const uint8_t *><const char *>header)
    return hdr.flags, hdr.gso_type, hdr.hdr_len, hdr.gso_size, hdr.csum_start, hdr.csum_offset


def vnet_bytes(uint8_t flags, uint8_t gso_type, uint16_t hdr_len, uint16_t gso_size,
               uint16_t csum_start, uint16_t csum_offset):
    """A virtio-net header."""
    cdef uint8_t out[VNET_HLEN]
    cdef VnetHdr hdr
    memset(&hdr, 0, sizeof(hdr))
    hdr.flags = flags
    hdr.gso_type = gso_type
    hdr.hdr_len = hdr_len
    hdr.gso_size = gso_size
    hdr.csum_start = csum_start
    hdr.csum_offset = csum_offset
    vnet_build(out, &hdr)
    return (<const char *>out)[:VNET_HLEN]
