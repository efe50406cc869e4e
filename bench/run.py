#!/usr/bin/env python3
"""Side by side in one run: pyslirp, slirp4netns, pasta, and veth with kernel NAT as the limit.

    python3 bench/run.py --quick                       about a minute
    python3 bench/run.py --quick --cells tcp --peers pyslirp,veth
    python3 bench/run.py --peer before='/tmp/a/pyslirp' --pyslirp /tmp/b/pyslirp --base before

Every peer has a guest of its own in the same topology (tests/lab/topology.py), all of them stand
through the whole run, and the peers take turns within each cell, in another order each time: on a
shared machine only the ratios within a run mean anything. The ratio (bold) is to --base. Congestion
control is cubic in every namespace unless --cc says otherwise: a namespace would inherit the
machine's default, and bbr alone changes some peers' figures by a factor of ten.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bench import cells as cell_table  # noqa: E402
from bench import peers as peer_table  # noqa: E402
from bench.cells import Cell, Scene  # noqa: E402
from bench.peers import Attached, Peer  # noqa: E402
from bench.report import Results, markdown, number  # noqa: E402
from lab.topology import Topology, why_not  # noqa: E402

BUSY_LOAD = 0.7
MESSAGE_CHARACTERS = 160


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round of everything (about a minute)")
    add("--cells", default="", metavar="NAME,…", help="cells or groups: tcp fwd udp rr crr rest")
    add("--peers", default="pyslirp,slirp4netns,pasta,veth", metavar="NAME,…")
    add("--pyslirp", metavar="COMMAND", help="pyslirp's command (default: the installed one)")
    add("--peer", action="append", default=[], metavar="NAME=COMMAND", help="one more build")
    add("--base", default="veth", metavar="NAME", help="what the ratios are to (default: veth)")
    add("--mtu", default="1500,65520", metavar="MTU,…")
    add("--cc", default="cubic", metavar="NAME", help="congestion control in every namespace")
    add("--seconds", type=float, help="length of a measurement (default 3, quick 1)")
    add("--repeat", type=int, help="rounds (default 3, quick 1)")
    add("--json", type=pathlib.Path, metavar="PATH", help="where to write all samples")
    options = parser.parse_args(argv)
    options.seconds = options.seconds or (1 if options.quick else 3)
    options.repeat = options.repeat or (1 if options.quick else 3)
    options.mtus = [int(word) for word in options.mtu.split(",")]
    return options


def say(text: str) -> None:
    """A line of progress, apart from the result."""
    print(text, file=sys.stderr, flush=True)


def environment(options: argparse.Namespace) -> dict[str, object]:
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
        "congestion_control": options.cc,
        "seconds": options.seconds,
        "repeat": options.repeat,
        "base": options.base,
    }


class Run:
    """One run: the peers attached, the rounds, the samples."""

    def __init__(self, options: argparse.Namespace, cells: list[Cell], peers: list[Peer]) -> None:
        self.options = options
        self.cells = cells
        self.peers = peers
        self.results = Results()
        self._attached: dict[tuple[str, int], Attached] = {}

    def execute(self) -> None:
        """Attach everybody, measure in turns, stop everybody."""
        with Topology(self.options.cc) as bed:
            try:
                self._attach(bed)
                for number_of_round in range(self.options.repeat):
                    self._round(bed, number_of_round)
            finally:
                for attached in self._attached.values():
                    attached.stop()

    def _attach(self, bed: Topology) -> None:
        every_mtu = any(cell.per_mtu for cell in self.cells)
        for peer in self.peers:
            for mtu in self.options.mtus if every_mtu else self.options.mtus[:1]:
                self._attached[peer.name, mtu] = peer.attach(bed, mtu)

    def _round(self, bed: Topology, number_of_round: int) -> None:
        turn = number_of_round % len(self.peers)
        order = self.peers[turn:] + self.peers[:turn]
        for cell in self.cells:
            for mtu in self.options.mtus if cell.per_mtu else self.options.mtus[:1]:
                for peer in order:
                    attached = self._attached[peer.name, mtu]
                    self._measure(cell, Scene(bed, peer, attached, mtu, self.options.seconds))

    def _measure(self, cell: Cell, scene: Scene) -> None:
        label = f"{cell.name:13} {scene.mtu:6} {scene.peer.name:12}"
        try:
            sample = cell.measure(scene)
        except (AssertionError, OSError, subprocess.TimeoutExpired, ValueError) as failure:
            text = " ".join(str(failure).split())[-MESSAGE_CHARACTERS:]
            self.results.failures.append(f"{' '.join(label.split())}: {text}")
            say(f"{label} failed: {text}")
            return
        if sample is None:
            return
        self.results.add(cell, scene.peer.name, scene.mtu, sample)
        cost = "" if sample.cost is None else f"  {number(sample.cost)} {cell.cost_unit}"
        say(f"{label} {number(sample.value):>8} {cell.unit}{cost}  {sample.note}")


def main(argv: Sequence[str]) -> int:
    """Run, print the tables, write the samples; 1 when a measurement failed."""
    options = arguments(argv)
    cells = cell_table.choose(options.cells)
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
    if os.getloadavg()[0] > BUSY_LOAD:
        say(f"the machine is busy (load {os.getloadavg()[0]:.1f}): trust ratios and CPU costs only")
    facts = environment(options)
    run = Run(options, cells, peers)
    run.execute()
    names = [peer.name for peer in peers]
    print(markdown(run.results, cells, names, options.mtus, options.base))
    path = options.json or ROOT / "bench" / "results" / time.strftime("%Y%m%d-%H%M%S.json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**facts, "samples": run.results.as_json()}, indent=1))
        say(f"all samples: {path}")
    except OSError as refusal:
        say(f"samples not kept: {refusal}")
    return 1 if run.results.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
