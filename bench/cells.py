"""What is measured: each cell drives one guest for a while and gives one number, with its price.

Throughput comes from iperf3, request rates from the lab's own C probe. The price is the CPU time of
the proxy process divided by what it carried: steadier than any rate on a shared machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.peers import FORWARD_PORT, Attached, Peer
from lab import probe
from lab.daemons import usage
from lab.namespaces import CommandError, Namespace
from lab.topology import REMOTE, Topology

SERVER_PORT = 5201
# A fresh port for each measurement: the remote's TIME-WAITs of one must not meet the SYNs of the
# next, which come from the same address through another proxy with another clock.
_probe_ports = itertools.count(5202)
UDP_PAYLOAD_BYTES = 1400
REUSED_PORTS = "40000 40063"
LAUNCHES = 8
SETTLE_SECONDS = 0.3


@dataclasses.dataclass(frozen=True)
class Sample:
    """One measurement: `cost` is CPU s per GB, or CPU us per operation where that is the unit."""

    value: float
    cost: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Scene:
    """Where a cell is measured."""

    bed: Topology
    peer: Peer
    attached: Attached
    mtu: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row of the table. `per_mtu` is false where the MTU makes no difference."""

    name: str
    group: str
    title: str
    unit: str
    measure: Callable[[Scene], Sample | None]
    per_mtu: bool = True
    cost_unit: str = ""


class CpuMeter:
    """CPU seconds of the proxy between construction and `spent()`; None without a proxy."""

    def __init__(self, attached: Attached) -> None:
        self._pid = attached.pid
        self._before = 0.0 if self._pid is None else usage(self._pid).cpu_seconds

    def spent_per(self, amount: float) -> float | None:
        """CPU seconds for each unit of `amount`."""
        if self._pid is None or amount <= 0:
            return None
        return (usage(self._pid).cpu_seconds - self._before) / amount


@contextlib.contextmanager
def iperf_server(space: Namespace, port: int) -> Iterator[None]:
    """An iperf3 server for one test."""
    server = space.popen(
        *("iperf3", "--server", "--one-off", "--forceflush", "--port", str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if "listening" in line:
                break
        yield
    finally:
        server.kill()
        server.communicate()


def iperf_client(space: Namespace, address: str, port: int, *options: str, seconds: float) -> Any:
    """Run a client; the `end` object of its report."""
    done = space.run(
        *("iperf3", "--client", address, "--port", str(port), "--json"),
        *("--time", str(seconds), *options),
        check=False,
        timeout=seconds + 20,
    )
    report = json.loads(done.stdout)
    if "error" in report:
        raise CommandError(f"iperf3: {report['error']}")
    return report["end"]


def tcp(streams: int, *, down: bool) -> Callable[[Scene], Sample]:
    """Bulk TCP between guest and remote, Gbit/s as received."""
    options = ["--parallel", str(streams), *(["--reverse"] if down else [])]

    def measure(scene: Scene) -> Sample:
        with iperf_server(scene.bed.remote, SERVER_PORT):
            meter = CpuMeter(scene.attached)
            end = iperf_client(
                scene.attached.guest, REMOTE, SERVER_PORT, *options, seconds=scene.seconds
            )
        received = end["sum_received"]
        return Sample(received["bits_per_second"] / 1e9, meter.spent_per(received["bytes"] / 1e9))

    return measure


def forward_in(scene: Scene) -> Sample | None:
    """Bulk TCP from the remote through a port forward to the guest."""
    if scene.attached.forward is None:
        return None
    address, port = scene.attached.forward
    with iperf_server(scene.attached.guest, FORWARD_PORT):
        meter = CpuMeter(scene.attached)
        end = iperf_client(scene.bed.remote, address, port, seconds=scene.seconds)
    received = end["sum_received"]
    return Sample(received["bits_per_second"] / 1e9, meter.spent_per(received["bytes"] / 1e9))


def udp(*, down: bool) -> Callable[[Scene], Sample]:
    """Datagrams as fast as the sender can: Gbit/s that arrived, and the loss."""
    options = ["--udp", "--bitrate", "0", "--length", str(UDP_PAYLOAD_BYTES)]
    options += ["--reverse"] if down else []

    def measure(scene: Scene) -> Sample:
        with iperf_server(scene.bed.remote, SERVER_PORT):
            meter = CpuMeter(scene.attached)
            end = iperf_client(
                scene.attached.guest, REMOTE, SERVER_PORT, *options, seconds=scene.seconds
            )
        total = end["sum"]
        arrived = 1 - total["lost_percent"] / 100
        return Sample(
            total["bits_per_second"] * arrived / 1e9,
            meter.spent_per(total["bytes"] * arrived / 1e9),
            f"{total['lost_percent']:.0f} % lost",
        )

    return measure


def set_cpus(pid: int | None, cpus: set[int]) -> None:
    """Let every thread of the proxy run on `cpus` only."""
    for task in () if pid is None else os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), cpus)


