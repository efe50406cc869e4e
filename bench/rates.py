"""Operations per second, and what one costs, by the lab's C probe."""

from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator

from bench.measure import CpuMeter, Sample, Scene, set_cpus
from lab import probe
from lab.namespaces import CommandError
from lab.topology import Guest

PORT_RANGE = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
REUSED_PORTS = "40000 40063"
ALL_PORTS = "1024 65535"  # 20,000 connections to one port need as many of their own
OPENING_SECONDS = 30.0  # the slowest of the peers opens 1,000 a second
LEAST_OPENED = 0.4


@contextlib.contextmanager
def port_range(guest: Guest, ports: str) -> Iterator[None]:
    """Let the guest choose its own ports from "FIRST LAST" for the time of the block."""
    usual = guest.call(PORT_RANGE.read_text)
    guest.sysctl(ipv4__ip_local_port_range=ports or usual)
    try:
        yield
    finally:
        guest.sysctl(ipv4__ip_local_port_range=usual)


@contextlib.contextmanager
def pinned(pid: int | None, cpus: set[int]) -> Iterator[None]:
    """Keep the proxy on `cpus` for the time of the block."""
    set_cpus(pid, cpus)
    try:
        yield
    finally:
        set_cpus(pid, os.sched_getaffinity(0))


def request_rate(
    mode: str, *, count: int | None = None, ports: str = "", one_cpu: bool = False
) -> Callable[[Scene], Sample]:
    """Operations of probe.c's `mode`; `ports` narrows the guest's range of own ports.

    With `one_cpu` client, proxy and server share a CPU: the length of the path decides then, not
    how long the (virtual) machine takes to wake an idle CPU, some 40 us each way.
    """

    def measure(scene: Scene) -> Sample:
        bed, guest = scene.bed, scene.attached.guest
        cpus = os.sched_getaffinity(0)
        cpus = {min(cpus)} if one_cpu else cpus
        port = probe.next_port()
        notes: list[str] = []
        argv = [mode, scene.remote, str(port), str(scene.seconds)]
        argv += [] if count is None else [str(count)]
        seconds = scene.seconds + (OPENING_SECONDS if mode == "many" else 0)
        with (
            probe.server(bed, bed.remote, port, cpus),
            port_range(guest, ports),
            pinned(scene.attached.pid, cpus),
        ):
            meter = CpuMeter(scene.attached)
            with probe.client(bed, guest, *argv, seconds=seconds, cpus=cpus) as numbers:
                if mode == "many" and count is not None:
                    notes.append(opened_note(numbers()["count"], count))
                    meter = CpuMeter(scene.attached)
                result = numbers()
                cost = meter.spent_per(result["count"] / 1e6)
        notes.append(f"p50 {result['p50_us']:.0f} p99 {result['p99_us']:.0f} us")
        if result["errors"]:
            notes.append(f"{result['errors']:.0f} errors")
        return Sample(result["count"] / result["seconds"], cost, ", ".join(filter(None, notes)))

    return measure


def opened_note(opened: float, wanted: int) -> str:
    """What to say when not all the connections came to be; too few is a failure.

    A machine may not let a process have 20,000 descriptors, and pasta needs two a connection.
    """
    if opened < wanted * LEAST_OPENED:
        raise CommandError(f"only {opened:.0f} of {wanted} connections opened")
    return "" if opened == wanted else f"{opened:.0f} open"
