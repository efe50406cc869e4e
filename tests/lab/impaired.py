"""Our stack against a real kernel's TCP over a bad link: loss, delay, reordering, duplication.

netem is not in every kernel, so the link itself is bad: between the guest's TAP and the Engine lies
a pair of sockets and a relay that treats each frame as its script says. The Engine does not know
the difference, and the guest is Linux with all it does to get its bytes through.

    guest's kernel -- tap0 -- relay -- socket pair -- Engine -- sockets of the host
"""

from __future__ import annotations

import dataclasses
import heapq
import os
import random
import select
import socket
import struct
import threading
import time
from typing import Self

from lab.namespaces import Namespace
from lab.servers import digest_of, receive_digest, send_content, serve
from lab.topology import Topology
from slirp import tap
from slirp.core.engine import Engine

FRAME_MAX_BYTES = 65535 + 14 + tap.VNET_HEADER_BYTES
NET = bytes([10, 0, 2, 0])
GATEWAY = "10.0.2.2"
GUEST = "10.0.2.100"
# What a queue of the relay may hold; beyond it, frames are lost as they are in a router.
QUEUE_FRAMES = 2000


@dataclasses.dataclass(frozen=True)
class Script:
    """What becomes of a frame, each with a probability of its own; delays in seconds.

    loss, duplicate: of each frame. reorder: that it is held back by `held_back`. The rest are
    delayed by `delay` and up to `jitter` more, which reorders nothing: a frame waits for those
    before it.
    """

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0
    held_back: float = 0.003
    offload: int = 0  # TUN_F_*: with TSO one lost frame is up to 45 lost segments
    mtu: int = 1500
    seed: int = 1


class _Direction:
    """One way across: frames wait in order of when they are due."""

    def __init__(self, script: Script, seed: int) -> None:
        self.script = script
        self.random = random.Random(seed)
        self.waiting: list[tuple[float, int, bytes]] = []
        self.number = 0
        self.last_due = 0.0
        self.lost = 0

    def take(self, frame: bytes, now: float) -> None:
        """Decide what becomes of a frame."""
        script, chance = self.script, self.random.random
        if chance() < script.loss or len(self.waiting) >= QUEUE_FRAMES:
            self.lost += 1
            return
        due = now + script.delay + script.jitter * chance()
        if chance() < script.reorder:
            due += script.held_back
        else:
            due = self.last_due = max(due, self.last_due)
        for _ in range(2 if chance() < script.duplicate else 1):
            self.number += 1
            heapq.heappush(self.waiting, (due, self.number, frame))

    def due_frames(self, now: float) -> list[bytes]:
        out = []
        while self.waiting and self.waiting[0][0] <= now:
            out.append(heapq.heappop(self.waiting)[2])
        return out