def request_rate(*mode: str, ports: str = "", one_cpu: bool = False) -> Callable[[Scene], Sample]:
    """Operations per second of the C probe; `ports` narrows the guest's range of own ports.

    With `one_cpu` client, proxy and server share a CPU: the length of the path decides then, not
    how long the (virtual) machine takes to wake an idle CPU, some 40 us each way.
    """

    def measure(scene: Scene) -> Sample:
        bed, guest = scene.bed, scene.attached.guest
        all_cpus = os.sched_getaffinity(0)
        cpus = {min(all_cpus)} if one_cpu else all_cpus
        usual_ports = guest.call(pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range").read_text)
        port = next(_probe_ports)
        argv = (mode[0], REMOTE, str(port), str(scene.seconds), *mode[1:])
        with probe.server(bed, bed.remote, port, cpus):
            guest.sysctl(ipv4__ip_local_port_range=ports or usual_ports)
            set_cpus(scene.attached.pid, cpus)
            meter = CpuMeter(scene.attached)
            result = probe.run(bed, guest, *argv, seconds=scene.seconds, cpus=cpus)
            set_cpus(scene.attached.pid, all_cpus)
            guest.sysctl(ipv4__ip_local_port_range=usual_ports)
        cost = meter.spent_per(result["count"] / 1e6)
        note = f"p50 {result['p50_us']:.0f} p99 {result['p99_us']:.0f} us"
        if result["errors"]:
            note += f", {result['errors']:.0f} errors"
        return Sample(result["count"] / result["seconds"], cost, note)

    return measure


def launch(scene: Scene) -> Sample:
    """Median of several launches until ready, in ms (with some 3 ms of nsenter and setpriv)."""
    times_ms = []
    for _ in range(LAUNCHES):
        attached = scene.peer.attach(scene.bed, scene.mtu)
        times_ms.append(attached.ready_seconds * 1e3)
        attached.stop()
        scene.bed.release(attached.guest)
    return Sample(statistics.median(times_ms), note=f"least {min(times_ms):.0f}")


def memory_fresh(scene: Scene) -> Sample | None:
    """PSS in MB of a daemon that has just started and done nothing."""
    if scene.attached.pid is None:
        return None
    attached = scene.peer.attach(scene.bed, scene.mtu)
    time.sleep(SETTLE_SECONDS)
    sample = _memory(attached)
    attached.stop()
    scene.bed.release(attached.guest)
    return sample


def memory_after(scene: Scene) -> Sample | None:
    """PSS in MB of the daemon that has carried everything until now."""
    return None if scene.attached.pid is None else _memory(scene.attached)


def _memory(attached: Attached) -> Sample:
    assert attached.pid is not None
    used = usage(attached.pid)
    return Sample(used.pss_bytes / 1e6, note=f"RSS {used.rss_bytes / 1e6:.1f}")


rate = functools.partial(Cell, unit="Gbit/s", cost_unit="CPU s/GB")
count = functools.partial(Cell, unit="1/s", cost_unit="CPU us/op")
CELLS = (
    rate("tcp-up", "tcp", "TCP up", measure=tcp(1, down=False)),
    rate("tcp-down", "tcp", "TCP down", measure=tcp(1, down=True)),
    rate("tcp-up-8", "tcp", "TCP up, 8 streams", measure=tcp(8, down=False)),
    rate("tcp-down-8", "tcp", "TCP down, 8 streams", measure=tcp(8, down=True)),
    rate("fwd-in", "fwd", "port forward in", measure=forward_in),
    rate("udp-up", "udp", "UDP up, 1,400 B", measure=udp(down=False)),
    rate("udp-down", "udp", "UDP down, 1,400 B", measure=udp(down=True)),
    count("rr", "rr", "request/response", measure=request_rate("rr", one_cpu=True)),
    count("rr-free", "rr", "same, on all CPUs", measure=request_rate("rr")),
    count("crr-32", "crr", "connections, 32 at once", measure=request_rate("crr", "32")),
    count(
        *("crr", "crr", "connections, one by one"), measure=request_rate("crr", "1", one_cpu=True)
    ),
    count(
        *("crr-reuse", "crr", "same, from 64 ports"),
        measure=request_rate("crr", "1", ports=REUSED_PORTS, one_cpu=True),
    ),
    Cell("ready", "rest", "launch to ready", "ms", launch, per_mtu=False),
    Cell("memory", "rest", "memory, fresh (PSS)", "MB", memory_fresh, per_mtu=False),
    Cell("memory-after", "rest", "memory, after the run (PSS)", "MB", memory_after, per_mtu=False),
)


def choose(names: str) -> list[Cell]:
    """The cells whose name or group is in the comma-separated `names`; all when it is empty."""
    wanted = set(filter(None, names.split(",")))
    unknown = wanted - {cell.name for cell in CELLS} - {cell.group for cell in CELLS}
    if unknown:
        known = ", ".join(dict.fromkeys(word for c in CELLS for word in (c.group, c.name)))
        raise SystemExit(f"bench: no such cell: {', '.join(sorted(unknown))} (known: {known})")
    return [cell for cell in CELLS if not wanted or wanted & {cell.name, cell.group}]
