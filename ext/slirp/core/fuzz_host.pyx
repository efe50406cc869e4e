# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The fuzzer's host: see fuzz_host.pxd for the theory."""
from libc.stdint cimport uint16_t
from libc.string cimport memcpy, memset

from .fuzz cimport (
    CALL_ACCEPT, CALL_CONNECT, CALL_CONNECT_RESULT, CALL_DGRAM_RECV, CALL_DGRAM_SEND,
    CALL_PING_OPEN, CALL_RECV, CALL_SEND, CALL_SHUTDOWN, CALL_UDP_OPEN, CALL_WATCH, SOCKETS_MAX,
    SOCKET_BOUND, SOCKET_DGRAM, SOCKET_LISTEN, SOCKET_TCP, Call, Conn, Waiting, broken,
    guest_byte, host_byte,
)
from .hostops cimport REF_FORWARD, Datagram, HostError
from .linux cimport EAGAIN, EINPROGRESS, EMFILE, EPIPE, iovec
from .seq cimport seq_gt
from .wire cimport Addr, addr_set4


# ---- addresses ---------------------------------------------------------------------------------

cdef const uint8_t *KNOWN4 = (
    b"\x0a\x00\x02\x64"         # the guest's own
    b"\x0a\x00\x02\x02"         # the gateway
    b"\x0a\x00\x02\x03"         # DNS
    b"\xc0\x00\x02\x50"         # the world
    b"\xc0\x00\x02\x51"
    b"\x0a\x00\x02\x65"         # others in the subnet
    b"\x0a\x00\x02\x66"
    b"\x0a\x00\x02\xff"
    b"\x7f\x00\x00\x01"
    b"\xff\xff\xff\xff"
    b"\xe0\x00\x00\x01"
    b"\x00\x00\x00\x00"
    b"\x0a\x00\x02\x00"
    b"\x0a\x00\x03\x01"
    b"\xcb\x00\x71\x07"
    b"\xc6\x33\x64\x01")
cdef const uint8_t *KNOWN6 = (
    b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x64"
    b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02"
    b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x03"
    b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x50"
    b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x51"
    b"\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x65"
    b"\xfe\x80\0\0\0\0\0\0\0\0\0\0\0\0\0\x02"
    b"\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"
    b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"
    b"\xff\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\x02"
    b"\xff\x02\0\0\0\0\0\0\0\0\0\x01\xff\0\0\x02"
    b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    b"\0\0\0\0\0\0\0\0\0\0\xff\xff\x7f\0\0\x01"
    b"\xff\x02\0\0\0\0\0\0\0\0\0\0\0\x01\0\x02"
    b"\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff"
    b"\x20\x02\xc0\x00\x02\x01\0\0\0\0\0\0\0\0\0\x01")


cdef void fuzz_address(Addr *addr, uint8_t which) noexcept nogil:
    """Addresses that mean something to the stack, by number; from 16 on of IPv6."""
    which &= 31
    if which < 16:
        addr_set4(addr, KNOWN4 + 4 * which)
    else:
        memcpy(addr.b, KNOWN6 + 16 * (which - 16), 16)


# ---- sockets -----------------------------------------------------------------------------------

cdef Socket *socket_of(World *w, int fd) noexcept nogil:
    """The open socket of that descriptor; NULL, and a broken rule, when it is not open."""
    cdef int i
    for i in range(SOCKETS_MAX):
        if w.sockets[i].kind and w.sockets[i].fd == fd:
            return &w.sockets[i]
    broken(w, "a call on a descriptor that is not open")
    return NULL


cdef Socket *socket_open(World *w, uint8_t kind, uint64_t ref) noexcept nogil:
    """A new socket; NULL when descriptors are out."""
    cdef Socket *s
    cdef int i
    for i in range(SOCKETS_MAX):
        s = &w.sockets[i]
        if s.kind == 0:
            memset(s, 0, sizeof(Socket))
            w.next_fd += 1
            s.kind = kind
            s.fd = w.next_fd
            s.ref = ref
            s.conn = -1
            s.room = <uint32_t>0xFFFFFFFF
            return s
    return NULL


cdef Socket *socket_pick(World *w, uint8_t which) noexcept nogil:
    """The open socket of that number, counted from the newest; NULL when there are none."""
    cdef uint32_t n = sockets_count(w)
    cdef uint32_t rank = which % n if n else 0
    cdef Socket *best = NULL
    cdef int below = 0x7FFFFFFF
    cdef int i
    if n == 0:
        return NULL
    while True:
        best = NULL
        for i in range(SOCKETS_MAX):
            if (w.sockets[i].kind and w.sockets[i].fd < below
                    and (best == NULL or w.sockets[i].fd > best.fd)):
                best = &w.sockets[i]
        if rank == 0 or best == NULL:
            return best
        below = best.fd
        rank -= 1


cdef uint32_t sockets_count(const World *w) noexcept nogil:
    cdef uint32_t n = 0
    cdef int i
    for i in range(SOCKETS_MAX):
        n += w.sockets[i].kind != 0
    return n


