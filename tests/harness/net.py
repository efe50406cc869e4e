"""A Stack with its host, its clock and its accounts: what every protocol test stands on.

Frames that the stack sends are checked (ip.Reassembler) and handed to whoever asked for them by
protocol and ports, else kept in `stray`. Every frame that the stack drops has to be named by the
test: `dropped` says which fell since it was last asked, and `settle` finds what was left unsaid.
"""

from __future__ import annotations

import collections
import struct
from collections.abc import Callable, Hashable
from typing import TypedDict, Unpack

from harness.clock import Clock
from harness.host import Host
from harness.ip import ETH_HLEN, VNET_HLEN, Datagram, Reassembler, Vnet, build_frame, build_ip
from slirp.core.hostfake import FakeHost
from slirp.core.seam import Stack
from slirp.core.stats import Drop

NETWORK = bytes((10, 0, 2, 0))
GATEWAY = bytes((10, 0, 2, 2))
DNS = bytes((10, 0, 2, 3))
GUEST = bytes((10, 0, 2, 100))
WORLD = bytes((192, 0, 2, 80))  # somebody out there (RFC 5737)
NETWORK6 = bytes.fromhex("fd00") + bytes(14)
GATEWAY6 = NETWORK6[:15] + b"\x02"
DNS6 = NETWORK6[:15] + b"\x03"
GUEST6 = NETWORK6[:15] + b"\x64"
LINK_LOCAL6 = bytes.fromhex("fe80") + bytes(13) + b"\x02"  # the gateway's
WORLD6 = bytes.fromhex("20010db8") + bytes(11) + b"\x50"  # RFC 3849
IP6_MTU_MIN = 1280
GATEWAY_MAC = bytes.fromhex("525500000202")
GUEST_MAC = bytes.fromhex("020000000001")
LINK_CSUM = 1  # TUN_F_CSUM
LINK_TSO4 = 2  # TUN_F_TSO4
LINK_TSO6 = 4
IP_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6"}
TRANSCRIPT_LINES = 60
GAUGES = ("flows", "timers", "buffer_blocks", "reassemblies")


class Settings(TypedDict, total=False):
    """Those of Stack's settings that a test sets otherwise."""

    mtu: int
    guest_mac: bytes
    offload: int
    host_loopback: bool
    dns_enabled: bool
    max_flows: int
    tcp_buffer_bytes: int
    memory_bytes: int
    udp_timeouts_s: tuple[int, int, int]
    network6: bytes | None
    prefix_len6: int
    gateway6: bytes
    guest6: bytes


def guest_of(dst: bytes) -> bytes:
    """The guest's address of the same family."""
    return GUEST6 if len(dst) == 16 else GUEST


