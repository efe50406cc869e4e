# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""Reassembly: see frag.pxd for the theory."""
from libc.stdint cimport uint8_t, uint16_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memmove, memset

from .csum cimport csum_add, csum_store
from .ctx cimport FRAG_DATAGRAMS_MAX, FRAG_HEADER_MAX, FRAG_PIECES_MAX, Piece, Reassembly
from .stats cimport (
    CTR_FRAGS_EVICTED, CTR_FRAGS_REASSEMBLED, CTR_FRAGS_TIMED_OUT, DROP_FRAG_DUPLICATE,
    DROP_FRAG_FULL, DROP_FRAG_MALFORMED, DROP_FRAG_OVERLAP, DROP_NONE, stats_count,
)
from .timers cimport timer_cancel, timer_set
from .wire cimport ETH_ALEN, addr_eq, store_be16, usec_t

cdef enum:
    FRAG_MEMORY_MAX = 1 << 20
    FRAG_CAPACITY_MIN = 4096
    FRAG4_TIMEOUT_US = 30000000     # RFC 791 3.2 begins with 15 s; RFC 1122 3.3.2 says 60 to 120,
                                    # for a network: on a link in memory nothing comes so late
    FRAG6_TIMEOUT_US = 60000000     # RFC 8200 4.5


cdef void release(Ctx *c, Reassembly *entry) noexcept nogil:
    """The place and its memory are free again."""
    free(entry.data)
    c.frag_bytes -= entry.capacity
    memset(entry, 0, sizeof(Reassembly))


cdef void forget_data(Ctx *c, Reassembly *entry) noexcept nogil:
    """Keep the place only, to swallow what is still on its way (RFC 5722 4)."""
    free(entry.data)
    c.frag_bytes -= entry.capacity
    entry.data = NULL
    entry.capacity = 0
    entry.dead = True


cdef Reassembly *oldest_but(Ctx *c, const Reassembly *spared) noexcept nogil:
    """The place in use for longest that is not `spared`; NULL when there is none."""
    cdef Reassembly *oldest = NULL
    cdef Reassembly *entry
    cdef int i
    for i in range(FRAG_DATAGRAMS_MAX):
        entry = &c.frags[i]
        if (entry.used and entry != spared
                and (oldest == NULL or entry.started_us < oldest.started_us)):
            oldest = entry
    return oldest


cdef void arm(Ctx *c) noexcept nogil:
    """One timer for all: set for the next that expires."""
    cdef usec_t due = ~<usec_t>0
    cdef int i
    for i in range(FRAG_DATAGRAMS_MAX):
        if c.frags[i].used:
            due = min(due, c.frags[i].expires_us)
    if due == ~<usec_t>0:
        timer_cancel(&c.timers, &c.frag_timer)
    else:
        timer_set(&c.timers, &c.frag_timer, due)


cdef Reassembly *find(Ctx *c, const IpHdr *ip) noexcept nogil:
    """RFC 791: source, destination, protocol and identification; RFC 8200: without protocol."""
    cdef Reassembly *entry
    cdef int i
    for i in range(FRAG_DATAGRAMS_MAX):
        entry = &c.frags[i]
        if (entry.used and entry.id == ip.fragment_id and addr_eq(&entry.src, &ip.src)
                and addr_eq(&entry.dst, &ip.dst) and (ip.v6 or entry.proto == ip.proto)):
            return entry
    return NULL


cdef Reassembly *begin(Ctx *c, const IpHdr *ip) noexcept nogil:
    """A place for a new datagram; the oldest loses its own when all are taken."""
    cdef Reassembly *entry = NULL
    cdef int i
    for i in range(FRAG_DATAGRAMS_MAX):
        if not c.frags[i].used:
            entry = &c.frags[i]
            break
    if entry == NULL:
        entry = oldest_but(c, NULL)
        stats_count(&c.stats, CTR_FRAGS_EVICTED)
        release(c, entry)
    entry.used = True
    entry.src = ip.src
    entry.dst = ip.dst
    entry.id = ip.fragment_id
    entry.proto = ip.proto
    entry.v6 = ip.v6
    entry.started_us = c.now_us
    entry.expires_us = c.now_us + (FRAG6_TIMEOUT_US if ip.v6 else FRAG4_TIMEOUT_US)
    arm(c)
    return entry


