#!/usr/bin/env python3
"""Side by side in one run: pyslirp, slirp4netns, pasta, and veth with kernel NAT as the limit.

    python3 bench/run.py --set quick                       some two minutes
    python3 bench/run.py --set quick --cells tcp --peers pyslirp,veth
    python3 bench/run.py --cells tcp-up,tcp-down --mtu 1500 --cc cubic,bbr --delay 0,10,100
    python3 bench/run.py --peer before='/tmp/a/pyslirp' --pyslirp /tmp/b/pyslirp --base before

Every peer has a guest of its own in the same topology (tests/lab/topology.py), all of them stand
through the whole run, and the peers take turns within each cell, in another order each time: on a
shared machine only the ratios within a run mean anything. The ratio (bold) is to --base. The
congestion control is set in every namespace, which would else inherit the machine's default, and
bbr alone changes some peers' figures by a factor of ten.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench import cells as cell_table  # noqa: E402
from bench import machine  # noqa: E402
from bench import peers as peer_table  # noqa: E402
from bench.conditions import SETS, Axes, Condition  # noqa: E402
from bench.measure import Cell, Sample, Scene  # noqa: E402
from bench.peers import Attached, Peer  # noqa: E402
from bench.plot import draw  # noqa: E402
from bench.report import Results, markdown, number  # noqa: E402
from lab.topology import Topology, why_not  # noqa: E402
from lab.wire import DelayedWire  # noqa: E402

BUSY_LOAD = 0.7
MESSAGE_CHARACTERS = 160


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers between commas."""
    return tuple(int(word) for word in text.split(","))


def words(text: str) -> tuple[str, ...]:
    """Words between commas."""
    return tuple(text.split(","))


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line; what it does not say is the set's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--set", choices=SETS, default="usual", help="what else is not said (default: usual)")
    add("--quick", action="store_const", dest="set", const="quick", help="the same as --set quick")
    add("--cells", metavar="NAME,…", help="cells or groups: " + cell_table.GROUPS)
    add("--peers", default="pyslirp,slirp4netns,pasta,veth", metavar="NAME,…")
    add("--pyslirp", metavar="COMMAND", help="pyslirp's command (default: the installed one)")
    add("--peer", action="append", default=[], metavar="NAME=COMMAND", help="one more build")
    add("--base", default="veth", metavar="NAME", help="what the ratios are to (default: veth)")
    add("--mtu", type=numbers, metavar="MTU,…", help="of 1500,65520")
    add("--cc", type=words, metavar="NAME,…", help="congestion control: of cubic,reno,bbr")
    add("--delay", type=numbers, metavar="MS,…", help="round-trip times of the path: of 0,10,100")
    add("--family", type=numbers, metavar="4,6", help="of IP")
    add("--seconds", type=int, help="length of a measurement, whole seconds (iperf3's wish)")
    add("--repeat", type=int, help="rounds")
    add("--json", type=pathlib.Path, metavar="PATH", help="where to write all samples")
    options = parser.parse_args(argv)
    chosen = SETS[options.set]
    options.axes = Axes(
        options.cc or chosen.axes.ccs,
        options.mtu or chosen.axes.mtus,
        options.family or chosen.axes.families,
        chosen.axes.rtts_ms if options.delay is None else options.delay,
    )
    options.cells = chosen.cells if options.cells is None else options.cells
    options.seconds = options.seconds or chosen.seconds
    options.repeat = options.repeat or chosen.repeat
    return options


