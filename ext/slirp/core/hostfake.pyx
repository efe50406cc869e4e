# cython: language_level=3
"""A host made of Python, for tests: every call of HostOps and LinkOps is a method of one Python
object.

The only module of ext/ whose nogil functions take the GIL. Methods return what the call returns (>=
0, or -errno); an exception counts as -EIO and is kept for the test to see.
"""
cimport cython
from libc.errno cimport EIO
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memcpy, memset

from .hostops cimport Datagram, Host, HostError
from .linux cimport iovec
from .wire cimport Addr, addr_is4, addr_set4

EVENT_READABLE = 1
EVENT_WRITABLE = 2
EVENT_ERROR = 4
EVENT_ENDING = 8
OPTION_DONT_FRAGMENT = 1
OPTION_TOS = 2


cdef bytes gather(const iovec *iov, int n):
    return b"".join([(<const char *>iov[i].iov_base)[:iov[i].iov_len] for i in range(n)])


cdef bytes addr_out(const Addr *addr):
    if addr == NULL or addr.w[0] == 0 and addr.w[1] == 0:
        return b""
    if addr_is4(addr):
        return (<const char *>&addr.b[12])[:4]
    return (<const char *>addr.b)[:16]


cdef void addr_in(Addr *addr, bytes wire) except *:
    memset(addr, 0, sizeof(Addr))
    if len(wire) == 4:
        addr_set4(addr, <const uint8_t *><const char *>wire)
    elif wire:
        memcpy(addr.b, <const char *>wire, 16)


@cython.final
cdef class FakeHost(Host):
    """Calls `impl.<name of the HostOps entry>(...)`; `impl.frame(bytes)` takes each frame for the
    guest.

    Shapes: addresses are bytes of 4 or 16; tcp_recv gives bytes (b"" is the end) or -errno;
    tcp_accept gives (fd, addr, port) or -errno; b"" stands for none. dgram_send gets (fd, addr,
    port, data, segment_bytes, ttl, local_addr, tos); dgram_recv gives (addr, port, data,
    segment_bytes) and, if it likes, ttl, local_addr and tos, or -errno; next_error gives None or
    (errno, icmp_type, icmp_code, addr, port) and, if it likes, offender_addr, mtu and echo_seq.
    """
    cdef object impl
    cdef public object failure          # the last exception of impl

    def __cinit__(self, impl):
        self.impl = impl
        self.ops.impl = <void *>self
        self.ops.tcp_connect = fake_tcp_connect
        self.ops.tcp_connect_result = fake_tcp_connect_result
        self.ops.tcp_send = fake_tcp_send
        self.ops.tcp_recv = fake_tcp_recv
        self.ops.tcp_shutdown = fake_tcp_shutdown
        self.ops.tcp_accept = fake_tcp_accept
        self.ops.watch = fake_watch
        self.ops.close = fake_close
        self.ops.reset = fake_reset
        self.ops.udp_open = fake_udp_open
        self.ops.ping_open = fake_ping_open
        self.ops.dgram_send = fake_dgram_send
        self.ops.dgram_recv = fake_dgram_recv
        self.ops.next_error = fake_next_error
        self.ops.set_option = fake_set_option
        self.link.impl = <void *>self
        self.link.send = fake_frame

    cdef object call(self, str name, tuple args):
        """The method's result, or -EIO."""
        try:
            return getattr(self.impl, name)(*args)
        except Exception as error:
            self.failure = error
            return -EIO


cdef int fake_tcp_connect(void *impl, uint64_t ref, const Addr *addr, uint16_t port,
                          uint8_t tos) noexcept with gil:
    return (<FakeHost>impl).call("tcp_connect", (ref, addr_out(addr), port, tos))


cdef int fake_tcp_connect_result(void *impl, int fd) noexcept with gil:
    return (<FakeHost>impl).call("tcp_connect_result", (fd,))


cdef ssize_t fake_tcp_send(void *impl, int fd, const iovec *iov, int n) noexcept with gil:
    return (<FakeHost>impl).call("tcp_send", (fd, gather(iov, n)))


