"""Podman's rootless bridge networks: one daemon serves the side network of them all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from lab.machine import IMAGE, PAGE, PATIENCE_SECONDS, PORT, Machine, fetch
from lab.topology import HOST, Topology


@pytest.fixture
def bridge(machine: Machine) -> Iterator[str]:
    """The option that puts a container on a network made for the test."""
    machine.podman("network", "create", "bridge-1")
    yield "--network=bridge-1"
    machine.clean()
    assert "bridge-1" not in machine.podman("network", "ls")


def test_download_by_name(machine: Machine, bridge: str, download: str) -> None:
    assert machine.container(bridge, command=download) == "OK\n"


def test_published_port(bed: Topology, machine: Machine, bridge: str) -> None:
    """From the host, from another address, from a second container by the host's address."""
    machine.start_web(bridge, "-p", f"{PORT}:80")
    assert fetch(machine, "127.0.0.1") == PAGE
    assert fetch(bed.remote, HOST) == PAGE
    asked = f"timeout 5 wget -q -O- http://{HOST}:{PORT}/"
    assert machine.container("--network=slirp4netns", command=asked) == PAGE
    assert machine.container(bridge, command=asked) == PAGE


def test_containers_find_each_other_by_name(machine: Machine, bridge: str) -> None:
    machine.start_web(bridge)
    asked = "until wget -q -O- http://web/; do sleep 0.1; done"
    assert machine.container(bridge, command=f"timeout 10 sh -c '{asked}'") == PAGE


def test_two_networks_share_a_daemon(machine: Machine, bridge: str, download: str) -> None:
    machine.podman("network", "create", "bridge-2")
    machine.start_web(bridge)
    machine.start_web("--network=bridge-2", name="other")
    machine.await_daemons(1)
    assert machine.podman("exec", "other", "sh", "-c", download) == "OK\n"
    assert machine.container("--network=bridge-1,bridge-2", command=download) == "OK\n"
    machine.podman("rm", "--force", "--time=0", "web")
    machine.await_daemons(1)
    assert machine.podman("exec", "other", "sh", "-c", download) == "OK\n"
    machine.podman("rm", "--force", "--time=0", "other")
    machine.await_daemons(0)


def test_network_connected_later(machine: Machine, bridge: str, download: str) -> None:
    machine.podman("network", "create", "bridge-2")
    machine.start_web(bridge)
    machine.podman("network", "connect", "bridge-2", "web")
    shown = machine.podman("exec", "web", "ip", "-4", "addr")
    assert "eth0" in shown
    assert "eth1" in shown
    assert machine.podman("exec", "web", "sh", "-c", download) == "OK\n"


def test_reload(bed: Topology, machine: Machine, bridge: str, download: str) -> None:
    machine.start_web(bridge, "-p", f"{PORT}:80")
    machine.podman("network", "reload", "web")
    assert fetch(bed.remote, HOST) == PAGE
    assert machine.podman("exec", "web", "sh", "-c", download) == "OK\n"


def test_restarts_with_the_same_port(bed: Topology, machine: Machine, bridge: str) -> None:
    """The last container takes the daemon with it, and the next launches another."""
    machine.start_web(bridge, "-p", f"{PORT}:80")
    for _ in range(5):
        assert fetch(bed.remote, HOST) == PAGE
        machine.podman("restart", "--time=0", "web")
    assert fetch(bed.remote, HOST) == PAGE


def test_pod(bed: Topology, machine: Machine, bridge: str, download: str) -> None:
    machine.podman("pod", "create", "--name=pod", bridge, "-p", f"{PORT}:80")
    machine.start_web("--pod=pod")
    assert fetch(bed.remote, HOST) == PAGE
    assert machine.container("--pod=pod", command="wget -q -O- http://localhost/") == PAGE
    assert machine.container("--pod=pod", command=download) == "OK\n"


def test_killed_daemon(machine: Machine, bridge: str, download: str) -> None:
    """Those who have no network then get one with the next start."""
    machine.start_web(bridge)
    (daemon,) = machine.await_daemons(1)
    os.kill(daemon, signal.SIGKILL)
    machine.await_daemons(0)
    machine.podman("rm", "--force", "--time=0", "web")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while machine.run("podman", "run", "--rm", bridge, IMAGE, "true", check=False).returncode:
        assert time.monotonic() < deadline
    assert machine.container(bridge, command=download) == "OK\n"