class Net:
    """A stack between a guest, made of frames, and a host, made of Python."""

    def __init__(self, **settings: Unpack[Settings]) -> None:
        self.clock = Clock()
        self.host = Host()
        self.mtu = settings.get("mtu", 1500)
        self._fake = FakeHost(self.host)
        self.stack = Stack(
            self._fake,
            self.clock.now_us,
            network4=NETWORK,
            prefix_len4=24,
            gateway4=GATEWAY,
            dns4=DNS,
            guest4=GUEST,
            gateway_mac=GATEWAY_MAC,
            **{
                "guest_mac": GUEST_MAC,
                "mtu": 1500,
                "offload": 0,
                "host_loopback": True,
                "dns_enabled": True,
                "max_flows": 1024,
                "tcp_buffer_bytes": 1 << 20,
                "memory_bytes": 64 << 20,
                "network6": NETWORK6 if self.mtu >= IP6_MTU_MIN else None,
                "prefix_len6": 64,
                "gateway6": GATEWAY6,
                "dns6": DNS6,
                "guest6": GUEST6,
                **settings,
            },  # type: ignore[arg-type]
        )
        self.host.deliver = self._host_event
        self.host.link = self._frame
        self.host.note = lambda line: self.log(f"host  {line}")
        self.clock.drive(self.stack)
        self.stray: collections.deque[bytes] = collections.deque()  # datagrams that nobody awaits
        self.failures: list[BaseException] = []  # of the checks on what the stack sent
        self._whole = Reassembler(self.mtu)
        self._receivers: dict[Hashable, Callable[[bytes, Vnet], None]] = {}
        self._transcript: collections.deque[Callable[[], str]] = collections.deque(
            maxlen=TRANSCRIPT_LINES
        )
        self._drops_named: collections.Counter[str] = collections.Counter()

    # ---- frames

    def send_frame(self, frame: bytes) -> None:
        """The guest sends a frame, virtio-net header first."""
        self.send_frames(frame)

    def send_frames(self, *frames: bytes) -> None:
        """The guest sends frames that the stack gets in one batch."""
        self.stack.input_batch(list(frames), self.clock.now_us)
        self.check()

    def send_ip(self, dst: bytes, proto: int, data: object, src: bytes = b"") -> None:
        """The guest sends a datagram."""
        datagram = build_ip(src or guest_of(dst), dst, proto, data)
        self.send_frame(build_frame(GUEST_MAC, GATEWAY_MAC, datagram))

    def receive(self, key: Hashable, receiver: Callable[[bytes, Vnet], None]) -> None:
        """Have datagrams of (protocol, guest port, other address and port) given to `receiver`."""
        self._receivers[key] = receiver

    def _frame(self, frame: bytes) -> None:
        """The stack sends a frame. Called from inside it: what fails is kept for `check`."""
        try:
            whole = self._whole.take(frame)
            if whole is None:
                return
            frame = whole
            datagram = frame[VNET_HLEN + ETH_HLEN :]
            assert frame[VNET_HLEN : VNET_HLEN + 2 * 6] == GUEST_MAC + GATEWAY_MAC, "MAC addresses"
            vnet = Vnet.parse(frame)
            ip = Datagram.parse(datagram)
            sport, dport = struct.unpack_from("!HH", ip.payload)
            receiver = self._receivers.get((ip.proto, dport, ip.src, sport))
            if receiver is None:
                proto = IP_PROTOCOLS[ip.proto]
                self.log(f"stack {proto} of {len(datagram)} bytes that nobody awaits")
                self.stray.append(datagram)
            else:
                receiver(datagram, vnet)
        except Exception as failure:
            self.failures.append(failure)

    # ---- the host, time

    def _host_event(self, ref: int, events: int) -> None:
        self.stack.host_event(ref, events, self.clock.now_us)
        self.check()

    def advance(self, seconds: float) -> None:
        """Let time pass, with all that is due in it."""
        self.clock.advance(seconds)
        self.check()

    # ---- accounts

    def check(self) -> None:
        """Raise what was found wrong while the stack was at work."""
        if self._fake.failure is not None:
            self.failures.append(self._fake.failure)
            self._fake.failure = None
        if self.failures:
            failure = self.failures.pop(0)
            raise AssertionError(f"{failure!r}\n{self.transcript()}") from failure

    def stat(self, name: str) -> int:
        """A counter or gauge."""
        return self.stack.stats()[name]

    def _drops(self) -> collections.Counter[str]:
        stats = self.stack.stats()
        return collections.Counter(
            {name: n for name, n in stats.items() if name.startswith("drop_") and n}
        )

    def dropped(self, *drops: Drop) -> None:
        """Assert that just these frames have been dropped since this was last said."""
        want = collections.Counter(drop.name.lower() for drop in drops)
        got = self._drops() - self._drops_named
        assert got == want, f"dropped {dict(got)}, not {dict(want)}\n{self.transcript()}"
        self._drops_named += got

    def dropped_only(self, *drops: Drop) -> None:
        """Assert that of these frames some have been dropped, however many, and no others."""
        got = self._drops() - self._drops_named
        assert set(got) == {drop.name.lower() for drop in drops}, f"{got}\n{self.transcript()}"
        self._drops_named += got

    def settle(self) -> None:
        """Assert that nothing was left unsaid: called at the end of every test."""
        self.check()
        self.dropped()
        assert not self.stray, f"datagrams that nobody awaited\n{self.transcript()}"

    def at_rest(self) -> None:
        """Assert that no flow, timer or buffer is left, nor a socket."""
        stats = self.stack.stats()
        left = {name: stats[name] for name in GAUGES if stats[name]}
        assert not left, f"left behind: {left}, {self.stack.flows()}\n{self.transcript()}"
        assert not self.host.open_sockets, f"left open: {self.host.open_sockets}"

    # ---- transcript

    def log(self, line: str | Callable[[], str]) -> None:
        """Add to what a failure prints: a line, or what gives it when it comes to that."""
        stamp = f"{self.clock.now_us / 1e6:12.6f} "
        self._transcript.append(lambda: stamp + (line if isinstance(line, str) else line()))

    def transcript(self) -> str:
        """The last things that happened, in the notation."""
        return "\n".join(line() for line in self._transcript)
