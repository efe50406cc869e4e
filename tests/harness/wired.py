"""An Engine on real sockets: a pair of them is its link, the host's loopback the world.

No TAP and no privilege: an Engine reads and writes frames, whatever carries them.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Iterator
from typing import Any

import dpkt

from harness.ip import Reassembler
from harness.lan import PORT, Frame, ip_frame, udp_datagram
from harness.net import DNS, GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, NETWORK
from slirp.core.engine import RUN_IDLE, RUN_MORE, Engine

UDP, TCP, ICMP = dpkt.ip.IP_PROTO_UDP, dpkt.ip.IP_PROTO_TCP, dpkt.ip.IP_PROTO_ICMP
SYN, ACK, RST, FIN, PUSH = 0x02, 0x10, 0x04, 0x01, 0x08
LOOPBACK = "127.0.0.1"
PATIENCE_S = 10  # a machine that is busy, not one that is wrong
FRAME_MAX = 1 << 17
IP_RECVTTL = 12  # which Python's socket module does not name
SETTINGS: dict[str, Any] = {
    "mtu": 65520,
    "network4": NETWORK,
    "prefix_len4": 24,
    "gateway4": GATEWAY,
    "dns4": DNS,
    "guest4": GUEST,
    "gateway_mac": GATEWAY_MAC,
    "guest_mac": GUEST_MAC,
    "offload": 0,
    "host_loopback": True,
    "dns_enabled": True,
}


def link_pair() -> tuple[socket.socket, socket.socket]:
    """The guest's end of a link, and the engine's."""
    guest, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (guest, ours):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    return guest, ours


class Wired:
    """An Engine, and the guest's end of its link."""

    def __init__(self, **settings: Any) -> None:
        self.guest, link = link_pair()
        self.engine = Engine(link.detach(), **SETTINGS | settings)
        self.frames: list[Frame] = []
        self.whole = Reassembler(SETTINGS["mtu"])

    def close(self) -> None:
        self.engine.close()
        self.guest.close()

    def run_until(self, done: Callable[[], object]) -> None:
        """Drive the engine until `done`, as an event loop would: only when it is readable."""
        while not done():
            fds = [self.engine.fileno(), self.guest.fileno()]
            ready, _, _ = select.select(fds, [], [], PATIENCE_S)
            assert ready, "nothing happens any more"
            while self.engine.run() & RUN_MORE:
                pass
            self.collect()

    def collect(self) -> None:
        """Take what the engine has sent."""
        with contextlib.suppress(BlockingIOError):
            while frame := self.guest.recv(FRAME_MAX):
                whole = self.whole.take(frame)
                if whole is not None:
                    self.frames.append(Frame.parse(whole))

    def next(self) -> Frame:
        """The next frame for the guest."""
        self.run_until(lambda: self.frames)
        return self.frames.pop(0)

    def flush(self) -> None:
        """Drive the engine until it has nothing to do now."""
        assert self.engine.run() == RUN_IDLE
        self.collect()

    def udp(self, dport: int, data: bytes, sport: int = PORT, dst: bytes = GATEWAY) -> None:
        self.guest.send(ip_frame(dst, UDP, udp_datagram(dport, data, sport)))

    def tcp(self, dport: int, seq: int, ack: int, flags: int, data: bytes = b"") -> None:
        segment = dpkt.tcp.TCP(
            sport=PORT, dport=dport, seq=seq, ack=ack, flags=flags, win=65535, data=data
        )
        self.guest.send(ip_frame(GATEWAY, TCP, segment))

    def connect(self, dport: int) -> int:
        """A handshake; our number that the guest expects next. Its own is 1."""
        self.tcp(dport, 0, 0, SYN)
        answer = self.next().ip.data
        assert (answer.flags, answer.ack) == (SYN | ACK, 1)
        self.tcp(dport, 1, answer.seq + 1, ACK)
        return int(answer.seq + 1)


@contextlib.contextmanager
def peer(kind: socket.SocketKind = socket.SOCK_DGRAM) -> Iterator[socket.socket]:
    """A socket on the host's loopback, listening if it is a stream's."""
    with socket.socket(socket.AF_INET, kind) as bound:
        bound.bind((LOOPBACK, 0))
        bound.settimeout(PATIENCE_S)
        if kind == socket.SOCK_STREAM:
            bound.listen()
        yield bound


def port_of(bound: socket.socket) -> int:
    return int(bound.getsockname()[1])
