"""Under what conditions a cell is measured, and the named sets of them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterator


@dataclasses.dataclass(frozen=True, order=True)
class Condition:
    """One point of the matrix. `rtt_ms` is the path's, beyond what the machine itself takes."""

    cc: str
    mtu: int
    family: int
    rtt_ms: int

    def differences(self, usual: Condition) -> str:
        """In words, where this is not as usual; the MTU has a table of its own."""
        words = []
        if self.family != usual.family:
            words.append(f"IPv{self.family}")
        if self.cc != usual.cc:
            words.append(self.cc)
        if self.rtt_ms != usual.rtt_ms:
            words.append(f"{self.rtt_ms} ms")
        return ", ".join(words)


@dataclasses.dataclass(frozen=True)
class Axes:
    """What each dimension of the matrix runs over; the first of each is the usual one."""

    ccs: tuple[str, ...] = ("cubic",)
    mtus: tuple[int, ...] = (1500, 65520)
    families: tuple[int, ...] = (4,)
    rtts_ms: tuple[int, ...] = (0,)

    @property
    def usual(self) -> Condition:
        """The condition of cells for which the rest makes no difference."""
        return Condition(self.ccs[0], self.mtus[0], self.families[0], self.rtts_ms[0])

    def conditions(self, varies: Collection[str], cc: str) -> Iterator[Condition]:
        """All under the congestion control `cc` that make a difference for a cell."""
        if cc != self.ccs[0] and "cc" not in varies:
            return
        mtus = self.mtus if "mtu" in varies else self.mtus[:1]
        families = self.families if "family" in varies else self.families[:1]
        rtts_ms = self.rtts_ms if "rtt" in varies else self.rtts_ms[:1]
        for point in itertools.product(mtus, families, rtts_ms):
            yield Condition(cc, *point)


@dataclasses.dataclass(frozen=True)
class Set:
    """A named run: what it spans, which cells ("" for all), how long and how often."""

    axes: Axes
    cells: str
    seconds: int
    repeat: int


SETS = {
    "quick": Set(Axes(), "tcp,fwd-in,udp-up,udp-down,rr,crr,rest", seconds=1, repeat=1),
    "usual": Set(Axes(rtts_ms=(0, 10)), "", seconds=3, repeat=3),
    "full": Set(
        Axes(("cubic", "reno", "bbr"), (1500, 65520), (4, 6), (0, 10, 100)),
        *("", 3, 3),
    ),
}
