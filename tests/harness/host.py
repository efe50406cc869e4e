"""The host's sockets, by script: the Python object that FakeHost calls.

A socket of a fresh script takes everything and has nothing to say; a test changes that through its
HostSocket. Events are edges, as epoll's are: one when something becomes possible, none before the
stack has met -EAGAIN. What no real kernel would see (a call on a closed fd, a double close) raises,
and FakeHost keeps the exception for the end of the test.
"""

from __future__ import annotations

import dataclasses
import errno
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from slirp.core.hostfake import (
    EVENT_ENDING,
    EVENT_ERROR,
    EVENT_READABLE,
    EVENT_WRITABLE,
    OPTION_TOS,
)

Deliver = Callable[[int, int], None]  # (ref, events)
Client = tuple[bytes, int]  # address and port of one who connects to a forward


class Datagram(NamedTuple):
    """One that a socket sent or got."""

    addr: bytes  # of the peer
    port: int
    data: bytes
    segment_bytes: int = 0  # of a train
    ttl: int = 0
    local_addr: bytes = b""  # which the peer wrote to, or it is to be sent from
    tos: int = 0


@dataclasses.dataclass
class HostSocket:
    """One socket; the test acts as the host's kernel and as the peer behind it."""

    deliver: Deliver
    fd: int
    ref: int
    addr: bytes
    port: int
    connect_result: int = -errno.EINPROGRESS  # later: what SO_ERROR says
    received: bytearray = dataclasses.field(default_factory=bytearray)
    room: int | None = None  # bytes that send() still takes; None: any number
    waiting: deque[bytes] = dataclasses.field(default_factory=deque)  # for recv()
    eof: bool = False
    error: int = 0  # what the next send() or recv() fails with
    shut: bool = False  # shutdown(WR) was called
    ended: str = ""  # "close" or "reset", when the stack is through with it
    sink: Callable[[bytes], None] | None = None  # takes the bytes instead of `received`
    errors: deque[tuple[object, ...]] = dataclasses.field(default_factory=deque)
    datagrams: deque[Datagram] = dataclasses.field(default_factory=deque)
    sent: list[Datagram] = dataclasses.field(default_factory=list)
    options: dict[int, int] = dataclasses.field(default_factory=dict)  # OPTION_*, as set last
    refusals: deque[int] = dataclasses.field(default_factory=deque)  # errno of one dgram_send each

    def _event(self, events: int) -> None:
        if not self.ended:
            self.deliver(self.ref, events)

    # What a test does

    def connected(self) -> None:
        """connect() succeeds."""
        self.connect_result = 0
        self._event(EVENT_WRITABLE)

    def refused(self, error: int) -> None:
        """connect() fails with that errno."""
        self.connect_result = -error
        self._event(EVENT_WRITABLE | EVENT_ERROR)

    def feed(self, data: bytes) -> None:
        """The peer sends bytes."""
        self.waiting.append(data)
        self._event(EVENT_READABLE)

    def close(self) -> None:
        """The peer has said all: end of stream behind what waits."""
        self.eof = True
        self._event(EVENT_READABLE | EVENT_ENDING)

    def fail(self, error: int = errno.ECONNRESET) -> None:
        """The connection dies with that errno."""
        self.error = error
        self.connect_result = -error
        self._event(EVENT_READABLE | EVENT_WRITABLE | EVENT_ERROR | EVENT_ENDING)

    def take(self, room: int | None) -> None:
        """The peer reads: send() takes that many more bytes, or any number."""
        self.room = None if room is None else (self.room or 0) + room
        self._event(EVENT_WRITABLE)

    def datagram(
        self,
        addr: bytes,
        port: int,
        data: bytes,
        segment_bytes: int = 0,
        ttl: int = 0,
        local_addr: bytes = b"",
        tos: int = 0,
    ) -> None:
        """A datagram, or a train of them, comes in."""
        self.datagrams.append(Datagram(addr, port, data, segment_bytes, ttl, local_addr, tos))
        self._event(EVENT_READABLE)

    def report(self, *error: object) -> None:
        """An entry comes into the error queue: what FakeHost's next_error gives."""
        self.errors.append(error)
        self._event(EVENT_ERROR)

    # What the stack asks

    def send(self, data: bytes) -> int:
        """How many bytes were taken, or -errno."""
        if self.error:
            return -self.error
        if self.shut:
            return -errno.EPIPE
        taken = data if self.room is None else data[: self.room]
        if not taken:
            return -errno.EAGAIN
        if self.room is not None:
            self.room -= len(taken)
        if self.sink is not None:
            self.sink(taken)
        else:
            self.received += taken
        return len(taken)

    def recv(self, room: int) -> bytes | int:
        """Up to `room` bytes, b"" at the end, or -errno."""
        assert room > 0, "recv() of nothing looks like the end"
        if not self.waiting:
            if self.error:
                return -self.error
            return b"" if self.eof else -errno.EAGAIN
        data = b"".join(self.waiting)
        self.waiting.clear()
        if len(data) > room:
            self.waiting.append(data[room:])
        return data[:room]


