"""Tables of a run: medians, and each peer's ratio to the base (veth), the only figure to quote."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence

from bench.cells import Cell, Sample

Key = tuple[str, str, int]  # cell, peer, MTU


class Results:
    """All samples of a run, in the order they were taken."""

    def __init__(self) -> None:
        self.samples: dict[Key, list[Sample]] = defaultdict(list)
        self.failures: list[str] = []

    def add(self, cell: Cell, peer: str, mtu: int, sample: Sample) -> None:
        """Keep one sample."""
        self.samples[cell.name, peer, mtu].append(sample)

    def median(self, cell: Cell, peer: str, mtu: int) -> Sample | None:
        """The sample in the middle by value; its cost is the median of the costs."""
        taken = sorted(self.samples.get((cell.name, peer, mtu), ()), key=lambda s: s.value)
        if not taken:
            return None
        costs = [sample.cost for sample in taken if sample.cost is not None]
        middle = taken[len(taken) // 2]
        cost = statistics.median(costs) if costs else None
        return Sample(statistics.median(s.value for s in taken), cost, middle.note)

    def as_json(self) -> list[dict[str, object]]:
        """Every sample, flat."""
        return [
            {"cell": cell, "peer": peer, "mtu": mtu, **dataclasses.asdict(s)}
            for (cell, peer, mtu), samples in self.samples.items()
            for s in samples
        ]


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _row(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _head(words: Sequence[str]) -> Iterator[str]:
    yield _row(words)
    yield _row(["---"] * len(words))


def _value(results: Results, cell: Cell, peer: str, mtu: int, base: str) -> str:
    sample = results.median(cell, peer, mtu)
    if sample is None:
        return "-"
    text = number(sample.value)
    reference = results.median(cell, base, mtu)
    if peer != base and reference is not None and reference.value > 0:
        text = f"**{sample.value / reference.value:.2f}** · {text}"
    return f"{text} ({sample.note})" if sample.note else text


def _table(
    results: Results, cells: Sequence[Cell], peers: Sequence[str], mtu: int, base: str
) -> Iterator[str]:
    yield from _head(["", "unit", *peers])
    for cell in cells:
        yield _row(
            [cell.title, cell.unit, *(_value(results, cell, peer, mtu, base) for peer in peers)]
        )
        if not cell.cost_unit:
            continue
        costs = [results.median(cell, peer, mtu) for peer in peers]
        if any(s is not None and s.cost is not None for s in costs):
            texts = ["-" if s is None or s.cost is None else number(s.cost) for s in costs]
            yield _row(["", cell.cost_unit, *texts])


def markdown(
    results: Results, cells: Sequence[Cell], peers: Sequence[str], mtus: Sequence[int], base: str
) -> str:
    """The tables of a run: one for each MTU, one for what does not depend on it."""
    lines: list[str] = []
    measured = {key[0] for key in results.samples}
    for mtu in mtus:
        rows = [cell for cell in cells if cell.per_mtu and cell.name in measured]
        if rows:
            lines += ["", f"### MTU {mtu}", "", *_table(results, rows, peers, mtu, base)]
    rows = [cell for cell in cells if not cell.per_mtu and cell.name in measured]
    if rows:
        lines += ["", "### At rest", "", *_table(results, rows, peers, mtus[0], base="")]
    lines += ["", *(f"* {failure}" for failure in results.failures)]
    return "\n".join(lines).strip() + "\n"