cdef int fault(World *w, Call call) noexcept nogil:
    """The errno that this call fails with, or 0."""
    if w.fault_count[<int>call] == 0:
        return 0
    w.fault_count[<int>call] -= 1
    return w.fault_errno[<int>call]


cdef int faulty(World *w, Socket *s, Call call) noexcept nogil:
    """The same for a socket's stream, which is then as dead as the errno says."""
    cdef int error = fault(w, call)
    if error and error != EAGAIN:
        s.failed = True
    return error


# ---- TCP ---------------------------------------------------------------------------------------

cdef int world_connect(void *impl, uint64_t ref, const Addr *addr, uint16_t port,
                       uint8_t tos) noexcept nogil:
    cdef World *w = <World *>impl
    cdef int error = fault(w, CALL_CONNECT)
    cdef Socket *s
    if error:
        return -error
    s = socket_open(w, SOCKET_TCP, ref)
    if s == NULL:
        return -EMFILE
    s.connect_result = -EINPROGRESS
    s.conn = w.conn_in_hand
    if s.conn >= 0:
        w.conns[s.conn].pending_fd = s.fd
    return s.fd


cdef int world_connect_result(void *impl, int fd) noexcept nogil:
    cdef World *w = <World *>impl
    cdef Socket *s = socket_of(w, fd)
    cdef int error = fault(w, CALL_CONNECT_RESULT)
    if s == NULL or error:
        return -error
    return s.connect_result


cdef ssize_t world_send(void *impl, int fd, const iovec *iov, int n) noexcept nogil:
    """Take what there is room for; every byte has to be the one that the guest sent."""
    cdef World *w = <World *>impl
    cdef Socket *s = socket_of(w, fd)
    cdef const uint8_t *bytes_
    cdef uint32_t done = 0
    cdef uint32_t take, k
    cdef int error, i
    if s == NULL:
        return -EPIPE
    error = faulty(w, s, CALL_SEND)
    error = s.error if error == 0 else error
    if error:
        return -error
    if s.shut or s.connect_result:
        broken(w, "text for a socket that is shut or not connected")
    for i in range(n):
        bytes_ = <const uint8_t *>iov[i].iov_base
        take = min(min(<uint32_t>iov[i].iov_len, s.room), <uint32_t>sizeof(w.out))
        memcpy(w.out, bytes_, take)
        for k in range(take if s.conn >= 0 and not w.conns[s.conn].tainted else 0):
            if w.out[k] != guest_byte(s.conn, s.taken + k):
                broken(w, "the host was sent what the guest had not")
                break
        s.taken += take
        if s.room != <uint32_t>0xFFFFFFFF:
            s.room -= take
        done += take
        if take < iov[i].iov_len:
            break
    if done == 0:
        return -EAGAIN
    return done


cdef ssize_t world_recv(void *impl, int fd, const iovec *iov, int n) noexcept nogil:
    cdef World *w = <World *>impl
    cdef Socket *s = socket_of(w, fd)
    cdef uint32_t done = 0
    cdef uint32_t take, k
    cdef int error, i
    if s == NULL:
        return -EPIPE
    error = faulty(w, s, CALL_RECV)
    if error:
        return -error
    if n == 0 or iov[0].iov_len == 0:
        broken(w, "recv() of nothing looks like the end")
    for i in range(n):
        take = min(min(<uint32_t>iov[i].iov_len, s.waiting), <uint32_t>sizeof(w.out))
        for k in range(take):
            w.out[k] = host_byte(s.given + k)
        memcpy(iov[i].iov_base, w.out, take)
        s.given += take
        s.waiting -= take
        done += take
    if done:
        return done
    if s.error:
        return -s.error
    return 0 if s.eof else -EAGAIN


cdef int world_shutdown(void *impl, int fd) noexcept nogil:
    cdef World *w = <World *>impl
    cdef Socket *s = socket_of(w, fd)
    if s == NULL:
        return 0
    if s.shut:
        broken(w, "shutdown() twice")
    s.shut = True
    return -fault(w, CALL_SHUTDOWN)


cdef int world_accept(void *impl, int listen_fd, Addr *peer_addr,
                      uint16_t *peer_port) noexcept nogil:
    cdef World *w = <World *>impl
    cdef Socket *listener = socket_of(w, listen_fd)
    cdef int error = fault(w, CALL_ACCEPT)
    cdef Socket *s
    if error:
        return -error
    if listener == NULL or listener.clients == 0:
        return -EAGAIN
    s = socket_open(w, SOCKET_TCP, 0)
    if s == NULL:
        return -EMFILE
    listener.clients -= 1
    fuzz_address(peer_addr, 3 + (listener.clients & 3))     # the world, or the guest's neighbours
    peer_port[0] = 50000 + (listener.clients & 7)
    w.accepted_fd = s.fd
    return s.fd


