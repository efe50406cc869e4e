#!/usr/bin/env python3
"""How fast our TCP is over links of every kind, in virtual time: no machine has a part in it.

    python3 bench/netsim.py            print the table
    python3 bench/netsim.py --update   and keep it as bench/expected/netsim.txt

One connection of the test harness: the stack without I/O, a guest's TCP written in Python, a link
with delay and seeded loss between them, and a host that always has more, or takes all. A row is in
kB/s of virtual time; the same code gives the same table everywhere, so that a regression is a diff.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import random
import sys
from collections.abc import Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

from harness.guest import GuestOptions, GuestTcp  # noqa: E402
from harness.host import HostSocket  # noqa: E402
from harness.link import CLEAN, LOST, Bottleneck, Fate, Link  # noqa: E402
from harness.net import LINK_CSUM, LINK_TSO4  # noqa: E402
from harness.pkt import stream  # noqa: E402
from harness.tcp import Tcp  # noqa: E402

EXPECTED = ROOT / "bench" / "expected" / "netsim.txt"
TRANSFER_BYTES = 1_000_000
LIMIT_S = 3600.0
BOTTLENECK = Bottleneck(bytes_per_s=2_500_000, queue_bytes=100_000)
HEAD = f"{'way':4} {'rtt ms':>6} {'window':>8} {'loss %':>6} {'link':10} {'kB/s':>8}"


@dataclasses.dataclass(frozen=True)
class Path:
    """What one row is measured over. `window` is the receiver's."""

    down: bool
    rtt_ms: int
    window_bytes: int
    loss: float = 0.0
    offload: bool = True
    bottleneck: bool = False

    def __str__(self) -> str:
        link = "20 Mbit/s" if self.bottleneck else "offload" if self.offload else "plain"
        way = "down" if self.down else "up"
        return f"{way:4} {self.rtt_ms:6} {self.window_bytes:8} {100 * self.loss:6.1f} {link:10}"


PATHS = (
    *(
        Path(True, rtt_ms, window, loss, offload)
        for rtt_ms, window, loss, offload in itertools.product(
            (2, 20, 100), (65535, 1 << 18), (0.0, 0.01, 0.05), (True, False)
        )
    ),
    *(
        Path(True, rtt_ms, 1 << 18, loss, bottleneck=True)
        for rtt_ms, loss in itertools.product((2, 20, 100), (0.0, 0.01))
    ),
    *(
        Path(False, rtt_ms, window)
        for rtt_ms, window in itertools.product((2, 20, 100), (65535, 1 << 18))
    ),
)


def fates(loss: float) -> Iterator[Fate]:
    """What becomes of one segment after another, the same each time."""
    chance = random.Random(20_260_101)
    while loss:
        yield LOST if chance.random() < loss else CLEAN


def throughput(path: Path) -> float:
    """kB/s from the first SYN until the last byte is there."""
    tcp = Tcp(
        offload=LINK_CSUM | LINK_TSO4 if path.offload else 0,
        tcp_buffer_bytes=(1 << 20) if path.down else path.window_bytes,
    )
    link = Link(
        tcp,
        delay_s=path.rtt_ms / 2000,
        down=fates(path.loss),
        bottleneck=BOTTLENECK if path.bottleneck else None,
    )
    buffer_bytes = path.window_bytes if path.down else 65535
    guest = GuestTcp(tcp.clock, link, GuestOptions(buffer_bytes=buffer_bytes))
    sockets: list[HostSocket] = []

    def connected(socket: HostSocket) -> None:
        sockets.append(socket)
        tcp.clock.after(0.0, socket.connected)
        if path.down:
            tcp.clock.after(0.0, lambda: socket.feed(stream(0, TRANSFER_BYTES)))

    def over() -> bool:
        tcp.check()
        received = guest.received if path.down else sockets[0].received if sockets else b""
        return len(received) == TRANSFER_BYTES

    tcp.host.on_connect = connected
    begin_us = tcp.clock.now_us
    guest.connect()
    if not path.down:
        guest.write(stream(0, TRANSFER_BYTES))
    if not tcp.clock.run_until(over, LIMIT_S):
        raise RuntimeError(f"not over after {LIMIT_S} s: {path}\n{tcp.transcript()}")
    return TRANSFER_BYTES * 1e3 / (tcp.clock.now_us - begin_us)


def table(paths: Sequence[Path] = PATHS) -> Iterator[str]:
    """Line after line."""
    yield HEAD
    for path in paths:
        yield f"{path} {throughput(path):8.0f}"


def main(argv: Sequence[str]) -> int:
    """Print the table, and keep it if asked to."""
    lines = []
    for line in table():
        print(line, flush=True)
        lines.append(f"{line}\n")
    if argv == ["--update"]:
        EXPECTED.write_text("".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
