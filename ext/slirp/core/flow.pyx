# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The flow table: see flow.pxd for the theory."""
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcmp, memset

from .siphash cimport siphash_words

if sizeof(FlowKey) != 40:
    raise ImportError("struct FlowKey has padding, which would be hashed")


cdef bint flows_init(FlowTable *table, uint32_t max_flows, const SipKey *secret) noexcept nogil:
    memset(table, 0, sizeof(FlowTable))
    table.secret = secret[0]
    table.max_flows = min(max_flows, <uint32_t>FLOWS_LIMIT)
    table.n_slots = 1024
    table.slots = <HashSlot *>calloc(table.n_slots, sizeof(HashSlot))
    return table.slots != NULL


cdef void flows_destroy(FlowTable *table) noexcept nogil:
    cdef uint32_t i
    for i in range(table.n_slabs):
        free(table.slabs[i])
    free(table.slabs)
    free(table.slots)
    memset(table, 0, sizeof(FlowTable))


cdef bint add_slab(FlowTable *table) noexcept nogil:
    """SLAB_FLOWS more free flows. False at the bound or without memory."""
    cdef Flow **slabs
    cdef Flow *slab
    cdef int i
    if table.n_slabs * SLAB_FLOWS >= table.max_flows:
        return False
    slabs = <Flow **>realloc(table.slabs, (table.n_slabs + 1) * sizeof(Flow *))
    if slabs == NULL:
        return False
    table.slabs = slabs
    slab = <Flow *>calloc(SLAB_FLOWS, sizeof(Flow))
    if slab == NULL:
        return False
    slabs[table.n_slabs] = slab
    for i in range(SLAB_FLOWS - 1, -1, -1):
        slab[i].index = table.n_slabs * SLAB_FLOWS + i
        slab[i].fd = -1
        slab[i].touched_next = table.free
        table.free = &slab[i]
    table.n_slabs += 1
    return True