def say(text: str) -> None:
    """A line of progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def environment(options: argparse.Namespace, axes: Axes) -> dict[str, object]:
    """What one must know to read the figures."""
    revision = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S"),
        "revision": revision.stdout.strip(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "congestion_control": axes.ccs,
        "seconds": options.seconds,
        "repeat": options.repeat,
        "base": options.base,
    }


class Run:
    """One run: the peers attached, the rounds, the samples."""

    def __init__(
        self, options: argparse.Namespace, axes: Axes, cells: list[Cell], peers: list[Peer]
    ) -> None:
        self.options = options
        self.axes = axes
        self.cells = cells
        self.peers = peers
        self.results = Results()
        self._attached: dict[tuple[str, int], Attached] = {}
        self._wires: dict[int, DelayedWire] = {}

    def execute(self) -> None:
        """For each congestion control: attach everybody, measure in turns, stop everybody.

        Each has a topology of its own, because sockets keep the one they were made with, and a
        proxy may have made some in advance.
        """
        for cc in self.axes.ccs:
            with contextlib.ExitStack() as stack:
                bed = stack.enter_context(Topology(cc))
                machine.check_congestion_control(bed)
                self._attach(bed, stack, cc)
                for number_of_round in range(self.options.repeat):
                    self._round(bed, number_of_round, cc)

    def _conditions(self, cc: str) -> set[Condition]:
        return {at for cell in self.cells for at in self.axes.conditions(cell.varies, cc)}

    def _attach(self, bed: Topology, stack: contextlib.ExitStack, cc: str) -> None:
        conditions = self._conditions(cc)
        self._attached, self._wires = {}, {}
        for rtt_ms in sorted({at.rtt_ms for at in conditions} - {0}):
            self._wires[rtt_ms] = wire = DelayedWire(bed, rtt_ms)
            stack.callback(wire.close)
        ipv6 = any(at.family == 6 for at in conditions)
        for peer in self.peers:
            for mtu in sorted({at.mtu for at in conditions}):
                self._attached[peer.name, mtu] = attached = peer.attach(bed, mtu, ipv6)
                stack.callback(attached.stop)

    def _round(self, bed: Topology, number_of_round: int, cc: str) -> None:
        turn = number_of_round % len(self.peers)
        order = self.peers[turn:] + self.peers[:turn]
        for cell in self.cells:
            for condition in self.axes.conditions(cell.varies, cc):
                for peer in order:
                    attached = self._attached[peer.name, condition.mtu]
                    seconds = self.options.seconds
                    self._measure(cell, Scene(bed, peer, attached, condition, seconds, self._wires))

    def _measure(self, cell: Cell, scene: Scene) -> None:
        at = scene.condition
        place = f"{at.cc:5} {at.mtu:5} v{at.family} {at.rtt_ms:3} ms"
        label = f"{cell.name:13} {place} {scene.peer.name:12}"
        try:
            with scene.attached.on_stage():
                sample = cell.measure(scene)
        except (AssertionError, OSError, subprocess.TimeoutExpired, ValueError) as failure:
            text = " ".join(str(failure).split())[-MESSAGE_CHARACTERS:]
            self.results.failures.append(f"{' '.join(label.split())}: {text}")
            say(f"{label} failed: {text}")
            # So that the rounds' samples stay in step, and the median tells.
            sample = Sample(0.0, note="failed") if cell.cost_unit else None
        if sample is None:
            return
        self.results.add(cell, scene.peer.name, scene.condition, sample)
        cost = "" if sample.cost is None else f"  {number(sample.cost)} {cell.cost_unit}"
        say(f"{label} {number(sample.value):>8} {cell.unit}{cost}  {sample.note}")


def participants(options: argparse.Namespace) -> list[Peer]:
    """Those who can take part; SystemExit when nobody can."""
    chosen = peer_table.choose(options.peers, options.pyslirp, options.peer)
    refused = why_not()
    if refused:
        raise SystemExit(f"bench: {refused}")
    for peer in chosen:
        if peer.missing:
            say(f"without {peer.name}: {peer.missing}")
    peers = [peer for peer in chosen if not peer.missing]
    if not peers:
        raise SystemExit("bench: nobody to measure")
    return peers


def keep(path: pathlib.Path, facts: dict[str, object], results: Results) -> None:
    """Write all samples."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**facts, "samples": results.as_json()}, indent=1))
        say(f"all samples: {path}")
    except OSError as refusal:
        say(f"samples not kept: {refusal}")


def main(argv: Sequence[str]) -> int:
    """Run, print the tables, write the samples; 1 when a measurement failed."""
    options = arguments(argv)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))  # and clear up
    cells = cell_table.choose(options.cells)
    peers = participants(options)
    if os.getloadavg()[0] > BUSY_LOAD:
        say(f"the machine is busy (load {os.getloadavg()[0]:.1f}): trust ratios and CPU costs only")
    machine.raise_descriptor_limit()
    with machine.congestion_controls(options.axes, say) as axes:
        facts = environment(options, axes)
        run = Run(options, axes, cells, peers)
        run.execute()
    names = [peer.name for peer in peers]
    print(markdown(run.results, cells, names, axes, options.base))
    path = options.json or ROOT / "bench" / "results" / time.strftime("%Y%m%d-%H%M%S.json")
    keep(path, facts, run.results)
    picture = path.with_suffix(".svg")
    if draw(run.results, cells, names, axes, options.base, picture):
        say(f"ratios as a picture: {picture}")
    return 1 if run.results.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
