# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The fuzzer's scripts: see fuzz_script.pxd for the theory."""
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from .ctx cimport Ctx
from .fuzz cimport (
    CALLS, CONNS_MAX, SOCKETS_MAX, SOCKET_BOUND, SOCKET_LISTEN, SOCKET_TCP, STREAM_MAX,
    WAITING_MAX, Socket, Waiting, broken, next16, next32, next8,
)
from .fuzz_check cimport check_accounts, world_link_send
from .fuzz_frames cimport op_arp, op_datagram, op_icmp, op_mutate, op_raw, op_udp
from .fuzz_guest cimport guest_acks, guest_segment
from .fuzz_host cimport (
    fuzz_address, socket_open, socket_pick, sockets_count, world_host_init,
)
from .hostops cimport EVENT_ENDING, EVENT_ERROR, EVENT_READABLE, EVENT_WRITABLE, HostError
from .linux cimport (
    EACCES, EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT, EAGAIN, EBADF, ECONNABORTED, ECONNREFUSED,
    ECONNRESET, EHOSTDOWN, EHOSTUNREACH, EINTR, EINVAL, EIO, EMFILE, EMSGSIZE, ENETDOWN,
    ENETUNREACH, ENFILE, ENOBUFS, ENOMEM, ENOPROTOOPT, ENOSPC, ENOTCONN, EPERM, EPIPE, ETIMEDOUT,
)
from .seq cimport seq_t
from .stats cimport stats_as_dict
from .seam cimport seam_configure, seam_set_dns
from .stack cimport (
    stack_add_forward, stack_destroy, stack_host_event, stack_init, stack_remove_forward,
    stack_run_timers, stack_serve,
)
from .tcp cimport TCP_ACK, TCP_SYN
from .timers cimport timers_next
from .wire cimport IP_PROTO_TCP, IP_PROTO_UDP, Addr, usec_t

cdef enum:
    START_US = 1000000000
    SERVE_ROUNDS_MAX = 100000
    ACK_ROUNDS_MAX = 64
    DEADLINES_MAX = 400000          # until a world has to have come to rest
    STUCK_MAX = 64                  # deadlines in the past, one after another
    FORWARDS_MAX = 8
    HOLD = 0x80

    SILENT = 0                      # how a world ends: nobody says anything more,
    EOFS = 1                        # the host's peers close,
    ERRORS = 2                      # the host's sockets die,
    AT_ONCE = 3                     # the stack is destroyed as it stands


# What the calls of CALLS may fail with, by their man pages, each once.
cdef int *ERRNO_OF = [
    EAGAIN, EINTR, ENOBUFS, ENOMEM, EMFILE, ENFILE, ENOSPC, ECONNREFUSED, ECONNRESET, ECONNABORTED,
    EHOSTUNREACH, ENETUNREACH, ETIMEDOUT, EACCES, EPERM, EMSGSIZE, EPIPE, EADDRNOTAVAIL,
    EADDRINUSE, EAFNOSUPPORT, EINVAL, ENOTCONN, EIO, ENETDOWN, EHOSTDOWN, ENOPROTOOPT, EBADF,
]
cdef enum:
    N_ERRNOS = 27
    N_PASSING = 7                   # of these, the first: no connection is dead for them
ERRNOS = tuple([ERRNO_OF[at] for at in range(N_ERRNOS)])
CALLS_BY_NAME = (
    "tcp_connect", "tcp_connect_result", "tcp_send", "tcp_recv", "tcp_shutdown", "tcp_accept",
    "watch", "udp_open", "ping_open", "dgram_send", "dgram_recv", "link_send",
)


cdef int some_errno(uint8_t which) noexcept nogil:
    return ERRNO_OF[which % N_ERRNOS]


# ---- the stack at work -------------------------------------------------------------------------

