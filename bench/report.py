"""Tables of a run: medians, and each peer's ratio to the base (veth), the only figure to quote."""

from __future__ import annotations

import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence

from bench.cells import AT_REST
from bench.conditions import Axes, Condition
from bench.measure import Cell, Sample

Key = tuple[str, str, Condition]  # cell, peer


class Results:
    """All samples of a run, in the order they were taken."""

    def __init__(self) -> None:
        self.samples: dict[Key, list[Sample]] = defaultdict(list)
        self.failures: list[str] = []

    def add(self, cell: Cell, peer: str, condition: Condition, sample: Sample) -> None:
        """Keep one sample."""
        self.samples[cell.name, peer, condition].append(sample)

    def median(self, cell: Cell, peer: str, condition: Condition) -> Sample | None:
        """The sample in the middle by value; its cost is the median of the costs."""
        taken = sorted(self.samples.get((cell.name, peer, condition), ()), key=lambda s: s.value)
        if not taken:
            return None
        costs = [sample.cost for sample in taken if sample.cost is not None]
        middle = taken[len(taken) // 2]
        cost = statistics.median(costs) if costs else None
        return Sample(statistics.median(s.value for s in taken), cost, middle.note)

    def ratio(self, cell: Cell, peer: str, condition: Condition, base: str) -> float | None:
        """The median, over the rounds, of what the peer reached as a share of the base's."""
        pairs = zip(
            self.samples.get((cell.name, peer, condition), ()),
            self.samples.get((cell.name, base, condition), ()),
            strict=False,
        )
        ratios = [ours.value / theirs.value for ours, theirs in pairs if theirs.value > 0]
        return statistics.median(ratios) if ratios else None

    def as_json(self) -> list[dict[str, object]]:
        """Every sample, flat."""
        return [
            {"cell": cell, "peer": peer, **dataclasses.asdict(condition), **dataclasses.asdict(s)}
            for (cell, peer, condition), samples in self.samples.items()
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


def _value(results: Results, cell: Cell, peer: str, condition: Condition, base: str) -> str:
    sample = results.median(cell, peer, condition)
    if sample is None:
        return "-"
    text = number(sample.value)
    if peer != base and cell.name not in AT_REST:
        ratio = results.ratio(cell, peer, condition, base)
        text = text if ratio is None else f"**{ratio:.2f}** · {text}"
    return f"{text} ({sample.note})" if sample.note else text


def _rows(
    results: Results, cell: Cell, peers: Sequence[str], condition: Condition, axes: Axes, base: str
) -> Iterator[str]:
    where = condition.differences(axes.usual)
    title = f"{cell.title} · {where}" if where else cell.title
    values = [_value(results, cell, peer, condition, base) for peer in peers]
    yield _row([title, cell.unit, *values, cell.mark])
    medians = [results.median(cell, peer, condition) for peer in peers]
    costs = [None if sample is None else sample.cost for sample in medians]
    if cell.cost_unit and any(cost is not None for cost in costs):
        texts = ["-" if cost is None else number(cost) for cost in costs]
        yield _row(["", cell.cost_unit, *texts, ""])


def markdown(
    results: Results, cells: Sequence[Cell], peers: Sequence[str], axes: Axes, base: str
) -> str:
    """The tables of a run: one for each MTU, one for what does not depend on it."""
    measured = {(cell, condition) for cell, _, condition in results.samples}

    def table(title: str, chosen: Sequence[Cell], mtu: int) -> Iterator[str]:
        rows = [
            (cell, condition)
            for cell in chosen
            for cc in axes.ccs
            for condition in axes.conditions(cell.varies, cc)
            if condition.mtu == mtu and (cell.name, condition) in measured
        ]
        if rows:
            yield from ("", f"### {title}", "")
            yield from _head(["", "unit", *peers, "mark"])
        for cell, condition in rows:
            yield from _rows(results, cell, peers, condition, axes, base)

    lines: list[str] = []
    for mtu in axes.mtus:
        lines += table(f"MTU {mtu}", [cell for cell in cells if "mtu" in cell.varies], mtu)
    alike = [cell for cell in cells if "mtu" not in cell.varies]
    lines += table("Whatever the MTU", alike, axes.usual.mtu)
    lines += ["", *(f"* {failure}" for failure in results.failures)]
    return "\n".join(lines).strip() + "\n"