cdef ssize_t fake_tcp_recv(void *impl, int fd, const iovec *iov, int n) noexcept with gil:
    cdef size_t room = 0
    cdef size_t done = 0
    cdef size_t take
    cdef int i
    cdef bytes data
    for i in range(n):
        room += iov[i].iov_len
    result = (<FakeHost>impl).call("tcp_recv", (fd, room))
    if not isinstance(result, bytes):
        return result
    data = result
    for i in range(n):
        take = min(iov[i].iov_len, len(data) - done)
        memcpy(iov[i].iov_base, <const char *>data + done, take)
        done += take
    return <ssize_t>done


cdef int fake_tcp_shutdown(void *impl, int fd) noexcept with gil:
    return (<FakeHost>impl).call("tcp_shutdown", (fd,))


cdef int fake_tcp_accept(void *impl, int listen_fd, Addr *peer_addr,
                         uint16_t *peer_port) noexcept with gil:
    result = (<FakeHost>impl).call("tcp_accept", (listen_fd,))
    if not isinstance(result, tuple):
        return result
    addr_in(peer_addr, result[1])
    peer_port[0] = result[2]
    return result[0]


cdef int fake_watch(void *impl, int fd, uint64_t ref) noexcept with gil:
    return (<FakeHost>impl).call("watch", (fd, ref))


cdef void fake_close(void *impl, int fd) noexcept with gil:
    (<FakeHost>impl).call("close", (fd,))


cdef void fake_reset(void *impl, int fd) noexcept with gil:
    (<FakeHost>impl).call("reset", (fd,))


cdef int fake_udp_open(void *impl, uint64_t ref, bint v4, const Addr *peer_addr,
                       uint16_t peer_port) noexcept with gil:
    return (<FakeHost>impl).call("udp_open", (ref, v4, addr_out(peer_addr), peer_port))


cdef int fake_ping_open(void *impl, uint64_t ref, bint v4) noexcept with gil:
    return (<FakeHost>impl).call("ping_open", (ref, v4))


cdef ssize_t fake_dgram_send(void *impl, int fd, const Datagram *datagram) noexcept with gil:
    return (<FakeHost>impl).call("dgram_send", (
        fd, addr_out(&datagram.peer_addr), datagram.peer_port,
        (<const char *>datagram.data)[:datagram.length],
        datagram.segment_bytes, datagram.ttl, addr_out(&datagram.local_addr), datagram.tos))


cdef ssize_t fake_dgram_recv(void *impl, int fd, Datagram *datagram) noexcept with gil:
    cdef bytes data
    result = (<FakeHost>impl).call("dgram_recv", (fd,))
    if not isinstance(result, tuple):
        return result
    addr_in(&datagram.peer_addr, result[0])
    datagram.peer_port = result[1]
    data = result[2]
    datagram.length = <unsigned int>len(data)
    memcpy(datagram.data, <const char *>data, min(len(data), <size_t>datagram.capacity))
    datagram.segment_bytes = result[3]
    if len(result) > 4:
        datagram.ttl = result[4]
        addr_in(&datagram.local_addr, result[5])
        datagram.tos = result[6]
    return 0


cdef int fake_next_error(void *impl, int fd, HostError *error) noexcept with gil:
    result = (<FakeHost>impl).call("next_error", (fd,))
    if not isinstance(result, tuple):
        return 0
    memset(error, 0, sizeof(HostError))
    error.error, error.icmp_type, error.icmp_code = result[:3]
    error.from_icmp6 = len(result[3]) == 16 and error.icmp_type != 0
    error.from_icmp = not error.from_icmp6 and (error.icmp_type != 0 or error.icmp_code != 0)
    addr_in(&error.peer_addr, result[3])
    error.peer_port = result[4]
    if len(result) > 5:
        addr_in(&error.offender_addr, result[5])
        error.mtu = result[6]
    if len(result) > 7:
        error.has_echo_seq = True
        error.echo_seq = result[7]
    return 1


cdef void fake_set_option(void *impl, int fd, int option, int value) noexcept with gil:
    (<FakeHost>impl).call("set_option", (fd, option, value))


cdef int fake_frame(void *impl, const iovec *iov, int n) noexcept with gil:
    result = (<FakeHost>impl).call("frame", (gather(iov, n),))
    return 0 if result is None else result