cdef void serve(World *w) noexcept nogil:
    """The end of a batch; a guest that acknowledges by itself does it then."""
    cdef int rounds = 0
    cdef int acks
    for acks in range(ACK_ROUNDS_MAX):
        while stack_serve(w.c):
            rounds += 1
            if rounds > SERVE_ROUNDS_MAX:
                broken(w, "the stack never rests")
                return
        if not w.auto_ack or acks == ACK_ROUNDS_MAX - 1:
            break
        guest_acks(w)
        if w.c.touched == NULL:
            break
    check_accounts(w)


cdef void event(World *w, Socket *s, uint32_t events) noexcept nogil:
    """News of a socket, and with them whatever else is so, as epoll tells it."""
    if events & EVENT_READABLE and (s.eof or s.error):
        events |= EVENT_ENDING
    stack_host_event(w.c, s.ref, events)


cdef void let_time_pass(World *w, usec_t span_us, bint leap) noexcept nogil:
    """To the end of a span, stopping at each deadline; with a leap at none, as after a suspend."""
    cdef usec_t until = w.c.now_us + span_us
    cdef usec_t due
    cdef int _
    for _ in range(200):
        due = timers_next(&w.c.timers)
        if leap or due > until:
            break
        w.c.now_us = max(w.c.now_us, due)
        stack_run_timers(w.c)
        serve(w)
    w.c.now_us = until
    stack_run_timers(w.c)


# ---- operations: the guest ---------------------------------------------------------------------

cdef void op_segment(World *w) noexcept nogil:
    cdef uint8_t which = next8(w)
    cdef uint8_t flags = next8(w)
    cdef uint8_t numbers = next8(w)
    cdef uint8_t sizes = next8(w)
    guest_segment(w, which, flags, numbers, sizes, next8(w))


cdef void op_handshake(World *w) noexcept nogil:
    """SYN, the host connects, ACK."""
    cdef uint8_t which = next8(w)
    cdef uint8_t options = next8(w)
    cdef int at = which % CONNS_MAX
    cdef int i
    guest_segment(w, which, TCP_SYN, 0, 0, options)
    serve(w)
    for i in range(SOCKETS_MAX):
        if w.sockets[i].kind == SOCKET_TCP and w.sockets[i].fd == w.conns[at].pending_fd:
            w.sockets[i].connect_result = 0
            event(w, &w.sockets[i], EVENT_WRITABLE)
            serve(w)
            break
    guest_segment(w, which, TCP_ACK, 0, 0, 0)


cdef void op_text(World *w) noexcept nogil:
    """The next text of a connection, acknowledging all."""
    cdef uint8_t which = next8(w)
    guest_segment(w, which, TCP_ACK, 0, next8(w), 0)


# ---- operations: the host ----------------------------------------------------------------------

cdef void op_connected(World *w) noexcept nogil:
    """A connect() ends, well or not."""
    cdef Socket *s = socket_pick(w, next8(w))
    cdef uint8_t how = next8(w)
    if s == NULL or s.kind != SOCKET_TCP or s.connect_result == 0:
        return
    s.connect_result = 0 if how & 1 else -some_errno(how >> 1)
    if s.connect_result == -EAGAIN:
        s.connect_result = -ECONNREFUSED
    event(w, s, EVENT_WRITABLE | (EVENT_ERROR if s.connect_result else 0))


cdef void op_feed(World *w) noexcept nogil:
    """The host's peer sends bytes, and perhaps the end."""
    cdef Socket *s = socket_pick(w, next8(w))
    cdef uint8_t how = next8(w)
    cdef uint32_t n = next16(w)
    if s == NULL or s.kind != SOCKET_TCP or s.connect_result or s.eof:
        return
    if how & 1:
        n *= 16
    s.waiting = min(s.waiting + n, <uint32_t>STREAM_MAX)
    s.eof = how & 2
    event(w, s, EVENT_READABLE)


cdef void op_room(World *w) noexcept nogil:
    """The host's peer reads, or stops reading."""
    cdef Socket *s = socket_pick(w, next8(w))
    cdef uint8_t how = next8(w)
    cdef uint32_t n = next16(w)
    if s == NULL or s.kind != SOCKET_TCP:
        return
    s.room = n if how & 1 else <uint32_t>0xFFFFFFFF
    if s.room and s.connect_result == 0:
        event(w, s, EVENT_WRITABLE)