cdef inline uint64_t key_hash(const FlowTable *table, const FlowKey *key) noexcept nogil:
    return siphash_words(&table.secret, <const uint64_t *>key, sizeof(FlowKey) // 8)


cdef void slot_put(FlowTable *table, uint64_t hash_, uint32_t index) noexcept nogil:
    cdef uint32_t mask = table.n_slots - 1
    cdef uint32_t i = <uint32_t>hash_ & mask
    while table.slots[i].index_plus_1:
        i = (i + 1) & mask
    table.slots[i].tag = <uint32_t>(hash_ >> 32)
    table.slots[i].index_plus_1 = index + 1


cdef bint grow_slots(FlowTable *table) noexcept nogil:
    cdef HashSlot *old = table.slots
    cdef uint32_t n_old = table.n_slots
    cdef uint32_t i, index
    cdef HashSlot *slots = <HashSlot *>calloc(n_old * 2, sizeof(HashSlot))
    if slots == NULL:
        return False
    table.slots = slots
    table.n_slots = n_old * 2
    for i in range(n_old):
        if old[i].index_plus_1:
            index = old[i].index_plus_1 - 1
            slot_put(table, flow_at(table, index).hash, index)
    free(old)
    return True


cdef Flow *flow_alloc(FlowTable *table, const FlowKey *key, FlowKind kind) noexcept nogil:
    """A zeroed flow under that key, which must not be in the table. NULL at the bound or without
    memory.
    """
    cdef Flow *flow
    cdef uint32_t index, generation
    if table.free == NULL and not add_slab(table):
        return NULL
    if (table.n_hashed + 1) * 2 > table.n_slots and not grow_slots(table):
        return NULL
    flow = table.free
    table.free = flow.touched_next
    index = flow.index
    generation = flow.generation
    memset(flow, 0, sizeof(Flow))
    flow.index = index
    flow.generation = generation
    flow.key = key[0]
    flow.kind = kind
    flow.fd = -1
    flow.hash = key_hash(table, key)
    flow.lru_class = LRU_CLASSES
    slot_put(table, flow.hash, index)
    table.n_hashed += 1
    table.n_flows += 1
    return flow


cdef uint32_t find_slot(const FlowTable *table, const Flow *flow) noexcept nogil:
    """The slot of a flow that is in the table."""
    cdef uint32_t mask = table.n_slots - 1
    cdef uint32_t i = <uint32_t>flow.hash & mask
    while table.slots[i].index_plus_1 != flow.index + 1:
        i = (i + 1) & mask
    return i


cdef void flow_unhash(FlowTable *table, Flow *flow) noexcept nogil:
    """Its key is free for another flow. Once only."""
    cdef uint32_t mask = table.n_slots - 1
    cdef uint32_t hole = find_slot(table, flow)
    cdef uint32_t i = hole
    cdef uint32_t home
    while True:                         # shift back whoever would not be found across the hole
        i = (i + 1) & mask
        if table.slots[i].index_plus_1 == 0:
            break
        home = <uint32_t>flow_at(table, table.slots[i].index_plus_1 - 1).hash & mask
        if ((i - home) & mask) >= ((i - hole) & mask):
            table.slots[hole] = table.slots[i]
            hole = i
    table.slots[hole].index_plus_1 = 0
    table.n_hashed -= 1


cdef void flow_free(FlowTable *table, Flow *flow) noexcept nogil:
    """Give the entry back. It is unhashed, has no socket, no timer, and is not on the touched list.
    """
    flow_set_class(table, flow, LRU_CLASSES)
    flow.generation = (flow.generation + 1) & ((1 << (32 - HANDLE_INDEX_BITS)) - 1)
    flow.kind = FlowKind.FLOW_FREE
    flow.touched_next = table.free
    table.free = flow
    table.n_flows -= 1


cdef Flow *flow_lookup(FlowTable *table, const FlowKey *key) noexcept nogil:
    cdef uint64_t hash_ = key_hash(table, key)
    cdef uint32_t mask = table.n_slots - 1
    cdef uint32_t i = <uint32_t>hash_ & mask
    cdef uint32_t tag = <uint32_t>(hash_ >> 32)
    cdef Flow *flow
    while table.slots[i].index_plus_1:
        if table.slots[i].tag == tag:
            flow = flow_at(table, table.slots[i].index_plus_1 - 1)
            if memcmp(&flow.key, key, sizeof(FlowKey)) == 0:
                return flow
        i = (i + 1) & mask
    return NULL


cdef Flow *flow_by_handle(FlowTable *table, uint32_t handle) noexcept nogil:
    """The flow an event was meant for, or NULL when that one is gone."""
    cdef uint32_t index = handle & (FLOWS_LIMIT - 1)
    cdef Flow *flow
    if index >= table.n_slabs * SLAB_FLOWS:
        return NULL
    flow = flow_at(table, index)
    if flow.kind == FlowKind.FLOW_FREE or flow_handle(flow) != handle:
        return NULL
    return flow


cdef void flow_set_class(FlowTable *table, Flow *flow, int lru_class) noexcept nogil:
    """Move the flow to the young end of another list; LRU_CLASSES: to none."""
    cdef FlowList *lst
    if flow.lru_class < LRU_CLASSES:
        lst = &table.lru[flow.lru_class]
        if flow.lru_prev != NULL:
            flow.lru_prev.lru_next = flow.lru_next
        else:
            lst.oldest = flow.lru_next
        if flow.lru_next != NULL:
            flow.lru_next.lru_prev = flow.lru_prev
        else:
            lst.newest = flow.lru_prev
        lst.count -= 1
    flow.lru_class = <uint8_t>lru_class
    flow.lru_next = NULL
    flow.lru_prev = NULL
    if lru_class < LRU_CLASSES:
        lst = &table.lru[lru_class]
        flow.lru_prev = lst.newest
        if lst.newest != NULL:
            lst.newest.lru_next = flow
        else:
            lst.oldest = flow
        lst.newest = flow
        lst.count += 1


cdef void flow_use(FlowTable *table, Flow *flow) noexcept nogil:
    """It was used: make it the youngest of its list."""
    if table.lru[flow.lru_class].newest != flow:
        flow_set_class(table, flow, flow.lru_class)
