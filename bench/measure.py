"""What every measurement is made of: a scene, a sample, and the price.

The price is the CPU time of the proxy process divided by what it carried: steadier than any rate on
a shared machine.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping

from bench.conditions import Condition
from bench.peers import Attached, Peer
from lab.daemons import usage
from lab.topology import REMOTE, REMOTE6, Topology
from lab.wire import DelayedWire


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measurement: `cost` is CPU s per GB, or CPU us per operation where that is the unit."""

    value: float
    cost: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Scene:
    """Where a cell is measured; `wires` are the delayed ones, by their round-trip time."""

    bed: Topology
    peer: Peer
    attached: Attached
    condition: Condition
    seconds: int
    wires: Mapping[int, DelayedWire]

    @property
    def remote(self) -> str:
        """The remote's address, of the condition's family and on the condition's wire."""
        wire = self.wires.get(self.condition.rtt_ms)
        addresses = {4: REMOTE, 6: REMOTE6} if wire is None else wire.remote
        return addresses[self.condition.family]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row of the table, or several.

    `varies` names the dimensions of Condition that make a difference; `mark` is what pyslirp is to
    reach.
    """

    name: str
    group: str
    title: str
    unit: str
    measure: Callable[[Scene], Sample | None]
    varies: frozenset[str] = frozenset()
    cost_unit: str = ""
    mark: str = ""


class CpuMeter:
    """CPU seconds of the proxy since construction; None without a proxy."""

    def __init__(self, attached: Attached) -> None:
        self._pid = attached.pid
        self._before = 0.0 if self._pid is None else usage(self._pid).cpu_seconds

    def spent(self) -> float | None:
        """CPU seconds until now."""
        return None if self._pid is None else usage(self._pid).cpu_seconds - self._before

    def spent_per(self, amount: float) -> float | None:
        """CPU seconds for each unit of `amount`."""
        seconds = self.spent()
        return None if seconds is None or amount <= 0 else seconds / amount


def set_cpus(pid: int | None, cpus: set[int]) -> None:
    """Let every thread of the proxy run on `cpus` only."""
    for task in () if pid is None else os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), cpus)