cdef void op_die(World *w) noexcept nogil:
    """A connection dies at the host."""
    cdef Socket *s = socket_pick(w, next8(w))
    cdef uint8_t how = next8(w)
    if s == NULL or s.kind != SOCKET_TCP or s.connect_result:
        return
    s.error = ERRNO_OF[N_PASSING + how % (N_ERRNOS - N_PASSING)]
    s.connect_result = -s.error
    s.failed = True
    event(w, s, EVENT_READABLE | EVENT_WRITABLE | EVENT_ERROR)


cdef void op_arrive(World *w) noexcept nogil:
    """A datagram, or a train, comes in; or a client to a listener."""
    cdef Socket *s = socket_pick(w, next8(w))
    cdef uint8_t how = next8(w)
    cdef Waiting *waiting
    if s == NULL or s.kind == SOCKET_TCP:
        return
    if s.kind == SOCKET_LISTEN:
        s.clients = min(s.clients + 1 + how % 8, 16)
    elif s.n_datagrams < WAITING_MAX:
        waiting = &s.datagrams[s.n_datagrams]
        waiting.peer = how & 31
        waiting.port = 7000 + (how >> 6)
        waiting.length = next16(w)
        waiting.segment_bytes = next16(w) if how & 32 else 0
        s.n_datagrams += 1
    event(w, s, EVENT_READABLE)


cdef void op_report(World *w) noexcept nogil:
    """An entry comes into a socket's error queue."""
    cdef Socket *s = socket_pick(w, next8(w))
    cdef uint8_t how = next8(w)
    cdef HostError *error
    if s == NULL or s.kind == SOCKET_TCP or s.kind == SOCKET_LISTEN or s.n_errors >= WAITING_MAX:
        return
    error = &s.errors[s.n_errors]
    memset(error, 0, sizeof(HostError))
    error.error = some_errno(how)
    error.from_icmp = how & 0x20
    error.icmp_type = next8(w)
    error.icmp_code = next8(w)
    error.mtu = next16(w)
    fuzz_address(&error.peer_addr, next8(w))
    fuzz_address(&error.offender_addr, next8(w))
    error.peer_port = 7000 + (how >> 6)
    s.n_errors += 1
    event(w, s, EVENT_ERROR)


cdef void op_event(World *w) noexcept nogil:
    """Events that mean nothing, of a socket or of nobody."""
    cdef uint8_t which = next8(w)
    cdef Socket *s = socket_pick(w, which)
    cdef uint8_t events = next8(w)
    if events & 0x80:
        stack_host_event(w.c, next32(w) | <uint64_t>(1 + (events >> 6 & 1)) << 32, events & 7)
    elif s != NULL:
        event(w, s, events & 7)


cdef void op_fault(World *w) noexcept nogil:
    """The next calls of one kind fail; or, with a count of zero, no call does any more."""
    cdef uint8_t call = next8(w) % CALLS
    cdef int error = some_errno(next8(w))
    cdef uint32_t count = next8(w) % 17
    cdef int i
    w.fault_errno[call] = error
    w.fault_count[call] = count
    for i in range(CALLS if count == 0 else 0):
        w.fault_count[i] = 0


cdef void op_forward(World *w) noexcept nogil:
    """A forward is added, or one goes."""
    cdef uint8_t how = next8(w)
    cdef Socket *s
    cdef Addr guest
    cdef uint8_t proto = IP_PROTO_UDP if how & 2 else IP_PROTO_TCP
    cdef int index
    if how & 1 or sockets_count(w) > SOCKETS_MAX - 8:
        stack_remove_forward(w.c, (how >> 2) % FORWARDS_MAX)
        return
    s = socket_open(w, SOCKET_BOUND if how & 2 else SOCKET_LISTEN, 0)
    if s == NULL:
        return
    s.v6 = how & 0x80 and w.c.conf.ip6
    fuzz_address(&guest, (0 if how & 4 else 5) + (16 if s.v6 else 0))
    index = stack_add_forward(w.c, proto, s.fd, &guest, 5000 + (how >> 3 & 3))
    if index < 0:
        s.kind = 0                  # still the caller's, who closes it
    elif index >= FORWARDS_MAX:
        stack_remove_forward(w.c, index)


