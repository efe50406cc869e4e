#!/usr/bin/env python3
"""Instructions that the core takes for each operation of bench/micro.py, against what is expected.

    python3 bench/instructions.py            compare with bench/expected/instructions.txt
    python3 bench/instructions.py --update   renew it

valgrind's callgrind counts them, so that neither the machine nor its load matters: the short form
of the benchmark, for CI. The count depends a little on compiler and library, hence the tolerance.
Whoever makes an operation dearer changes the table, and so says it in the same commit; whoever
makes it cheaper is asked to, so that it stays so.
"""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path += [
    str(ROOT),
    str(ROOT / "tests"),
]  # behind the installed package: the tree's is not built

from bench import micro  # noqa: E402

EXPECTED = ROOT / "bench" / "expected" / "instructions.txt"
HEAD = "# Instructions for each operation of bench/micro.py: see bench/instructions.py.\n"
TOLERANCE = 0.08
OPERATIONS = 640
# The Python face of every method that turns the mill: only inside is anything counted.
TURNS = "__pyx_pw_*4Mill_*run_*"
SKIPPED = {"tcp-up-1000", "tcp-up-20000"}  # the instructions of tcp-up, in colder memory
TOTAL = re.compile(r"^totals: (\d+)", re.M)
# Run inside valgrind, which counts each process alone. What the second has more than the first is
# what the operations take once all is warm.
CHILD = """
import os, sys
sys.path += [sys.argv[1], sys.argv[1] + "/tests"]
from bench import micro
for name in sys.argv[3:]:
    for turns in (1, 2):
        pid = os.fork()
        if pid == 0:
            operation = micro.CELLS[name]()
            for _ in range(turns):
                operation.turn(int(sys.argv[2]))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            sys.exit(name + ": wait status " + str(status))
        print(pid, flush=True)
"""


def count(names: Sequence[str]) -> dict[str, float]:
    """Instructions for each operation."""
    with tempfile.TemporaryDirectory(prefix="pyslirp-instructions-") as folder:
        argv = [
            *("valgrind", "-q", "--tool=callgrind", f"--toggle-collect={TURNS}"),
            *(f"--callgrind-out-file={folder}/%p", sys.executable, "-P", "-c", CHILD),
            *(str(ROOT), str(OPERATIONS), *names),
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"status {done.returncode} of valgrind: {done.stderr[-2000:]}")
        totals = [total(pathlib.Path(folder, pid)) for pid in done.stdout.split()]
    once, twice = totals[::2], totals[1::2]
    return {
        name: (more - less) / OPERATIONS
        for name, less, more in zip(names, once, twice, strict=True)
    }


def total(profile: pathlib.Path) -> int:
    """All that a process executed inside TURNS."""
    found = TOTAL.search(profile.read_text())
    assert found is not None, f"no total in {profile}"
    return int(found[1])


def expected() -> dict[str, float]:
    """The table that is kept."""
    lines = [line for line in EXPECTED.read_text().splitlines() if not line.startswith("#")]
    return {name: float(number) for name, number in map(str.split, lines)}


def changes(now: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
    """What differs by more than the tolerance, in words."""
    return [
        f"{name}: {now[name]:.0f} instructions, not {before[name]:.0f}"
        for name in before
        if abs(now[name] / before[name] - 1) > TOLERANCE
    ]


def main(argv: Sequence[str]) -> int:
    """Compare, or renew the table; 1 when something has changed."""
    now = count([name for name in micro.CELLS if name not in SKIPPED])
    if argv == ["--update"]:
        EXPECTED.write_text(HEAD + "".join(f"{name} {n:.0f}\n" for name, n in now.items()))
    for name, number in now.items():
        print(f"{name:16} {number:8.0f}")
    different = changes(now, expected())
    print(*different, sep="\n", end="\n" if different else "")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