cdef bint make_room(Ctx *c, Reassembly *entry, uint32_t end) noexcept nogil:
    """Memory for payload up to `end`; the oldest datagrams give theirs. False: there is none."""
    cdef uint32_t want = FRAG_CAPACITY_MIN
    cdef Reassembly *oldest
    cdef uint8_t *data
    if FRAG_HEADER_MAX + end <= entry.capacity:
        return True
    while want < FRAG_HEADER_MAX + end:
        want *= 2
    while c.frag_bytes + want - entry.capacity > FRAG_MEMORY_MAX:
        oldest = oldest_but(c, entry)
        if oldest == NULL:
            return False
        stats_count(&c.stats, CTR_FRAGS_EVICTED)
        release(c, oldest)
    data = <uint8_t *>realloc(entry.data, want)
    if data == NULL:
        return False
    entry.data = data
    c.frag_bytes += want - entry.capacity
    entry.capacity = want
    return True


cdef Drop place_piece(Reassembly *entry, const IpHdr *ip, uint32_t start,
                      uint32_t end) noexcept nogil:
    """Note a piece between its neighbours, with which it must not overlap."""
    cdef uint32_t i = entry.n_pieces
    while i and entry.pieces[i - 1].start >= start:
        i -= 1
    if (i < entry.n_pieces and entry.pieces[i].start == start and entry.pieces[i].end == end
            and memcmp(entry.data + FRAG_HEADER_MAX + start, ip.payload, end - start) == 0):
        return DROP_FRAG_DUPLICATE
    if (i and entry.pieces[i - 1].end > start
            or i < entry.n_pieces and entry.pieces[i].start < end):
        return DROP_FRAG_OVERLAP
    if entry.n_pieces == FRAG_PIECES_MAX:
        return DROP_FRAG_FULL
    memmove(&entry.pieces[i + 1], &entry.pieces[i], (entry.n_pieces - i) * sizeof(Piece))
    entry.pieces[i].start = <uint16_t>start
    entry.pieces[i].end = <uint16_t>end
    entry.n_pieces += 1
    entry.have += end - start
    return DROP_NONE


cdef bint end_contradicts(const Reassembly *entry, bint last, uint32_t end) noexcept nogil:
    """Two ends, or bytes beyond the end."""
    if entry.total:
        return end > entry.total or last and end != entry.total
    return last and entry.n_pieces and entry.pieces[entry.n_pieces - 1].end > end


cdef void keep_header(Ctx *c, Reassembly *entry, const IpHdr *ip) noexcept nogil:
    """The first piece's header becomes the datagram's; it stands before the payload."""
    memcpy(entry.data + FRAG_HEADER_MAX - ip.header_bytes, ip.header, ip.header_bytes)
    memcpy(entry.mac, c.frame_mac, ETH_ALEN)
    entry.header_bytes = ip.header_bytes
    entry.next_header_at = ip.next_header_at
    entry.first_proto = ip.proto
    entry.first_bytes = ip.payload_bytes
    entry.ttl = ip.ttl
    entry.tos = ip.tos


cdef void present(Ctx *c, Reassembly *entry, IpHdr *ip, uint32_t payload_bytes) noexcept nogil:
    """Let `ip` stand for what is there; its bytes are ours until frag_done."""
    memset(ip, 0, sizeof(IpHdr))
    ip.src = entry.src
    ip.dst = entry.dst
    ip.v6 = entry.v6
    ip.proto = entry.first_proto
    ip.ttl = entry.ttl
    ip.tos = entry.tos
    ip.header = entry.data + FRAG_HEADER_MAX - entry.header_bytes
    ip.header_bytes = entry.header_bytes
    ip.next_header_at = entry.next_header_at
    ip.payload = entry.data + FRAG_HEADER_MAX
    ip.payload_bytes = payload_bytes
    ip.problem_code = -1
    ip.reassembled = True
    c.frag_whole = entry