# ---- operations: time and the world ------------------------------------------------------------

cdef usec_t some_span(uint8_t which) noexcept nogil:
    cdef usec_t *known = [
        1000, 10000, 40000, 200000, 1000000, 10000000, 75000000, 200000000, 7200000000,
        86400000000, 30 * 86400000000, 500, 3000000, 60000000, 600000000, 130000000,
    ]
    return known[which & 15]


cdef void op_time(World *w) noexcept nogil:
    cdef uint8_t how = next8(w)
    let_time_pass(w, some_span(how), how & 0x80)


cdef void op_deadline(World *w) noexcept nogil:
    """The next deadline comes."""
    cdef usec_t due = timers_next(&w.c.timers)
    if due != ~<usec_t>0:
        w.c.now_us = max(w.c.now_us, due)
    stack_run_timers(w.c)


cdef void op_acks(World *w) noexcept nogil:
    guest_acks(w)


ctypedef void (*Operation)(World *w) noexcept nogil

cdef Operation *OPS = [
    op_handshake, op_text, op_segment, op_acks, op_connected, op_feed, op_room, op_time,
    op_deadline, op_die, op_udp, op_icmp, op_arp, op_datagram, op_mutate, op_raw,
    op_arrive, op_report, op_event, op_fault, op_forward, op_segment, op_text, op_feed,
]
OPERATIONS = (
    "handshake", "text", "segment", "acks", "connected", "feed", "room", "time", "deadline", "die",
    "udp", "icmp", "arp", "datagram", "mutate", "raw", "arrive", "report", "event", "fault",
    "forward",
)


# ---- the life of a world -----------------------------------------------------------------------

cdef void run_operations(World *w) noexcept nogil:
    cdef uint8_t op
    while w.left and w.failure == NULL:
        op = next8(w)
        OPS[(op & 63) % 24](w)
        if not op & HOLD:
            serve(w)
    serve(w)


cdef void end_hosts(World *w) noexcept nogil:
    """The faults are over; what the host's sides do at last."""
    cdef Socket *s
    cdef uint32_t i
    w.auto_ack = False
    for i in range(CALLS):
        w.fault_count[i] = 0
    for i in range(FORWARDS_MAX):
        stack_remove_forward(w.c, i)
    for i in range(SOCKETS_MAX):
        s = &w.sockets[i]
        if s.kind == SOCKET_TCP and s.connect_result == 0 and w.end != SILENT:
            if w.end == EOFS:
                s.eof = True
            else:
                s.error = ECONNRESET
                s.failed = True
            event(w, s, EVENT_READABLE | (EVENT_ERROR if w.end == ERRORS else 0))
    serve(w)


cdef void come_to_rest(World *w) noexcept nogil:
    """The guest is silent from now on: everything has to end by itself."""
    cdef usec_t due
    cdef int stuck = 0
    cdef int _
    for _ in range(DEADLINES_MAX):
        due = timers_next(&w.c.timers)
        if due == ~<usec_t>0 or w.failure != NULL:
            break
        stuck = stuck + 1 if due <= w.c.now_us else 0
        if stuck > STUCK_MAX:
            broken(w, "a deadline stays in the past")
        w.c.now_us = max(w.c.now_us, due)
        stack_run_timers(w.c)
        serve(w)
    if w.c.flows.n_flows or w.c.timers.armed:
        broken(w, "flows or timers are left")
    if w.c.pool.used_blocks or w.c.frag_bytes:
        broken(w, "memory is left")
    if sockets_count(w):
        broken(w, "sockets are left open")


