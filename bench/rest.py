"""At rest: launch, memory, and thousands of connections that say nothing."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator

from bench.bulk import SERVER_PORT, iperf_client, iperf_server, tcp_sample
from bench.measure import CpuMeter, Sample, Scene
from bench.peers import Attached
from bench.rates import ALL_PORTS, OPENING_SECONDS, opened_note, port_range
from lab import probe
from lab.daemons import usage

LAUNCHES = 8
SETTLE_SECONDS = 0.3
IDLE_CONNECTIONS = 10_000


def launch(scene: Scene) -> Sample:
    """Median of several launches until ready, in ms (with some 3 ms of nsenter and setpriv)."""
    times_ms = []
    for _ in range(LAUNCHES):
        with fresh(scene) as attached:
            times_ms.append(attached.ready_seconds * 1e3)
    return Sample(statistics.median(times_ms), note=f"least {min(times_ms):.0f}")


@contextlib.contextmanager
def fresh(scene: Scene) -> Iterator[Attached]:
    """One more guest of the same kind, for the time of the block."""
    attached = scene.peer.attach(scene.bed, scene.condition.mtu, scene.condition.family == 6)
    try:
        yield attached
    finally:
        attached.stop()
        scene.bed.release(attached.guest)


def memory_fresh(scene: Scene) -> Sample | None:
    """PSS in MB of a daemon that has just started and done nothing."""
    if scene.attached.pid is None:
        return None
    with fresh(scene) as attached:
        time.sleep(SETTLE_SECONDS)
        return _memory(attached)


def memory_after(scene: Scene) -> Sample | None:
    """PSS in MB of the daemon that has carried everything until now."""
    return None if scene.attached.pid is None else _memory(scene.attached)


def _memory(attached: Attached) -> Sample:
    assert attached.pid is not None
    used = usage(attached.pid)
    return Sample(used.pss_bytes / 1e6, note=f"RSS {used.rss_bytes / 1e6:.1f}")


@contextlib.contextmanager
def idle_connections(scene: Scene, attached: Attached) -> Iterator[int]:
    """IDLE_CONNECTIONS from guest to remote, for the time of the block; how many came to be."""
    bed, port, count = scene.bed, probe.next_port(), IDLE_CONNECTIONS
    argv = ("hold", scene.remote, str(port), str(count))
    seconds = scene.seconds + OPENING_SECONDS
    with (
        probe.server(bed, bed.remote, port),
        port_range(attached.guest, ALL_PORTS),
        probe.client(bed, attached.guest, *argv, seconds=seconds) as numbers,
    ):
        opened = int(numbers()["count"])
        opened_note(opened, count)
        time.sleep(SETTLE_SECONDS)
        yield opened


def idle_memory(scene: Scene) -> Sample | None:
    """PSS in bytes that each idle connection adds to a fresh daemon, and its CPU time meanwhile."""
    if scene.attached.pid is None:
        return None
    with fresh(scene) as attached:
        assert attached.pid is not None
        time.sleep(SETTLE_SECONDS)
        before = usage(attached.pid).pss_bytes
        with idle_connections(scene, attached) as opened:
            each = (usage(attached.pid).pss_bytes - before) / opened
            meter = CpuMeter(attached)
            time.sleep(scene.seconds)
            at_rest = meter.spent_per(scene.seconds) or 0.0
    return Sample(each, note=f"{100 * at_rest:.1f} % CPU at rest")


def idle_tcp(scene: Scene) -> Sample:
    """Bulk TCP down beside the idle connections."""
    with (
        idle_connections(scene, scene.attached),
        iperf_server(scene.bed.remote, SERVER_PORT),
    ):
        meter = CpuMeter(scene.attached)
        report = iperf_client(
            scene.attached.guest,
            scene.remote,
            SERVER_PORT,
            "--reverse",
            seconds=scene.seconds,
        )
        return tcp_sample(report, meter)
