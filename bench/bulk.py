"""Throughput: TCP and datagrams by iperf3, trains of datagrams by the lab's own trains.c."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from bench.measure import CpuMeter, Sample, Scene
from bench.peers import FORWARD_PORT
from lab import probe
from lab.namespaces import CommandError, Namespace

SERVER_PORT = 5201
UDP_PAYLOAD_BYTES = 1400
# The first round trips, in which windows open, are not counted.
WARM_UP_ROUND_TRIPS = 20


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


def iperf_client(
    space: Namespace, address: str, port: int, *options: str, seconds: int, warm_up: int = 0
) -> Any:
    """Run a client; its report."""
    done = space.run(
        *("iperf3", "--client", address, "--port", str(port), "--json"),
        *("--time", str(seconds), "--omit", str(warm_up), *options),
        check=False,
        timeout=seconds + warm_up + 20,
    )
    report = json.loads(done.stdout)
    if "error" in report:
        raise CommandError(f"iperf3: {report['error']}")
    return report


def tcp_sample(report: Any, meter: CpuMeter) -> Sample:
    """Gbit/s as received. CPU time is for all that was carried, also while windows opened."""
    carried = sum(interval["sum"]["bytes"] for interval in report["intervals"])
    rate = report["end"]["sum_received"]["bits_per_second"] / 1e9
    return Sample(rate, meter.spent_per(carried / 1e9))


def tcp(streams: int, *, down: bool) -> Callable[[Scene], Sample]:
    """Bulk TCP between guest and remote."""
    options = ["--parallel", str(streams), *(["--reverse"] if down else [])]

    def measure(scene: Scene) -> Sample:
        warm_up = math.ceil(WARM_UP_ROUND_TRIPS * scene.condition.rtt_ms / 1000)
        with iperf_server(scene.bed.remote, SERVER_PORT):
            meter = CpuMeter(scene.attached)
            report = iperf_client(
                scene.attached.guest,
                scene.remote,
                SERVER_PORT,
                *options,
                seconds=scene.seconds,
                warm_up=warm_up,
            )
        return tcp_sample(report, meter)

    return measure


def forward(*, out: bool) -> Callable[[Scene], Sample | None]:
    """Bulk TCP over a connection from the remote through a port forward to the guest."""
    options = ["--reverse"] if out else []

    def measure(scene: Scene) -> Sample | None:
        if scene.attached.forward is None:
            return None
        address, port = scene.attached.forward
        with iperf_server(scene.attached.guest, FORWARD_PORT):
            meter = CpuMeter(scene.attached)
            report = iperf_client(scene.bed.remote, address, port, *options, seconds=scene.seconds)
        return tcp_sample(report, meter)

    return measure


def udp(*, down: bool, rate: str = "0") -> Callable[[Scene], Sample]:
    """Datagrams at a rate, 0 for as fast as the sender can: Gbit/s that arrived, and the loss."""
    options = ["--udp", "--bitrate", rate, "--length", str(UDP_PAYLOAD_BYTES)]
    options += ["--reverse"] if down else []

    def measure(scene: Scene) -> Sample:
        with iperf_server(scene.bed.remote, SERVER_PORT):
            meter = CpuMeter(scene.attached)
            report = iperf_client(
                scene.attached.guest,
                scene.remote,
                SERVER_PORT,
                *options,
                seconds=scene.seconds,
            )
        total = report["end"]["sum"]
        arrived = 1 - total["lost_percent"] / 100
        return Sample(
            total["bits_per_second"] * arrived / 1e9,
            meter.spent_per(total["bytes"] * arrived / 1e9),
            f"{total['lost_percent']:.1f} % lost",
        )

    return measure


def trains(direction: str) -> Callable[[Scene], Sample]:
    """Trains of datagrams, "up" or "down", with a window that the receiver's ACKs open."""

    def measure(scene: Scene) -> Sample:
        bed, port = scene.bed, probe.next_port()
        with probe.server(bed, bed.remote, port, source=probe.TRAINS_SOURCE):
            meter = CpuMeter(scene.attached)
            with probe.client(
                *(bed, scene.attached.guest, direction, scene.remote, str(port)),
                str(scene.seconds),
                seconds=scene.seconds,
                source=probe.TRAINS_SOURCE,
            ) as numbers:
                result = numbers()
            cost = meter.spent_per(result["bytes"] / 1e9)
        return Sample(
            result["bytes"] * 8 / result["seconds"] / 1e9,
            cost,
            f"{100 * result['lost']:.1f} % lost",
        )

    return measure
