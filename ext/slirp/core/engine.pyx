# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The engine: a Stack, a TAP and the host's sockets on one epoll set, turned without the GIL.

The only file that knows both sides. Its one file descriptor is that epoll set: whoever drives it
(a thread through `run_until`, or a loop of its own through `fileno` and `run`) learns from it that
there is work. A turn takes what is ready, serves each touched connection once, and goes on until
nothing is ready or the budget is spent, so that the control plane never starves. A timerfd in the
same set stands for the wheel's next deadline.
"""
cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset, strerror

from .ctx cimport Ctx
from .hostlinux cimport LinuxHost, linux_events, linux_host_bind, linux_host_init
from .hostops cimport REF_LINK, REF_STOP, REF_TIMER, ref_make
from .linux cimport (
    CLOCK_MONOTONIC, EAGAIN, EINTR, EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL,
    TFD_CLOEXEC, TFD_NONBLOCK, TFD_TIMER_ABSTIME, clock_gettime, close, epoll_create1, epoll_ctl,
    epoll_event, epoll_wait, errno, iovec, itimerspec, read, timerfd_create, timerfd_settime,
    timespec, writev,
)
from .punt cimport punt_reply, punt_take
from .slice cimport Slice, slice_check, slice_restore, slice_yield
from .stack cimport (
    stack_destroy, stack_host_event, stack_init, stack_input, stack_remove_forward,
    stack_run_timers, stack_serve,
)
from .seam cimport (
    seam_configure, seam_flows, seam_forward, seam_set_dns, seam_stats, seam_take_addr,
)
from .timers cimport timers_next
from .wire cimport VNET_HLEN, Addr, usec_t

RUN_IDLE = 0
RUN_MORE = 1
RUN_LINK_DOWN = 2
RUN_PUNTED = 4

cdef enum:
    LINK_BATCH = 44                 # frames read before connections are served: a train of the
                                    # largest datagrams that Ethernet carries, and no piece of one
    LINK_BATCH_BYTES = 1 << 19      # and bytes: those behind are warmer in the cache
    EVENTS_BATCH = 128
    CROWD = 32                      # datagrams of a batch after which their readers have a turn
    BUDGET_US = 5000                # of run(): what else the caller's loop has to do waits so long
    STATUS_MORE = 1
    STATUS_LINK_DOWN = 2
    STATUS_PUNTED = 4


cdef struct Loop:
    Ctx c
    LinuxHost host
    int epoll_fd
    int timer_fd
    int tap_fd
    bint vnet_hdr
    bint link_down
    Slice slice                     # of the thread that turns it
    bint stop                       # run_until's descriptor is readable
    usec_t visit_end_us             # from then on frames wait for the next call of run_until
    bint visit_over                 # and some do
    usec_t timer_armed_us           # what the timerfd is set to; ~0: nothing
    uint8_t frame[65535 + 14 + 12]


cdef usec_t clock_us() noexcept nogil:
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <usec_t>now.tv_sec * 1000000 + <usec_t>now.tv_nsec // 1000


# ---- the link ----------------------------------------------------------------------------------

cdef int link_send(void *impl, const iovec *iov, int n) noexcept nogil:
    """A frame to the guest."""
    return -errno if writev((<Loop *>impl).tap_fd, iov, n) < 0 else 0


cdef int link_send_plain(void *impl, const iovec *iov, int n) noexcept nogil:
    """The same for a TAP without virtio-net headers."""
    cdef iovec pieces[16]
    cdef int i
    for i in range(n):
        pieces[i] = iov[i]
    pieces[0].iov_base = <uint8_t *>pieces[0].iov_base + VNET_HLEN
    pieces[0].iov_len -= VNET_HLEN
    return -errno if writev((<Loop *>impl).tap_fd, pieces, n) < 0 else 0


cdef void link_receive(Loop *loop) noexcept nogil:
    """Read frames until there is none, or a batch is full: what is left makes the set ready again.
    """
    cdef uint32_t skip = 0 if loop.vnet_hdr else VNET_HLEN
    cdef ssize_t n
    cdef ssize_t total = 0
    cdef int _
    for _ in range(LINK_BATCH):
        if total >= LINK_BATCH_BYTES:
            return
        n = read(loop.tap_fd, loop.frame + skip, sizeof(loop.frame) - skip)
        if n <= 0:
            # EBADFD: the device is gone, and its namespace with it; 0: a socket's other end is
            if n == 0 or errno != EAGAIN and errno != EINTR:
                loop.link_down = True
            return
        stack_input(&loop.c, loop.frame, <uint32_t>n + skip)
        total += n


# ---- turning -----------------------------------------------------------------------------------

cdef void arm_timer(Loop *loop) noexcept nogil:
    """Set the timerfd if the next deadline is before what it is set to; a wake-up too early costs
    less than setting it.
    """
    cdef usec_t due = timers_next(&loop.c.timers)
    cdef itimerspec spec
    if due >= loop.timer_armed_us:
        return
    loop.timer_armed_us = due
    memset(&spec, 0, sizeof(spec))
    due = max(due, <usec_t>1)               # zero would disarm
    spec.it_value.tv_sec = <long>(due // 1000000)
    spec.it_value.tv_nsec = <long>(due % 1000000 * 1000)
    timerfd_settime(loop.timer_fd, TFD_TIMER_ABSTIME, &spec, NULL)


cdef void handle_events(Loop *loop, const epoll_event *events, int n) noexcept nogil:
    cdef uint64_t expirations
    cdef uint64_t ref
    cdef int kind, i
    for i in range(n):
        ref = events[i].data.u64
        kind = <int>(ref >> 32)
        if kind == REF_LINK:
            if loop.c.now_us < loop.visit_end_us:
                link_receive(loop)
            else:
                loop.visit_over = True
        elif kind == REF_TIMER:
            read(loop.timer_fd, &expirations, sizeof(expirations))
            loop.timer_armed_us = ~<usec_t>0
        elif kind == REF_STOP:
            loop.stop = True
        else:
            stack_host_event(&loop.c, ref, linux_events(events[i].events))


cdef void make_way(Loop *loop) noexcept nogil:
    """After a crowd of datagrams their readers have a turn."""
    if loop.c.singles >= CROWD:
        slice_yield(&loop.slice, loop.c.now_us)
    else:
        slice_check(&loop.slice, loop.c.now_us)
    loop.c.singles = 0


cdef int turn(Loop *loop, bint wait, usec_t budget_us) noexcept nogil:
    """Work until nothing is ready (`wait`: then sleep and go on), the budget is spent, or it is
    over. STATUS_* flags.
    """
    cdef epoll_event events[EVENTS_BATCH]
    cdef usec_t start = clock_us()
    cdef bint more = loop.c.touched != NULL
    cdef int n
    while True:
        n = epoll_wait(loop.epoll_fd, events, EVENTS_BATCH, -1 if wait and not more else 0)
        loop.c.now_us = clock_us()
        if n > 0:
            handle_events(loop, events, n)
        stack_run_timers(&loop.c)
        more = stack_serve(&loop.c)
        make_way(loop)
        if loop.link_down or loop.stop or loop.visit_over or loop.c.n_punted:
            break
        if n <= 0 and not more and not wait:
            break
        if not more:
            arm_timer(loop)
        if loop.c.now_us - start > budget_us:
            break
    arm_timer(loop)
    slice_restore(&loop.slice)          # who turns it next may be another thread
    more = more or loop.visit_over
    return ((STATUS_MORE if more else 0) | (STATUS_LINK_DOWN if loop.link_down else 0)
            | (STATUS_PUNTED if loop.c.n_punted else 0))


cdef int open_loop(Loop *loop) noexcept nogil:
    """The epoll set, with the timer in it. 0 or -errno."""
    cdef epoll_event event
    loop.epoll_fd = epoll_create1(EPOLL_CLOEXEC)
    loop.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC)
    loop.timer_armed_us = ~<usec_t>0
    if loop.epoll_fd < 0 or loop.timer_fd < 0:
        return -errno
    event.events = EPOLLIN
    event.data.u64 = ref_make(REF_TIMER, 0)
    if epoll_ctl(loop.epoll_fd, EPOLL_CTL_ADD, loop.timer_fd, &event) < 0:
        return -errno
    return 0


cdef int open_link(Loop *loop, int fd) noexcept nogil:
    """Take that link instead of the one there is; -1: none for now. 0 or -errno."""
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = ref_make(REF_LINK, 0)
    if fd >= 0 and epoll_ctl(loop.epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0:
        return -errno
    if loop.tap_fd >= 0:
        close(loop.tap_fd)
    loop.tap_fd = fd
    loop.link_down = False
    return 0


cdef int set_stop(Loop *loop, int fd, int operation) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN
    event.data.u64 = ref_make(REF_STOP, 0)
    return -errno if epoll_ctl(loop.epoll_fd, operation, fd, &event) < 0 else 0


cdef int checked(int result) except -1:
    """Raise the OSError that a negative result is."""
    if result < 0:
        raise OSError(-result, strerror(-result).decode())
    return result


@cython.final
cdef class Engine:
    """The data plane on a TAP. One thread at a time may be inside."""
    cdef Loop *loop

    def __cinit__(self, int tap_fd, *, int mtu, bytes network4, int prefix_len4, bytes gateway4,
                  bytes dns4, bytes guest4, bytes gateway_mac, bytes guest_mac, uint32_t offload,
                  bint host_loopback, bint dns_enabled, bytes network6=None, int prefix_len6=64,
                  bytes gateway6=b"", bytes dns6=b"", bytes guest6=b"", bint vnet_hdr=True,
                  uint32_t max_flows=32768, uint32_t tcp_buffer_bytes=4 << 20,
                  uint64_t memory_bytes=256 << 20, tuple udp_timeouts_s=(180, 30, 10)):
        self.loop = <Loop *>calloc(1, sizeof(Loop))
        if self.loop == NULL:
            raise MemoryError
        self.loop.epoll_fd = -1
        self.loop.timer_fd = -1
        self.loop.tap_fd = -1
        if not stack_init(&self.loop.c, max_flows, memory_bytes, clock_us()):
            raise MemoryError
        seam_configure(&self.loop.c, {
            "mtu": mtu, "network4": network4, "prefix_len4": prefix_len4,
            "gateway4": gateway4, "dns4": dns4, "guest4": guest4,
            "network6": network6, "prefix_len6": prefix_len6,
            "gateway6": gateway6, "dns6": dns6, "guest6": guest6,
            "gateway_mac": gateway_mac, "guest_mac": guest_mac,
            "offload": offload if vnet_hdr else 0,
            "host_loopback": host_loopback, "dns_enabled": dns_enabled, "max_flows": max_flows,
            "tcp_buffer_bytes": tcp_buffer_bytes, "udp_timeouts_s": udp_timeouts_s,
        })
        self.loop.vnet_hdr = vnet_hdr
        self.loop.visit_end_us = ~<usec_t>0
        checked(open_loop(self.loop))
        checked(open_link(self.loop, tap_fd))
        self.loop.c.link.impl = self.loop
        self.loop.c.link.send = link_send if vnet_hdr else link_send_plain
        linux_host_init(&self.loop.host, &self.loop.c.host, self.loop.epoll_fd)

    def __dealloc__(self):
        self.close()

    cdef Loop *opened(self) except NULL:
        if self.loop == NULL:
            raise ValueError("the engine is closed")
        return self.loop

    def fileno(self):
        """The epoll set: readable when there is work."""
        return self.opened().epoll_fd

    def run(self):
        """Work until idle, or for 5 ms; RUN_* flags. After RUN_MORE call again soon; after
        RUN_LINK_DOWN never; after RUN_PUNTED ask for `punted`.
        """
        cdef Loop *loop = self.opened()
        cdef int status
        with nogil:
            status = turn(loop, False, BUDGET_US)
        return status

    def run_until(self, int stop_fd, usec_t visit_us=0):
        """Work, and sleep while there is none, until `stop_fd` is readable or the link is down;
        RUN_* flags. Raises OSError.

        RUN_MORE alone: a frame has come `visit_us` (0: never) or more after the call. It waits, so
        that what the caller looks at now and then has been looked at before; call again.
        After RUN_PUNTED ask for `punted`, and call again.
        """
        cdef Loop *loop = self.opened()
        cdef int status
        checked(set_stop(loop, stop_fd, EPOLL_CTL_ADD))
        if visit_us:
            loop.visit_end_us = clock_us() + visit_us - 1   # a microsecond that has begun counts
        with nogil:
            status = turn(loop, True, ~<usec_t>0)
        if loop.stop:
            status &= ~STATUS_MORE
        loop.visit_end_us = ~<usec_t>0
        loop.visit_over = False
        loop.stop = False
        set_stop(loop, stop_fd, EPOLL_CTL_DEL)
        return status

    def set_link(self, int fd):
        """Take that link instead of the one there is, of the same kind; -1: none for now. The
        engine owns it then. Raises OSError.
        """
        checked(open_link(self.opened(), fd))

    def ping_forbidden(self):
        """Whether the host has refused us ping sockets."""
        return bool(self.opened().c.ping_forbidden)

    def set_outbound(self, bytes address not None):
        """Have the host's sockets of that family, from now on, bound to the address."""
        cdef Addr addr
        seam_take_addr(&addr, address)
        linux_host_bind(&self.opened().host, &addr)

    def set_dns(self, list servers not None):
        """The host's name servers, in order: addresses of 4 or 16 bytes, port 53."""
        seam_set_dns(&self.opened().c, servers)

    def add_forward(self, str proto not None, int listen_fd, bytes guest_addr not None,
                    int guest_port):
        """Lead a listening ("tcp") or bound ("udp") socket into the guest; the engine owns it then.
        Its id, from 1 on.

        Raises OSError when the table is full.
        """
        if not 1 <= guest_port <= 65535:
            raise ValueError("a port lies between 1 and 65535")
        return seam_forward(&self.opened().c, proto, listen_fd, guest_addr, guest_port)

    def remove_forward(self, int forward_id):
        """Close a forward; connections it has begun live on. False when there is none of that id.
        """
        if forward_id < 1:
            return False
        return stack_remove_forward(&self.opened().c, <uint32_t>(forward_id - 1))

    def punted(self):
        """Frames that wait for the control plane, from their Ethernet headers on, oldest first;
        they are its own then.
        """
        return punt_take(&self.opened().c)

    def send_frame(self, bytes frame not None):
        """Send the guest an Ethernet frame that is complete as it is."""
        punt_reply(&self.opened().c, frame)

    def stats(self):
        """Counters by name, and what is in use now."""
        return seam_stats(&self.opened().c)

    def flows(self):
        """What each flow is doing, as a list of dicts."""
        return seam_flows(&self.opened().c)

    def close(self):
        """End everything: connections are reset, sockets and the TAP closed. May be called twice.
        """
        cdef Loop *loop = self.loop
        if loop == NULL:
            return
        self.loop = NULL
        if loop.c.forwards != NULL:
            stack_destroy(&loop.c)
        for fd in (loop.tap_fd, loop.timer_fd, loop.epoll_fd):
            if fd >= 0:
                close(fd)
        free(loop)
