"""The C client and server for request rates (probe.c), compiled on first use."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
from collections.abc import Iterator

from lab.namespaces import Namespace
from lab.topology import Topology

SOURCE = pathlib.Path(__file__).with_name("probe.c")
SLACK_SECONDS = 15.0


def build(bed: Topology) -> str:
    """Compile probe.c into the topology's directory; the path of the program."""
    program = bed.workdir / "probe"
    if not program.exists():
        subprocess.run(["gcc", "-O2", "-Wall", "-o", str(program), str(SOURCE)], check=True)
    return str(program)


@contextlib.contextmanager
def server(bed: Topology, space: Namespace, port: int, cpus: set[int]) -> Iterator[None]:
    """An echo server in `space`, run on `cpus`, for the time of the block."""
    argv = (*on_cpus(cpus), build(bed), "serve", str(port))
    process = space.popen(*argv, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def on_cpus(cpus: set[int]) -> tuple[str, ...]:
    """The command prefix that keeps a program on `cpus`."""
    return ("taskset", "--cpu-list", ",".join(map(str, sorted(cpus))))


def run(
    bed: Topology, space: Namespace, *argv: str, seconds: float, cpus: set[int]
) -> dict[str, float]:
    """Run a client in `space` on `cpus`; its line of numbers (see probe.c)."""
    done = space.run(*on_cpus(cpus), build(bed), *argv, timeout=seconds + SLACK_SECONDS)
    result: dict[str, float] = json.loads(done.stdout)
    return result
