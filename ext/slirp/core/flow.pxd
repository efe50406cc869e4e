# cython: language_level=3
"""The flow table: slabs of flows, a keyed hash over them, and lists by age.

Life of an entry:  free -> flow_alloc -> hashed -> (flow_unhash: found no more, it drains) ->
flow_free -> free, next generation.

The hash is open addressing with linear probing and deletion by shifting back (no tombstones); it
grows by doubling, up to twice the bound on flows. Key bytes go through SipHash with a secret, so
that a guest cannot choose collisions. Cost per look-up does not depend on the number of flows.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from .conn cimport Flow, FlowKey, FlowKind
from .siphash cimport SipKey
from .wire cimport Addr


cdef enum:
    SLAB_FLOWS = 64                 # flows in one slab: a power of two
    SLAB_SHIFT = 6
    HANDLE_INDEX_BITS = 20
    FLOWS_LIMIT = 1 << 20

    LRU_TCP = 0                     # established: never evicted
    LRU_HALF_OPEN = 1               # connecting, or waiting for the last ACK of the handshake
    LRU_TIME_WAIT = 2
    LRU_UDP = 3
    LRU_PING = 4
    LRU_CLASSES = 5


cdef struct HashSlot:
    uint32_t tag                    # upper half of the hash
    uint32_t index_plus_1           # 0: empty


cdef struct FlowList:
    Flow *oldest
    Flow *newest
    uint32_t count


cdef struct FlowTable:
    SipKey secret
    Flow **slabs
    uint32_t n_slabs
    uint32_t max_flows
    uint32_t n_flows                # in use
    Flow *free                      # chained by touched_next
    HashSlot *slots
    uint32_t n_slots                # a power of two
    uint32_t n_hashed
    FlowList lru[5]


cdef bint flows_init(FlowTable *table, uint32_t max_flows, const SipKey *secret) noexcept nogil
cdef void flows_destroy(FlowTable *table) noexcept nogil
cdef Flow *flow_alloc(FlowTable *table, const FlowKey *key, FlowKind kind) noexcept nogil
cdef void flow_unhash(FlowTable *table, Flow *flow) noexcept nogil
cdef void flow_free(FlowTable *table, Flow *flow) noexcept nogil
cdef Flow *flow_lookup(FlowTable *table, const FlowKey *key) noexcept nogil
cdef Flow *flow_by_handle(FlowTable *table, uint32_t handle) noexcept nogil
cdef void flow_set_class(FlowTable *table, Flow *flow, int lru_class) noexcept nogil
cdef void flow_use(FlowTable *table, Flow *flow) noexcept nogil


cdef inline uint32_t flow_handle(const Flow *flow) noexcept nogil:
    return (flow.generation << HANDLE_INDEX_BITS) | flow.index


cdef inline Flow *flow_at(FlowTable *table, uint32_t index) noexcept nogil:
    """The entry of that index, in use or free; the index is below n_slabs * SLAB_FLOWS."""
    return &table.slabs[index >> SLAB_SHIFT][index & (SLAB_FLOWS - 1)]
