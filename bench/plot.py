"""The ratios of a run as a picture: a panel for each MTU, a bar for each peer in each row."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from bench.cells import AT_REST
from bench.conditions import Axes, Condition
from bench.measure import Cell
from bench.report import Results

ROW_INCHES = 0.34
WIDTH_INCHES = 9.0


def rows_of(
    results: Results, cells: Sequence[Cell], axes: Axes, mtu: int
) -> list[tuple[str, Cell, Condition]]:
    """The rows of one panel: those that have a ratio."""
    measured = {(cell, condition) for cell, _, condition in results.samples}
    return [
        (" · ".join(filter(None, (cell.title, at.differences(axes.usual)))), cell, at)
        for cell in cells
        if cell.name not in AT_REST and cell.unit != "MB"
        for cc in axes.ccs
        for at in axes.conditions(cell.varies, cc)
        if at.mtu == mtu and (cell.name, at) in measured
    ]


def draw(
    results: Results,
    cells: Sequence[Cell],
    peers: Sequence[str],
    axes: Axes,
    base: str,
    path: pathlib.Path,
) -> bool:
    """Write an SVG; False when matplotlib is not there or nothing can be compared."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    panels = [(mtu, rows) for mtu in axes.mtus if (rows := rows_of(results, cells, axes, mtu))]
    others = [peer for peer in peers if peer != base]
    if base not in peers or not others or not panels:
        return False
    heights = [len(rows) for _, rows in panels]
    figure = Figure(figsize=(WIDTH_INCHES, 1.5 + ROW_INCHES * sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    thickness = 0.8 / len(others)
    for (mtu, rows), axis in zip(panels, grid[:, 0], strict=True):
        for number, peer in enumerate(others):
            ratios = [results.ratio(cell, peer, at, base) or 0.0 for _, cell, at in rows]
            places = [row + (number + 0.5) * thickness - 0.4 for row in range(len(rows))]
            axis.barh(places, ratios, thickness, label=peer)
        axis.axvline(1.0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(rows)), [title for title, _, _ in rows], fontsize="small")
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_title(f"MTU {mtu}: ratio to {base}", fontsize="medium")
        axis.grid(axis="x", alpha=0.3)
    grid[0, 0].legend(fontsize="small")
    figure.savefig(path, format="svg")
    return True
