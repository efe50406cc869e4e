"""A link between the stack and a guest's TCP that treats segments as its script says.

Each segment meets the next Fate of its direction: it is lost, delayed, or doubled, and so reordered
when another's delay is shorter. When a script is at its end, the link is clean. A train (GSO) is
cut first, as the guest's kernel would, and its pieces have fates of their own. A bottleneck, where
there is one, is a queue towards the guest that drains at a rate and drops what it cannot hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from harness.net import WORLD, Net
from harness.peer import GUEST_ISN, Peer, cut
from harness.pkt import Segment


@dataclasses.dataclass(frozen=True)
class Fate:
    """What becomes of a segment: the delay in seconds of each copy that arrives; none: lost."""

    copies: tuple[float, ...] = (0.0,)


CLEAN = Fate()
LOST = Fate(())


@dataclasses.dataclass(frozen=True)
class Bottleneck:
    """Towards the guest: so many bytes of text a second, and so many waiting at most."""

    bytes_per_s: float
    queue_bytes: int


class Link(Peer):
    """The addresses and ports of one connection, with `guest_receives` at the end of the link."""

    def __init__(
        self,
        net: Net,
        *,
        guest_port: int = 40000,
        dest: bytes = WORLD,
        dest_port: int = 80,
        isn: int = GUEST_ISN,
        delay_s: float = 0.001,
        up: Iterable[Fate] = (),
        down: Iterable[Fate] = (),
        bottleneck: Bottleneck | None = None,
    ) -> None:
        super().__init__(net, guest_port=guest_port, dest=dest, dest_port=dest_port, isn=isn)
        self.delay_s = delay_s
        self.guest_receives: Callable[[Segment], None] = lambda segment: None
        self.lost = 0
        self._up: Iterator[Fate] = iter(up)
        self._down: Iterator[Fate] = iter(down)
        self._bottleneck = bottleneck
        self._queue_free_us = net.clock.now_us  # when the bottleneck's last byte has left

    def guest_sends(self, segment: Segment) -> None:
        """From the guest into the stack."""
        for delay_s in self._copies(self._up):
            self.net.clock.after(self.delay_s + delay_s, lambda: self._arrive(segment))

    def _arrive(self, segment: Segment) -> None:
        self.transmit(segment)
        self.net.check()

    def on_segment(self, segment: Segment) -> None:
        """From the stack to the guest. Called from inside the stack: only the clock delivers."""
        for piece in cut(segment):
            queued_s = self._queue(len(piece.text) + 40)
            if queued_s is None:
                continue
            for delay_s in self._copies(self._down):
                self.net.clock.after(
                    self.delay_s + queued_s + delay_s,
                    lambda piece=piece: self.guest_receives(piece),  # type: ignore[misc]
                )

    def _copies(self, fates: Iterator[Fate]) -> tuple[float, ...]:
        copies = next(fates, CLEAN).copies
        self.lost += not copies
        return copies

    def _queue(self, size: int) -> float | None:
        """How long a segment waits for the bottleneck; None: it finds no place."""
        if self._bottleneck is None:
            return 0.0
        now_us = self.net.clock.now_us
        waiting_us = max(0, self._queue_free_us - now_us)
        if waiting_us / 1e6 * self._bottleneck.bytes_per_s + size > self._bottleneck.queue_bytes:
            self.lost += 1
            return None
        self._queue_free_us = now_us + waiting_us + round(size / self._bottleneck.bytes_per_s * 1e6)
        return (self._queue_free_us - now_us) / 1e6
