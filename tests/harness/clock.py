"""Virtual time: it moves only when a test says so, and stops at each event on the way.

Whoever keeps timers of his own (the stack) is asked for his next deadline after every event, so
that nothing is run early or late. Times are microseconds, spans that tests write are seconds.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Protocol


class Timed(Protocol):
    """Somebody with timers: `next_deadline` and `run_timers` as Stack has them."""

    def next_deadline(self) -> int | None: ...
    def run_timers(self, now_us: int) -> None: ...


class Clock:
    """The time, `now_us`, and what is due in it."""

    def __init__(self, now_us: int = 1_000_000_000) -> None:
        self.now_us = now_us
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._timed: list[Timed] = []

    def drive(self, timed: Timed) -> None:
        """Run `timed` whenever it is due."""
        self._timed.append(timed)

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Have `action` run that far from now; events of one moment run in the order they came."""
        due_us = self.now_us + round(seconds * 1e6)
        heapq.heappush(self._events, (due_us, next(self._order), action))

    def next_us(self) -> int | None:
        """When something is due next."""
        dues = [due for timed in self._timed if (due := timed.next_deadline()) is not None]
        if self._events:
            dues.append(self._events[0][0])
        return min(dues, default=None)

    def step(self) -> bool:
        """Go to the next event and run what is due there; False when nothing will ever happen."""
        due_us = self.next_us()
        if due_us is None:
            return False
        self._run_at(due_us)
        return True

    def _run_at(self, due_us: int) -> None:
        self.now_us = max(self.now_us, due_us)
        while self._events and self._events[0][0] <= self.now_us:
            heapq.heappop(self._events)[2]()
        for timed in self._timed:
            due = timed.next_deadline()
            if due is not None and due <= self.now_us:
                timed.run_timers(self.now_us)

    def advance(self, seconds: float) -> None:
        """Let that much time pass."""
        until_us = self.now_us + round(seconds * 1e6)
        while (due_us := self.next_us()) is not None and due_us <= until_us:
            self._run_at(due_us)
        self.now_us = until_us

    def run_until(self, condition: Callable[[], bool], limit_s: float = 3600.0) -> bool:
        """Let time pass until `condition` holds; False when it does not within the limit."""
        limit_us = self.now_us + round(limit_s * 1e6)
        while not condition():
            due_us = self.next_us()
            if due_us is None or due_us > limit_us:
                return False
            self._run_at(due_us)
        return True