cdef void make_whole4(const IpHdr *ip) noexcept nogil:
    """The header of the datagram as it was before it was cut."""
    cdef uint8_t *p = <uint8_t *>ip.header
    store_be16(p + 2, <uint16_t>(ip.header_bytes + ip.payload_bytes))
    store_be16(p + 6, 0)
    store_be16(p + 10, 0)
    csum_store(p + 10, csum_add(0, p, ip.header_bytes))


cdef Drop take_piece(Ctx *c, Reassembly *entry, const IpHdr *ip) noexcept nogil:
    cdef uint32_t start = ip.fragment_offset
    cdef uint32_t end = start + ip.payload_bytes
    cdef Drop d
    if end_contradicts(entry, not ip.more_fragments, end):
        return DROP_FRAG_OVERLAP
    if not make_room(c, entry, end):
        return DROP_FRAG_FULL
    d = place_piece(entry, ip, start, end)
    if d != DROP_NONE:
        return d
    memcpy(entry.data + FRAG_HEADER_MAX + start, ip.payload, ip.payload_bytes)
    if not ip.more_fragments:
        entry.total = end
    if start == 0:
        keep_header(c, entry, ip)
    return DROP_NONE


cdef Drop frag_input(Ctx *c, IpHdr *ip) noexcept nogil:
    """A piece. With the last one `ip` stands for the whole datagram, and `ip.fragment` is off: then
    frag_done is due when it has been dealt with.
    """
    cdef Reassembly *entry
    cdef Drop d
    if (ip.payload_bytes == 0 or ip.more_fragments and ip.payload_bytes % 8
            or ip.header_bytes > FRAG_HEADER_MAX
            or (0 if ip.v6 else ip.header_bytes) + ip.fragment_offset + ip.payload_bytes > 65535):
        return DROP_FRAG_MALFORMED
    entry = find(c, ip)
    if entry == NULL:
        entry = begin(c, ip)
    if entry.dead:
        return DROP_FRAG_OVERLAP
    d = take_piece(c, entry, ip)
    if d != DROP_NONE:
        if d != DROP_FRAG_DUPLICATE:
            forget_data(c, entry)
        return d
    if entry.total == 0 or entry.have != entry.total:
        return DROP_NONE
    stats_count(&c.stats, CTR_FRAGS_REASSEMBLED)
    present(c, entry, ip, entry.total)
    if not ip.v6:
        make_whole4(ip)
    return DROP_NONE


cdef bint frag_pop_expired(Ctx *c, IpHdr *ip) noexcept nogil:
    """One datagram whose time is over and whose first piece had come: `ip` stands for that, its
    sender is to be told, and frag_done is due. False when none is left.
    """
    cdef Reassembly *entry
    cdef int i
    for i in range(FRAG_DATAGRAMS_MAX):
        entry = &c.frags[i]
        if not entry.used or entry.expires_us > c.now_us:
            continue
        if not entry.dead:
            stats_count(&c.stats, CTR_FRAGS_TIMED_OUT)
        if not entry.dead and entry.header_bytes:
            memcpy(c.frame_mac, entry.mac, ETH_ALEN)
            present(c, entry, ip, entry.first_bytes)
            return True
        release(c, entry)
    arm(c)
    return False


cdef void frag_done(Ctx *c) noexcept nogil:
    """Give back what was handed out."""
    if c.frag_whole != NULL:
        release(c, c.frag_whole)
        c.frag_whole = NULL
        arm(c)


cdef void frag_clear(Ctx *c) noexcept nogil:
    cdef int i
    for i in range(FRAG_DATAGRAMS_MAX):
        free(c.frags[i].data)
        c.frags[i].data = NULL


cdef uint32_t frag_count(const Ctx *c) noexcept nogil:
    """Datagrams of which pieces are kept."""
    cdef uint32_t n = 0
    cdef int i
    for i in range(FRAG_DATAGRAMS_MAX):
        n += 1 if c.frags[i].used else 0
    return n
