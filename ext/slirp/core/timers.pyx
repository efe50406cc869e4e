# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The timer wheel: see timers.pxd for the theory."""
from libc.string cimport memset

cdef extern from *:
    """
    #define slirp_ctz64(x) __builtin_ctzll(x)
    """
    int ctz64 "slirp_ctz64"(uint64_t x) noexcept nogil


cdef inline void list_init(TimerNode *head) noexcept nogil:
    head.next = head
    head.prev = head


cdef inline void list_append(TimerNode *head, TimerNode *node) noexcept nogil:
    node.prev = head.prev
    node.next = head
    head.prev.next = node
    head.prev = node


cdef inline void list_remove(TimerNode *node) noexcept nogil:
    node.prev.next = node.next
    node.next.prev = node.prev
    node.prev = NULL


cdef void timers_init(TimerWheel *wheel, usec_t now_us) noexcept nogil:
    cdef int level, slot
    memset(wheel, 0, sizeof(TimerWheel))
    wheel.tick = now_us // TICK_US
    for level in range(WHEEL_LEVELS):
        for slot in range(WHEEL_SLOTS):
            list_init(&wheel.slots[level][slot])
    list_init(&wheel.due)


cdef void wheel_place(TimerWheel *wheel, TimerNode *node) noexcept nogil:
    """Put the node where its distance from the wheel's tick asks for."""
    cdef uint64_t distance
    cdef uint64_t at = node.expires_tick
    cdef uint32_t level = 0
    if at <= wheel.tick:
        node.level = WHEEL_LEVELS
        list_append(&wheel.due, node)
        return
    # The level is that of the highest group of six bits in which the two ticks differ: within a
    # turn of the level above, slots passed are never reused early. The last level has none above it
    # and turns on and on.
    distance = at ^ wheel.tick
    while distance >= WHEEL_SLOTS and level < WHEEL_LEVELS - 1:
        distance >>= 6
        level += 1
    node.level = level
    distance = (at >> (6 * level)) - (wheel.tick >> (6 * level))
    # Beyond the last level: its furthest slot, and placed anew from there
    if distance >= WHEEL_SLOTS:
        at = wheel.tick + (<uint64_t>(WHEEL_SLOTS - 1) << (6 * level))
    node.slot = <uint32_t>(at >> (6 * level)) & (WHEEL_SLOTS - 1)
    wheel.occupied[level] |= <uint64_t>1 << node.slot
    list_append(&wheel.slots[level][node.slot], node)


cdef void timer_set(TimerWheel *wheel, TimerNode *node, usec_t expires_us) noexcept nogil:
    """(Re)arm: the node is popped at the first tick that is not before `expires_us`."""
    if node.prev != NULL:
        timer_cancel(wheel, node)
    node.expires_tick = (expires_us + TICK_US - 1) // TICK_US
    wheel.armed += 1
    wheel_place(wheel, node)


cdef void timer_cancel(TimerWheel *wheel, TimerNode *node) noexcept nogil:
    """Disarm; nothing happens to a node that is not set."""
    cdef TimerNode *head
    if node.prev == NULL:
        return
    list_remove(node)
    wheel.armed -= 1
    if node.level < WHEEL_LEVELS:
        head = &wheel.slots[node.level][node.slot]
        if head.next == head:
            wheel.occupied[node.level] &= ~(<uint64_t>1 << node.slot)


cdef void wheel_cascade(TimerWheel *wheel, uint32_t level, uint32_t slot) noexcept nogil:
    """Place every node of a slot anew."""
    cdef TimerNode *head = &wheel.slots[level][slot]
    cdef TimerNode *node
    cdef TimerNode taken
    if head.next == head:
        return
    wheel.occupied[level] &= ~(<uint64_t>1 << slot)
    # Moved aside first: a node may land in the same slot again
    list_init(&taken)
    taken.next = head.next
    taken.prev = head.prev
    taken.next.prev = &taken
    taken.prev.next = &taken
    list_init(head)
    while taken.next != &taken:
        node = taken.next
        list_remove(node)
        wheel_place(wheel, node)


cdef uint64_t wheel_next_tick(const TimerWheel *wheel) noexcept nogil:
    """The next tick at which a slot is to be emptied; ~0 when the wheel is empty."""
    cdef uint64_t best = ~<uint64_t>0
    cdef uint64_t at, base
    cdef uint32_t level, slot, current
    for level in range(WHEEL_LEVELS):
        if wheel.occupied[level] == 0:
            continue
        base = wheel.tick >> (6 * level)
        current = <uint32_t>base & (WHEEL_SLOTS - 1)
        # Rotate so that the slot after the current one is bit 0.
        at = wheel.occupied[level]
        slot = (current + 1) & (WHEEL_SLOTS - 1)
        if slot:
            at = (at >> slot) | (at << (WHEEL_SLOTS - slot))
        at = (base + 1 + ctz64(at)) << (6 * level)
        best = min(best, at)
    return best


cdef TimerNode *timers_pop(TimerWheel *wheel, usec_t now_us) noexcept nogil:
    """The next node that is due, disarmed; NULL when there is none. Advances the wheel to `now_us`.
    """
    cdef uint64_t now_tick = now_us // TICK_US
    cdef uint64_t tick
    cdef uint32_t level
    cdef TimerNode *node
    while wheel.due.next == &wheel.due:
        tick = wheel_next_tick(wheel)
        if tick > now_tick:
            wheel.tick = max(wheel.tick, now_tick)
            return NULL
        wheel.tick = tick
        for level in range(WHEEL_LEVELS - 1, -1, -1):
            if tick & ((<uint64_t>1 << (6 * level)) - 1) == 0:
                wheel_cascade(wheel, level, <uint32_t>(tick >> (6 * level)) & (WHEEL_SLOTS - 1))
    node = wheel.due.next
    list_remove(node)
    wheel.armed -= 1
    return node


cdef usec_t timers_next(const TimerWheel *wheel) noexcept nogil:
    """When timers_pop has to be called next, at the latest; ~0 for never. May be early: a far timer
    moves down first.
    """
    cdef uint64_t tick
    if wheel.due.next != &wheel.due:
        return wheel.tick * TICK_US
    tick = wheel_next_tick(wheel)
    return tick if tick == ~<uint64_t>0 else tick * TICK_US