class ImpairedLink:
    """A guest, an Engine, and a bad link between them, for as long as the context lasts.

    `space` is where the guest lives.
    """

    def __init__(self, space: Namespace, script: Script) -> None:
        self.space = space
        self.script = script
        opened = space.call(_open_tap, script.offload)
        self.tap_fd = opened.fd
        space.run(
            "sh", "-c",
            f"ip link set tap0 mtu {script.mtu} up && ip link set lo up &&"
            f" ip addr add {GUEST}/24 dev tap0 && ip route add default via {GATEWAY}",
        )  # fmt: skip
        ours, self.relay_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, self.relay_end):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        self.engine = Engine(
            ours.detach(), mtu=script.mtu, network4=NET, prefix_len4=24,
            gateway4=socket.inet_aton(GATEWAY), dns4=bytes([10, 0, 2, 3]),
            guest4=socket.inet_aton(GUEST), gateway_mac=bytes.fromhex("52550a000202"),
            guest_mac=opened.mac, offload=opened.offload, host_loopback=True, dns_enabled=False,
        )  # fmt: skip
        self.up = _Direction(script, script.seed)
        self.down = _Direction(script, script.seed + 1)
        self.stop_read, self.stop_write = os.pipe()
        self.relay = threading.Thread(target=self._relay, daemon=True)
        self._start_engine()

    def __enter__(self) -> Self:
        self.relay.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop_engine()
        os.write(self.stop_write, b"x")
        self.relay.join()
        os.close(self.stop_read)
        os.close(self.stop_write)

    def settled(self, patience: float = 20.0) -> dict[str, int]:
        """The Engine's counters once no buffer is in use, or when `patience` seconds are over."""
        deadline = time.monotonic() + patience
        while True:
            self._stop_engine()
            stats = self.engine.stats()
            self._start_engine()
            if stats["buffer_blocks"] == 0 or time.monotonic() > deadline:
                return stats
            time.sleep(0.05)

    def _start_engine(self) -> None:
        self.halt = os.eventfd(0)
        self.driver = threading.Thread(target=self.engine.run_until, args=(self.halt,), daemon=True)
        self.driver.start()

    def _stop_engine(self) -> None:
        """One thread at a time may be inside the Engine: before asking it, have it halt."""
        os.eventfd_write(self.halt, 1)
        self.driver.join()
        os.close(self.halt)

    def close(self) -> None:
        """After the context: give the Engine and the descriptors back."""
        self.engine.close()
        self.relay_end.close()
        os.close(self.tap_fd)

    def _relay(self) -> None:
        poll = select.poll()
        poll.register(self.tap_fd, select.POLLIN)
        poll.register(self.relay_end, select.POLLIN)
        poll.register(self.stop_read, select.POLLIN)
        while True:
            ready = poll.poll(self._patience_ms())
            now = time.monotonic()
            for fd, _ in ready:
                if fd == self.stop_read:
                    return
                self._drain(fd, self.up if fd == self.tap_fd else self.down, now)
            for frame in self.up.due_frames(now):
                self._send(self.relay_end.fileno(), frame, self.up)
            for frame in self.down.due_frames(now):
                self._send(self.tap_fd, frame, self.down)

    def _patience_ms(self) -> int | None:
        dues = [way.waiting[0][0] for way in (self.up, self.down) if way.waiting]
        if not dues:
            return None
        return max(0, int((min(dues) - time.monotonic()) * 1000))

    @staticmethod
    def _drain(fd: int, way: _Direction, now: float) -> None:
        for _ in range(64):
            try:
                way.take(os.read(fd, FRAME_MAX_BYTES), now)
            except BlockingIOError:
                return

    @staticmethod
    def _send(fd: int, frame: bytes, way: _Direction) -> None:
        try:
            os.write(fd, frame)
        except OSError:  # the far side's queue is full, or it does not want the frame
            way.lost += 1


@dataclasses.dataclass
class Outcome:
    """What a round left: `faults` in words, none when all is well; `stats` of the Engine."""

    faults: list[str]
    stats: dict[str, int]


def stream_both_ways(bed: Topology, script: Script, size: int, patience: float = 120) -> Outcome:
    """One connection over such a link: `size` octets each way at once, then both sides close."""
    at_host: list[tuple[int, str]] = []
    finished = threading.Event()

    def host_side(client: socket.socket) -> None:
        client.settimeout(patience)
        sender = threading.Thread(target=send_content, args=(client, size, 2))
        sender.start()
        at_host.append(receive_digest(client))
        sender.join()
        finished.set()

    guest = bed.guest()
    link = ImpairedLink(guest, script)
    try:
        listener = socket.create_server(("127.0.0.1", 0))
        with link, serve(listener, host_side) as port:
            with guest.connect(GATEWAY, port, timeout=patience) as client:
                sender = threading.Thread(target=send_content, args=(client, size, 1))
                sender.start()
                at_guest = receive_digest(client)
                sender.join()
            finished.wait(patience)
            stats = link.settled()
    finally:
        link.close()
        bed.release(guest)
    faults = []
    if at_guest != (size, digest_of(size, seed=2)):
        faults.append(
            f"the guest received {at_guest[0]} octets of {size}, or others than were sent"
        )
    if at_host != [(size, digest_of(size, seed=1))]:
        faults.append(f"the host received {at_host} instead of {size} octets as sent")
    if stats["buffer_blocks"]:
        faults.append(f"{stats['buffer_blocks']} blocks of memory are still in use")
    return Outcome(faults, stats)


def _open_tap(offload: int) -> tap.Tap:
    """tap0 in the calling thread's network namespace, with just these offloads."""
    from fcntl import ioctl

    fd = tap.open_device()
    tap.attach(fd, "tap0")
    ioctl(fd, tap.TUNSETVNETHDRSZ, struct.pack("i", tap.VNET_HEADER_BYTES))
    ioctl(fd, tap.TUNSETOFFLOAD, offload)
    return tap.Tap(fd, tap.hardware_address(fd), offload, vnet_hdr=True)
