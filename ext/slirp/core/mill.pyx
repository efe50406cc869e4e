# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The core turned by hand, between a host and a link that do nothing: what it costs alone.

Nothing of the daemon imports this module. A `Mill` takes frames once (`load`) and then turns them
through the stack in C, as often as asked, in batches as the Engine makes them. So neither Python
nor the kernel is part of what bench/micro.py measures, in nanoseconds or in instructions. The null
host takes whatever it is sent, and gives as many bytes or datagrams as it was stocked with.
"""
cimport cython
from libc.errno cimport EAGAIN
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from .ctx cimport Ctx
from .hostops cimport (
    EVENT_READABLE, EVENT_WRITABLE, Datagram, HostError, HostOps,
)
from .linux cimport CLOCK_MONOTONIC, clock_gettime, iovec, timespec
from .seam cimport seam_configure, seam_stats
from .stack cimport (
    stack_destroy, stack_host_event, stack_init, stack_input, stack_run_timers, stack_serve,
)
from .wire cimport (
    ETH_HLEN, IP4_HLEN, TCP_HLEN, VNET_HLEN, Addr, load_be32, store_be32,
)

cdef enum:
    TCP_AT = VNET_HLEN + ETH_HLEN + IP4_HLEN    # in frames of IPv4 without options
    SEQ_AT = TCP_AT + 4
    ACK_AT = TCP_AT + 8
    KEPT_BYTES = 256                            # of the last frame for the guest
    HEADERS_BYTES = 128                         # of a frame, in which those that are loaded differ
    FRAME_BYTES = 65536 + HEADERS_BYTES
    BATCH_US = 10                               # that pass between two batches
    BEGIN_US = 1000000


cdef struct Null:                   # the host and the link
    int next_fd
    uint64_t ref                    # of the last socket
    uint64_t stock_bytes            # that tcp_recv will still give
    uint32_t stock_datagrams        # that dgram_recv will still give
    uint32_t datagram_bytes
    uint16_t segment_bytes          # nonzero: those are trains
    Addr peer_addr
    uint16_t peer_port
    uint64_t host_bytes             # sent to the host
    uint64_t frame_bytes            # sent to the guest
    uint32_t seq_end                # behind the text of the last of them, if it was TCP
    uint8_t kept[KEPT_BYTES]
    uint32_t kept_bytes


cdef struct Frame:                  # the Engine reads all frames into the same few buffers: so here
    uint8_t headers[HEADERS_BYTES]
    uint32_t length
    uint32_t advance                # what is added to its sequence number at each turn


cdef size_t total_of(const iovec *iov, int n) noexcept nogil:
    cdef size_t total = 0
    cdef int i
    for i in range(n):
        total += iov[i].iov_len
    return total


# ---- the null host and link --------------------------------------------------------------------

cdef int null_tcp_connect(void *impl, uint64_t ref, const Addr *addr, uint16_t port,
                          uint8_t tos) noexcept nogil:
    cdef Null *null = <Null *>impl
    null.ref = ref
    null.next_fd += 1
    return null.next_fd


cdef int null_zero(void *impl, int fd) noexcept nogil:
    return 0


cdef void null_nothing(void *impl, int fd) noexcept nogil:
    pass


cdef int null_watch(void *impl, int fd, uint64_t ref) noexcept nogil:
    return 0


cdef void null_option(void *impl, int fd, int option, int value) noexcept nogil:
    pass


cdef int null_tcp_accept(void *impl, int listen_fd, Addr *peer_addr,
                         uint16_t *peer_port) noexcept nogil:
    return -EAGAIN


cdef ssize_t null_tcp_send(void *impl, int fd, const iovec *iov, int n) noexcept nogil:
    cdef size_t total = total_of(iov, n)
    (<Null *>impl).host_bytes += total
    return <ssize_t>total


cdef ssize_t null_tcp_recv(void *impl, int fd, const iovec *iov, int n) noexcept nogil:
    cdef Null *null = <Null *>impl
    cdef size_t take = min(total_of(iov, n), null.stock_bytes)
    if take == 0:
        return -EAGAIN
    null.stock_bytes -= take
    return <ssize_t>take


cdef int null_udp_open(void *impl, uint64_t ref, bint v4, const Addr *peer_addr,
                       uint16_t peer_port) noexcept nogil:
    return null_tcp_connect(impl, ref, NULL, 0, 0)


cdef int null_ping_open(void *impl, uint64_t ref, bint v4) noexcept nogil:
    return null_tcp_connect(impl, ref, NULL, 0, 0)


cdef ssize_t null_dgram_send(void *impl, int fd, const Datagram *datagram) noexcept nogil:
    cdef Null *null = <Null *>impl
    null.peer_addr = datagram.peer_addr
    null.peer_port = datagram.peer_port
    null.host_bytes += datagram.length
    return <ssize_t>datagram.length


cdef ssize_t null_dgram_recv(void *impl, int fd, Datagram *datagram) noexcept nogil:
    cdef Null *null = <Null *>impl
    if null.stock_datagrams == 0:
        return -EAGAIN
    null.stock_datagrams -= 1
    datagram.peer_addr = null.peer_addr
    datagram.peer_port = null.peer_port
    datagram.length = null.datagram_bytes
    datagram.segment_bytes = null.segment_bytes
    return 0


cdef int null_next_error(void *impl, int fd, HostError *error) noexcept nogil:
    return 0


cdef int null_frame(void *impl, const iovec *iov, int n) noexcept nogil:
    """Count the frame, keep how it begins, and note where its text ends."""
    cdef Null *null = <Null *>impl
    cdef size_t total = total_of(iov, n)
    cdef uint32_t headers
    null.frame_bytes += total - VNET_HLEN
    null.kept_bytes = <uint32_t>min(iov[0].iov_len, <size_t>KEPT_BYTES)
    memcpy(null.kept, iov[0].iov_base, null.kept_bytes)
    if null.kept_bytes >= TCP_AT + TCP_HLEN:
        headers = TCP_AT + (null.kept[TCP_AT + 12] >> 4) * 4
        null.seq_end = load_be32(null.kept + SEQ_AT) + <uint32_t>(total - headers)
    return 0


cdef uint64_t now_ns() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <uint64_t>t.tv_sec * 1000000000 + <uint64_t>t.tv_nsec


# ---- turning -----------------------------------------------------------------------------------

cdef void end_batch(Ctx *c) noexcept nogil:
    """What the Engine does behind the frames and events of a batch."""
    stack_run_timers(c)
    while stack_serve(c):
        pass
    c.now_us += BATCH_US


cdef void turn_frames(Ctx *c, Frame *frames, uint32_t count, uint8_t *buffer, uint32_t times,
                      uint32_t batch) noexcept nogil:
    cdef uint32_t i
    cdef Frame *frame
    for i in range(times):
        frame = &frames[i % count]
        memcpy(buffer, frame.headers, HEADERS_BYTES)
        stack_input(c, buffer, frame.length)
        if frame.advance:
            store_be32(frame.headers + SEQ_AT, load_be32(frame.headers + SEQ_AT) + frame.advance)
        if (i + 1) % batch == 0:
            end_batch(c)
    end_batch(c)


cdef void turn_stream(Ctx *c, Null *null, Frame *ack, uint32_t times,
                      uint32_t chunk) noexcept nogil:
    """The host has so many bytes; then the guest acknowledges what it got."""
    cdef uint32_t _i
    for _i in range(times):
        null.stock_bytes += chunk
        stack_host_event(c, null.ref, EVENT_READABLE)
        end_batch(c)
        store_be32(ack.headers + ACK_AT, null.seq_end)
        stack_input(c, ack.headers, ack.length)
        end_batch(c)


cdef void turn_datagrams(Ctx *c, Null *null, uint32_t times, uint32_t batch) noexcept nogil:
    """The host has so many datagrams at once, time after time; what is left is reported again."""
    cdef uint32_t _i
    for _i in range(times):
        null.stock_datagrams = batch
        while null.stock_datagrams:
            stack_host_event(c, null.ref, EVENT_READABLE)
            end_batch(c)


@cython.final
cdef class Mill:
    """A stack (settings as Engine's) and the frames of its guest."""
    cdef Ctx *c
    cdef Null null
    cdef Frame *frames
    cdef uint32_t count
    cdef uint8_t *buffer

    def __cinit__(self, **settings):
        cdef HostOps *ops
        self.c = <Ctx *>calloc(1, sizeof(Ctx))
        self.buffer = <uint8_t *>calloc(1, FRAME_BYTES)
        if (self.c == NULL or self.buffer == NULL
                or not stack_init(self.c, settings["max_flows"], settings["memory_bytes"],
                                  BEGIN_US)):
            raise MemoryError
        ops = &self.c.host
        ops.impl = &self.null
        ops.tcp_connect = null_tcp_connect
        ops.tcp_connect_result = null_zero
        ops.tcp_send = null_tcp_send
        ops.tcp_recv = null_tcp_recv
        ops.tcp_shutdown = null_zero
        ops.tcp_accept = null_tcp_accept
        ops.watch = null_watch
        ops.close = null_nothing
        ops.reset = null_nothing
        ops.udp_open = null_udp_open
        ops.ping_open = null_ping_open
        ops.dgram_send = null_dgram_send
        ops.dgram_recv = null_dgram_recv
        ops.next_error = null_next_error
        ops.set_option = null_option
        self.c.link.impl = &self.null
        self.c.link.send = null_frame
        seam_configure(self.c, settings)

    def __dealloc__(self):
        free(self.frames)
        free(self.buffer)
        if self.c != NULL:
            stack_destroy(self.c)
            free(self.c)

    def load(self, list frames not None, uint32_t advance=0):
        """The frames to be turned, in place of those before; they differ in their headers only.
        `advance` is what each adds to its sequence number at every turn.
        """
        cdef bytes frame
        cdef uint32_t i
        if not frames or not 0 < max(map(len, frames)) <= FRAME_BYTES:
            raise ValueError("a frame has 1 byte to 64 KiB")
        if any([one[HEADERS_BYTES:] != frames[0][HEADERS_BYTES:] for one in frames]):
            raise ValueError("only headers may differ")
        if advance and min(map(len, frames)) < TCP_AT + TCP_HLEN:
            raise ValueError("no TCP header")
        free(self.frames)
        self.count = 0
        self.frames = <Frame *>calloc(len(frames), sizeof(Frame))
        if self.frames == NULL:
            raise MemoryError
        memcpy(self.buffer, <const char *>(<bytes>frames[0]), len(<bytes>frames[0]))
        for i, frame in enumerate(frames):
            memcpy(self.frames[i].headers, <const char *>frame, min(len(frame), HEADERS_BYTES))
            self.frames[i].length = <uint32_t>len(frame)
            self.frames[i].advance = advance
        self.count = <uint32_t>len(frames)

    def connected(self):
        """The last socket that was asked for is connected."""
        stack_host_event(self.c, self.null.ref, EVENT_WRITABLE)
        end_batch(self.c)

    def run_frames(self, uint32_t times, uint32_t batch):
        """Turn so many frames, one after another, in batches; nanoseconds."""
        cdef uint64_t begin_ns
        if self.count == 0 or batch == 0:
            raise ValueError("nothing to turn")
        begin_ns = now_ns()
        with nogil:
            turn_frames(self.c, self.frames, self.count, self.buffer, times, batch)
        return now_ns() - begin_ns

    def run_stream(self, uint32_t times, uint32_t chunk):
        """Let the host have `chunk` bytes, and the guest acknowledge them with the frame that is
        loaded, so many times; nanoseconds.
        """
        cdef uint64_t begin_ns
        if self.count != 1 or not TCP_AT + TCP_HLEN <= self.frames[0].length <= HEADERS_BYTES:
            raise ValueError("one ACK has to be loaded")
        begin_ns = now_ns()
        with nogil:
            turn_stream(self.c, &self.null, &self.frames[0], times, chunk)
        return now_ns() - begin_ns

    def run_datagrams(self, uint32_t times, uint32_t batch, uint32_t size, uint16_t segment=0):
        """Let the host have `batch` datagrams of `size` bytes, or trains of segments, so many
        times; nanoseconds.
        """
        cdef uint64_t begin_ns = now_ns()
        if not 0 < size <= 65507:
            raise ValueError(size)
        self.null.datagram_bytes = size
        self.null.segment_bytes = segment
        with nogil:
            turn_datagrams(self.c, &self.null, times, batch)
        return now_ns() - begin_ns

    @property
    def last_frame(self):
        """How the last frame for the guest began."""
        return (<const char *>self.null.kept)[:self.null.kept_bytes]

    @property
    def bytes_to_guest(self):
        """Of all frames, with their headers from Ethernet on."""
        return self.null.frame_bytes

    @property
    def bytes_to_host(self):
        return self.null.host_bytes

    def stats(self):
        """Counters by name."""
        return seam_stats(self.c)