class Host:
    """All sockets of the host; methods below the line are FakeHost's."""

    def __init__(self) -> None:
        self.sockets: dict[int, HostSocket] = {}
        self.link: Callable[[bytes], None] = lambda frame: None  # the way to the guest
        self.link_error = 0  # errno: the link takes no frame
        self.connect_error = 0  # errno: connect() fails at once
        self.watch_error = 0  # errno: no room for a socket's events
        self.open_error = 0  # errno: no UDP or ping socket
        self.accept_error = 0  # errno: clients stay where they are
        self.clients: dict[int, deque[Client]] = {}  # by listening fd
        self.calls: list[tuple[str, tuple[object, ...]]] = []
        self.deliver: Deliver = lambda ref, events: None
        self.on_connect: Callable[[HostSocket], None] = lambda socket: None  # a TCP socket is born
        self.note: Callable[[str], None] = lambda line: None  # keeps the transcript
        self.listeners: dict[int, int] = {}  # ref by fd
        self._next_fd = 100

    @property
    def newest(self) -> HostSocket:
        """The socket opened last."""
        return self.sockets[max(self.sockets)]

    @property
    def open_sockets(self) -> list[HostSocket]:
        """Those that the stack has not ended."""
        return [socket for socket in self.sockets.values() if not socket.ended]

    def called(self, name: str) -> list[tuple[object, ...]]:
        """The arguments of each call of that name, in order."""
        return [arguments for call, arguments in self.calls if call == name]

    def listener(self) -> int:
        """An fd for Stack.add_forward."""
        fd = self._new_fd()
        self.clients[fd] = deque()
        return fd

    def bound(self) -> HostSocket:
        """A UDP socket whose fd is for Stack.add_forward."""
        return self.sockets[self._open(0, b"", 0)]

    def client(self, listen_fd: int, addr: bytes, port: int) -> None:
        """Somebody connects to a forwarded port."""
        self.clients[listen_fd].append((addr, port))
        self.deliver(self.listeners[listen_fd], EVENT_READABLE)

    def _call(self, name: str, *arguments: object) -> None:
        self.calls.append((name, arguments))
        self.note(f"{name}({', '.join(map(repr, arguments))})")

    def _new_fd(self) -> int:
        self._next_fd += 1
        return self._next_fd

    def _open(self, ref: int, addr: bytes, port: int) -> int:
        fd = self._new_fd()
        self.sockets[fd] = HostSocket(self.deliver, fd, ref, addr, port)
        return fd

    def _open_tcp(self, ref: int, addr: bytes, port: int) -> int:
        fd = self._open(ref, addr, port)
        self.on_connect(self.sockets[fd])
        return fd

    def _socket(self, name: str, fd: int, *arguments: object) -> HostSocket:
        self._call(name, fd, *arguments)
        socket = self.sockets[fd]
        assert not socket.ended, f"{name} of fd {fd}, which has ended by {socket.ended}"
        return socket

    # ---- HostOps and LinkOps

    def tcp_connect(self, ref: int, addr: bytes, port: int, tos: int) -> int:
        self._call("tcp_connect", addr, port)
        if self.connect_error:
            return -self.connect_error
        fd = self._open_tcp(ref, addr, port)
        if tos:
            self.sockets[fd].options[OPTION_TOS] = tos
        return fd

    def tcp_connect_result(self, fd: int) -> int:
        return self._socket("tcp_connect_result", fd).connect_result

    def tcp_send(self, fd: int, data: bytes) -> int:
        return self._socket("tcp_send", fd, len(data)).send(data)

    def tcp_recv(self, fd: int, room: int) -> bytes | int:
        return self._socket("tcp_recv", fd, room).recv(room)

    def tcp_shutdown(self, fd: int) -> int:
        socket = self._socket("tcp_shutdown", fd)
        assert not socket.shut, "shutdown twice"
        socket.shut = True
        return 0

    def tcp_accept(self, listen_fd: int) -> tuple[int, bytes, int] | int:
        self._call("tcp_accept", listen_fd)
        if self.accept_error or not self.clients[listen_fd]:
            return -(self.accept_error or errno.EAGAIN)
        addr, port = self.clients[listen_fd].popleft()
        return self._open_tcp(0, addr, port), addr, port

    def watch(self, fd: int, ref: int) -> int:
        self._call("watch", fd)
        if self.watch_error:
            return -self.watch_error
        if fd in self.sockets:
            self.sockets[fd].ref = ref
        else:
            self.listeners[fd] = ref
        return 0

    def close(self, fd: int) -> None:
        if fd in self.clients:
            self.listeners.pop(fd)
        else:
            self._socket("close", fd).ended = "close"

    def reset(self, fd: int) -> None:
        self._socket("reset", fd).ended = "reset"

    def udp_open(self, ref: int, v4: bool, addr: bytes, port: int) -> int:
        self._call("udp_open", v4, addr, port)
        return -self.open_error or self._open(ref, addr, port)

    def ping_open(self, ref: int, v4: bool) -> int:
        self._call("ping_open", v4)
        return -self.open_error or self._open(ref, b"", 0)

    def dgram_send(
        self,
        fd: int,
        addr: bytes,
        port: int,
        data: bytes,
        segment_bytes: int,
        ttl: int,
        local_addr: bytes,
        tos: int,
    ) -> int:
        datagram = Datagram(addr, port, data, segment_bytes, ttl, local_addr, tos)
        socket = self._socket("dgram_send", fd, *datagram)
        if socket.error or socket.refusals:
            return -(socket.error or socket.refusals.popleft())
        socket.sent.append(datagram)
        return 0

    def dgram_recv(self, fd: int) -> Datagram | int:
        socket = self._socket("dgram_recv", fd)
        return socket.datagrams.popleft() if socket.datagrams else -errno.EAGAIN

    def next_error(self, fd: int) -> tuple[object, ...] | None:
        socket = self._socket("next_error", fd)
        return socket.errors.popleft() if socket.errors else None

    def set_option(self, fd: int, option: int, value: int) -> None:
        self._socket("set_option", fd, option, value).options[option] = value

    def frame(self, frame: bytes) -> int:
        if self.link_error:
            return -self.link_error
        self.link(frame)
        return 0