cdef int world_watch(void *impl, int fd, uint64_t ref) noexcept nogil:
    cdef World *w = <World *>impl
    cdef Socket *s = socket_of(w, fd)
    cdef int error = fault(w, CALL_WATCH)
    if s == NULL or error:
        return -error
    s.ref = ref
    if ref >> 32 == REF_FORWARD and s.kind != SOCKET_LISTEN and s.kind != SOCKET_BOUND:
        broken(w, "a connection taken for a forward")
    return 0


cdef void world_close(void *impl, int fd) noexcept nogil:
    """A stream that ends in order has to be whole: what was acknowledged is with the host."""
    cdef World *w = <World *>impl
    cdef Socket *s = socket_of(w, fd)
    cdef Conn *conn
    if s == NULL:
        return
    if s.kind == SOCKET_TCP and s.conn >= 0 and not s.failed and not s.error:
        conn = &w.conns[s.conn]
        if (conn.open and conn.fd == fd and not conn.tainted
                and seq_gt(conn.una, conn.isn + 1 + s.taken + s.shut)):
            broken(w, "what was acknowledged is lost")
    s.kind = 0


cdef void world_reset(void *impl, int fd) noexcept nogil:
    cdef World *w = <World *>impl
    cdef Socket *s = socket_of(w, fd)
    if s != NULL:
        s.kind = 0
    if w.accepted_fd == fd:
        w.accepted_fd = 0                       # there was no room for it: no SYN will come


# ---- datagrams ---------------------------------------------------------------------------------

cdef int world_udp_open(void *impl, uint64_t ref, bint v4, const Addr *peer_addr,
                        uint16_t peer_port) noexcept nogil:
    cdef World *w = <World *>impl
    cdef int error = fault(w, CALL_UDP_OPEN)
    cdef Socket *s = NULL if error else socket_open(w, SOCKET_DGRAM, ref)
    if s != NULL:
        s.v6 = not v4
    return -error if error else -EMFILE if s == NULL else s.fd


cdef int world_ping_open(void *impl, uint64_t ref, bint v4) noexcept nogil:
    cdef World *w = <World *>impl
    cdef int error = fault(w, CALL_PING_OPEN)
    cdef Socket *s = NULL if error else socket_open(w, SOCKET_DGRAM, ref)
    if s != NULL:
        s.v6 = not v4
    return -error if error else -EMFILE if s == NULL else s.fd


cdef ssize_t world_dgram_send(void *impl, int fd, const Datagram *datagram) noexcept nogil:
    cdef World *w = <World *>impl
    cdef int error = fault(w, CALL_DGRAM_SEND)
    socket_of(w, fd)
    if error:
        return -error
    if datagram.segment_bytes and datagram.segment_bytes >= datagram.length:
        broken(w, "a train of one")
    if datagram.length > 65535:
        broken(w, "a datagram over 64 KiB")
        return -EMFILE
    memcpy(w.out, datagram.data, datagram.length)
    return datagram.length


cdef ssize_t world_dgram_recv(void *impl, int fd, Datagram *datagram) noexcept nogil:
    cdef World *w = <World *>impl
    cdef Socket *s = socket_of(w, fd)
    cdef int error = fault(w, CALL_DGRAM_RECV)
    cdef Waiting waiting
    if error:
        return -error
    if s == NULL or s.n_datagrams == 0:
        return -EAGAIN
    s.n_datagrams -= 1
    waiting = s.datagrams[s.n_datagrams]
    fuzz_address(&datagram.peer_addr, (waiting.peer & 15) + (16 if s.v6 else 0))
    datagram.peer_port = waiting.port
    datagram.length = waiting.length
    datagram.segment_bytes = waiting.segment_bytes
    datagram.ttl = 60
    memset(datagram.data, 0, min(waiting.length, datagram.capacity))    # ICMP: an echo reply
    w.may_deliver += 1
    if waiting.segment_bytes:
        w.may_deliver += waiting.length // waiting.segment_bytes
    return waiting.length


cdef int world_next_error(void *impl, int fd, HostError *error) noexcept nogil:
    cdef World *w = <World *>impl
    cdef Socket *s = socket_of(w, fd)
    if s == NULL or s.n_errors == 0:
        return 0
    s.n_errors -= 1
    error[0] = s.errors[s.n_errors]
    w.may_answer += 1
    return 1


cdef void world_set_option(void *impl, int fd, int option, int value) noexcept nogil:
    socket_of(<World *>impl, fd)


cdef void world_host_init(World *w) noexcept nogil:
    """Fill the stack's HostOps."""
    w.c.host.impl = w
    w.c.host.tcp_connect = world_connect
    w.c.host.tcp_connect_result = world_connect_result
    w.c.host.tcp_send = world_send
    w.c.host.tcp_recv = world_recv
    w.c.host.tcp_shutdown = world_shutdown
    w.c.host.tcp_accept = world_accept
    w.c.host.watch = world_watch
    w.c.host.close = world_close
    w.c.host.reset = world_reset
    w.c.host.udp_open = world_udp_open
    w.c.host.ping_open = world_ping_open
    w.c.host.dgram_send = world_dgram_send
    w.c.host.dgram_recv = world_dgram_recv
    w.c.host.next_error = world_next_error
    w.c.host.set_option = world_set_option