cdef void world_configure(World *w) except *:
    """The settings that a script begins with."""
    cdef uint8_t link, bounds
    link = next8(w)
    bounds = next8(w)
    flows = (64, 64, 128, 1024)[bounds >> 4 & 3]
    memory = (1 << 20, 1 << 20, 4 << 20, 64 << 20)[bounds >> 2 & 3]
    if w.c == NULL or not stack_init(w.c, flows, memory, START_US):
        raise MemoryError
    memset(&w.c.secret, 0x5A, sizeof(w.c.secret))           # the same numbers every time
    memset(&w.c.flows.secret, 0xA5, sizeof(w.c.flows.secret))
    v6 = {
        "network6": b"\xfd" + bytes(15), "prefix_len6": 64,
        "gateway6": b"\xfd" + bytes(14) + b"\x02",
        "dns6": b"\xfd" + bytes(14) + b"\x03", "guest6": b"\xfd" + bytes(14) + b"\x64",
    }
    seam_configure(w.c, {
        "mtu": (1500, 576, 1280, 65520)[link & 3],
        "offload": (0, 1, 7, 103)[link >> 2 & 3],
        "host_loopback": bool(link & 16), "dns_enabled": bool(link & 32),
        "network4": b"\x0a\x00\x02\x00", "prefix_len4": 24, "gateway4": b"\x0a\x00\x02\x02",
        "dns4": b"\x0a\x00\x02\x03", "guest4": b"\x0a\x00\x02\x64",
        "gateway_mac": b"\x52\x55\x00\x00\x02\x02", "guest_mac": b"\x02\x00\x00\x00\x00\x01",
        "max_flows": flows, "tcp_buffer_bytes": (1 << 16, 70000, 1 << 20, 4 << 20)[bounds & 3],
        **(v6 if link & 128 and link & 3 != 1 else {}),     # not over 576 bytes (RFC 8200 5)
    })
    seam_set_dns(w.c, [b"\xc0\x00\x02\x35", b"\x20\x01\x0d\xb8" + bytes(11) + b"\x35"])
    w.auto_ack = link & 64
    w.next_isn = <seq_t>0xFFFF0000
    w.next_fd = 100
    w.conn_in_hand = -1
    w.end = next8(w) & 3
    world_host_init(w)
    w.c.link.impl = w
    w.c.link.send = world_link_send


cdef void world_free(World *w) noexcept:
    free(w.c)
    free(w)


cdef World *world_new(const uint8_t *script, size_t n) except NULL:
    """A world at the beginning of a script. Raises MemoryError."""
    cdef World *w = <World *>calloc(1, sizeof(World))
    if w == NULL:
        raise MemoryError
    w.c = <Ctx *>calloc(1, sizeof(Ctx))
    w.script = script
    w.left = <uint32_t>n
    try:
        world_configure(w)
    except MemoryError:
        world_free(w)
        raise
    return w


cdef void world_run(World *w) noexcept nogil:
    """The script, and the end: of the stack nothing is left but its counters."""
    run_operations(w)
    if w.end != AT_ONCE:
        end_hosts(w)
        come_to_rest(w)
    stack_destroy(w.c)
    if sockets_count(w):
        broken(w, "sockets are left open")


cdef const char *fuzz_run(const uint8_t *script, size_t n) except? NULL:
    """Run a script in a world of its own: the rule that was broken, or NULL. Raises MemoryError."""
    cdef World *w = world_new(script, n)
    cdef const char *failure
    world_run(w)
    failure = w.failure
    world_free(w)
    return failure


def run(bytes script not None):
    """The same for Python: None, or the rule that was broken."""
    cdef const char *failure = fuzz_run(<const uint8_t *><const char *>script, len(script))
    return None if failure == NULL else failure.decode()


def trace(bytes script not None):
    """What a script did: the stack's counters, a digest of all frames that it sent, and the most
    that it ever held.
    """
    cdef World *w = world_new(<const uint8_t *><const char *>script, len(script))
    world_run(w)
    stats = stats_as_dict(&w.c.stats)
    stats["digest"] = w.digest
    stats["peak_flows"] = w.peak_flows
    stats["peak_slabs"] = w.peak_slabs
    stats["peak_blocks"] = w.peak_blocks
    world_free(w)
    return stats
