"""The cases and their runs: several guests side by side, each with cases of its own to work off."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import importlib
import pathlib
import queue
import threading
import time
import traceback
from collections.abc import Callable, Iterable

from conformance.net import AbsentError, Net
from lab.namespaces import CommandError

Function = Callable[[Net], None]
OK, FAIL, ABSENT = "ok", "FAIL", "-"
ACCIDENTS_MAX = 12


@dataclasses.dataclass(frozen=True)
class Case:
    """A question and where it is asked; `seconds`: about how long it takes."""

    name: str
    group: str
    clause: str
    function: Function
    seconds: float = 0.5

    def __str__(self) -> str:
        return f"{self.group}: {self.name} ({self.clause})"


@dataclasses.dataclass
class Result:
    """How a case went; `story` is told when it failed."""

    case: Case
    outcome: str
    seconds: float
    reason: str = ""
    story: list[str] = dataclasses.field(default_factory=list)


CASES: dict[str, Case] = {}


def case(clause: str, seconds: float = 0.5) -> Callable[[Function], Function]:
    """Make a function a case of the group that its file is named after."""

    def add(function: Function) -> Function:
        group = function.__module__.rpartition(".")[2].removesuffix("_cases").replace("_", " ")
        name = function.__name__
        if name in CASES:
            raise ValueError(f"two cases are called {name}")
        CASES[name] = Case(name, group, clause, function, seconds)
        return function

    return add


def load() -> list[Case]:
    """All cases, by group and in the order in which they are written."""
    for path in sorted(pathlib.Path(__file__).parent.glob("*_cases.py")):
        importlib.import_module(f"conformance.{path.stem}")
    return list(CASES.values())


def perform(net: Net, item: Case) -> Result:
    """One case on that guest."""
    started = time.monotonic()
    net.wire.begin()
    outcome, reason = OK, ""
    try:
        item.function(net)
    except AbsentError:
        outcome = ABSENT
    except (AssertionError, OSError, CommandError) as failure:
        where = traceback.extract_tb(failure.__traceback__)
        line = next((at.lineno for at in reversed(where) if "_cases" in at.filename), 0)
        outcome, reason = FAIL, f"{type(failure).__name__}: {failure} (line {line})"
    except Exception:  # a fault of the case's own, which must not stop the others
        outcome, reason = FAIL, traceback.format_exc()
    story = net.wire.story() if outcome == FAIL else []
    result = Result(item, outcome, time.monotonic() - started, reason, story)
    if not net.alive:
        result.outcome = FAIL
        result.reason += " and after it the daemon does not answer"
        net.renew()
    return result


def run(peer: str, cases: Iterable[Case], workers: int = 8) -> dict[str, Result]:
    """All `cases` on `peer`, the longest first.

    What fails is asked once more, alone: cases tell "at once" from "after a time-out", and a
    machine that is busy with all the others may be late. Many failures are no accident.
    """
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    chosen = list(cases)
    for item in sorted(chosen, key=lambda item: -item.seconds):
        waiting.put(item)
    results: dict[str, Result] = {}
    making = threading.Lock()

    def work() -> None:
        with making:
            net = Net(peer)
        try:
            with contextlib.suppress(queue.Empty):
                while True:
                    item = waiting.get_nowait()
                    results[item.name] = perform(net, item)
        finally:
            net.close()

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(work) for _ in range(min(workers, len(chosen)))]:
            done.result()
    failed = [item for item in chosen if results[item.name].outcome == FAIL]
    if 0 < len(failed) <= ACCIDENTS_MAX:
        for item in failed:
            waiting.put(item)
        work()
    return {item.name: results[item.name] for item in chosen}
