"""The lab's C programs: clients and servers that cost less than what they measure.

probe.c makes requests over TCP, trains.c sends datagrams as QUIC does. They are compiled on first
use, into the topology's directory.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
import subprocess
from collections.abc import Callable, Iterator

from lab.namespaces import CommandError, Namespace
from lab.topology import Topology

SOURCE = pathlib.Path(__file__).with_name("probe.c")
TRAINS_SOURCE = pathlib.Path(__file__).with_name("trains.c")
SLACK_SECONDS = 15.0
Numbers = dict[str, float]
_ports = itertools.count(5402)


def next_port() -> int:
    """A fresh port of the remote's for each measurement.

    The TIME-WAITs of one must not meet the SYNs of the next, which come from the same address
    through another proxy with another clock.
    """
    return next(_ports)


def compiled(bed: Topology, source: pathlib.Path) -> str:
    """The path of a C program, compiled once."""
    program = bed.workdir / source.stem
    if not program.exists():
        flags = ("-O2", "-Wall", "-Wextra", "-pthread")
        subprocess.run(["gcc", *flags, "-o", str(program), str(source)], check=True)
    return str(program)


@contextlib.contextmanager
def server(
    bed: Topology,
    space: Namespace,
    port: int,
    cpus: set[int] | None = None,
    source: pathlib.Path = SOURCE,
) -> Iterator[None]:
    """The program's server in `space`, run on `cpus`, for the time of the block."""
    argv = (*on_cpus(cpus), compiled(bed, source), "serve", str(port))
    process = space.popen(*argv, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.communicate()


def on_cpus(cpus: set[int] | None) -> tuple[str, ...]:
    """The command prefix that keeps a program on `cpus`; none for all."""
    return ("taskset", "--cpu-list", ",".join(map(str, sorted(cpus)))) if cpus else ()


@contextlib.contextmanager
def client(
    bed: Topology,
    space: Namespace,
    *argv: str,
    seconds: float,
    cpus: set[int] | None = None,
    source: pathlib.Path = SOURCE,
) -> Iterator[Callable[[], Numbers]]:
    """A client in `space`, killed at the end of the block, or well after `seconds`.

    Yields what waits for its next line of numbers (see the programs).
    """
    patience = ("timeout", "--signal=KILL", str(seconds + SLACK_SECONDS))
    process = space.popen(
        *(*patience, *on_cpus(cpus), compiled(bed, source), *argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    def next_line() -> Numbers:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise CommandError(f"{argv[0]}: {process.communicate()[1].strip() or 'no answer'}")
        numbers: Numbers = json.loads(line)
        return numbers

    try:
        yield next_line
    finally:
        process.kill()
        process.communicate()
