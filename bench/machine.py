"""What a run asks of the machine, and gives back."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import resource
from collections.abc import Callable, Iterator

from bench.conditions import Axes
from lab.namespaces import CommandError
from lab.topology import Topology

CONGESTION_CONTROL = "/proc/sys/net/ipv4/tcp_congestion_control"
AVAILABLE = pathlib.Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
ALLOWED = pathlib.Path("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
# For 20,000 connections at each end of a proxy in one process.
DESCRIPTORS = 65536


def raise_descriptor_limit() -> None:
    """Let this process and those it starts have many descriptors, as container engines do."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(hard, DESCRIPTORS)
    with contextlib.suppress(ValueError, OSError):  # an ordinary user keeps his hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def congestion_controls(axes: Axes, say: Callable[[str], None]) -> Iterator[Axes]:
    """The axes with those congestion controls that namespaces may use here.

    A namespace may choose only what the machine's own namespace allows; root widens that for the
    time of the block.
    """
    allowed = before = ALLOWED.read_text().split()
    missing = [cc for cc in axes.ccs if cc not in before and cc in AVAILABLE.read_text().split()]
    try:
        with contextlib.suppress(PermissionError):
            if missing:
                ALLOWED.write_text(" ".join([*before, *missing]))
                allowed = [*before, *missing]
        for cc in axes.ccs:
            if cc not in allowed:
                say(f"without {cc}: not allowed to namespaces here")
        usable = tuple(cc for cc in axes.ccs if cc in allowed) or ("reno",)
        yield dataclasses.replace(axes, ccs=usable)
    finally:
        if allowed != before:
            ALLOWED.write_text(" ".join(before))


def check_congestion_control(bed: Topology) -> None:
    """Refuse to measure one under the name of another."""
    for space in (bed.host, bed.remote):
        used = space.call(pathlib.Path(CONGESTION_CONTROL).read_text).strip()
        if used != bed.congestion_control:
            raise CommandError(f"congestion control is {used}, not {bed.congestion_control}")
