"""RootlessKit, which Docker rootless, nerdctl and k3s are launched by: it makes the TAP itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest

from lab.machine import PAGE, PATIENCE_SECONDS, PORT, TEMPORARY_DIR, TOP, Machine, child_of, fetch
from lab.servers import serve_http
from lab.topology import HOST, REMOTE, Topology

STATE = f"{TEMPORARY_DIR}/state"
BOTH_PORT_DRIVERS = pytest.mark.parametrize("driver", ["slirp4netns", "builtin"])
Kit = Callable[..., subprocess.Popen[str]]


@pytest.fixture(autouse=True)
def no_state(machine: Machine) -> Iterator[None]:
    """A RootlessKit that is killed leaves its state, and would not start again on it."""
    yield
    machine.run("rm", "-rf", STATE)


def rootlesskit(*options: str) -> list[str]:
    """The words before the command to run."""
    return ["rootlesskit", "--net=slirp4netns", "--copy-up=/etc", *options]


@pytest.fixture
def web(machine: Machine) -> Iterator[Kit]:
    """Starts a web server in RootlessKit, with its state where rootlessctl is told to look."""
    kits: list[subprocess.Popen[str]] = []
    pages = f"{TEMPORARY_DIR}/pages"
    make = f'mkdir -p {pages} && printf "%s" "$0" > {pages}/index.html'
    machine.run("sh", "-c", make, PAGE)

    def start(*options: str) -> subprocess.Popen[str]:
        server = ("busybox", "httpd", "-f", "-v", "-p", "80", "-h", pages)
        argv = [*rootlesskit(f"--state-dir={STATE}", *options), *server]
        kit = machine.popen(*argv, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        kits.append(kit)
        machine.await_daemons(1)
        return kit

    yield start
    for kit in kits:
        _end(machine)
        kit.communicate(timeout=PATIENCE_SECONDS)
    machine.await_daemons(0)


def _end(machine: Machine) -> None:
    machine.run("sh", "-c", f"kill $(cat {STATE}/child_pid)", check=False)


def control(machine: Machine, *argv: str) -> str:
    """What rootlessctl prints, once RootlessKit serves it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        done = machine.run("rootlessctl", f"--socket={STATE}/api.sock", *argv, check=False)
        if done.returncode == 0:
            return str(done.stdout)
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.05)


# What the command sees


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--disable-host-loopback",),
        ("--slirp4netns-sandbox=true", "--slirp4netns-seccomp=true"),
        ("--slirp4netns-sandbox=auto", "--slirp4netns-seccomp=auto", "--pidns", "--cgroupns"),
        (f"--slirp4netns-binary={TOP}/bin/slirp4netns", "--propagation=rslave"),
        ("--mtu=1500", "--cidr=10.77.0.0/24", "--ifname=eth7"),
    ],
    ids=" ".join,
)
def test_command_with_a_network(machine: Machine, options: tuple[str, ...], download: str) -> None:
    script = f"ip -4 addr; cat /etc/resolv.conf; busybox {download}"
    shown = machine.run(*rootlesskit(*options), "sh", "-c", script).stdout
    assert shown.endswith("OK\n")
    network, mtu = ("10.77.0", 1500) if "--mtu=1500" in options else ("10.0.2", 65520)
    assert f"inet {network}.100/24" in shown
    assert f"mtu {mtu}" in shown
    assert f"nameserver {network}.3" in shown


@pytest.mark.parametrize("disabled", [True, False])
def test_host_loopback(machine: Machine, disabled: bool) -> None:
    options = ["--disable-host-loopback"] if disabled else []
    with serve_http(machine.listen("127.0.0.1"), 100) as port:
        asked = f"curl -sS --max-time 3 http://10.0.2.2:{port}/ | wc -c"
        shown = machine.run(*rootlesskit(*options), "sh", "-c", asked).stdout
    assert shown == ("0\n" if disabled else "100\n")


def test_exit_status(machine: Machine) -> None:
    done = machine.run(*rootlesskit(), "sh", "-c", "exit 7", check=False)
    assert done.returncode != 0
    machine.await_daemons(0)


# Ports


@BOTH_PORT_DRIVERS
def test_published_port(bed: Topology, machine: Machine, web: Kit, driver: str) -> None:
    web(f"--port-driver={driver}", "-p", f"0.0.0.0:{PORT}:80/tcp", "--disable-host-loopback")
    assert fetch(bed.remote, HOST) == PAGE
    assert fetch(machine, "127.0.0.1") == PAGE
    listed = json.loads(control(machine, "list-ports", "--json").splitlines()[0])
    assert listed["spec"]["parentPort"] == PORT


@BOTH_PORT_DRIVERS
def test_ports_added_and_removed(bed: Topology, machine: Machine, web: Kit, driver: str) -> None:
    web(f"--port-driver={driver}")
    for _ in range(3):
        added = control(machine, "add-ports", f"0.0.0.0:{PORT}:80/tcp").split()
        assert fetch(bed.remote, HOST) == PAGE
        control(machine, "remove-ports", added[0])
        with pytest.raises(ConnectionRefusedError):
            bed.remote.connect(HOST, PORT)


def test_many_ports(bed: Topology, machine: Machine, web: Kit) -> None:
    """A connection to the API for each, one after another."""
    ports = [f"--publish=0.0.0.0:{PORT + count}:80/tcp" for count in range(100)]
    web("--port-driver=slirp4netns", *ports)
    assert fetch(bed.remote, HOST, PORT + 99) == PAGE
    assert len(control(machine, "list-ports").splitlines()) == 101


def test_busy_port_is_an_error(machine: Machine, web: Kit) -> None:
    web("--port-driver=slirp4netns")
    with machine.listen("0.0.0.0", PORT):
        control(machine, "list-ports")
        add = ("rootlessctl", f"--socket={STATE}/api.sock", "add-ports")
        done = machine.run(*add, f"0.0.0.0:{PORT}:80/tcp", check=False)
    assert done.returncode != 0
    assert "add_hostfwd" in done.stderr
    control(machine, "add-ports", f"0.0.0.0:{PORT}:80/tcp")


def test_server_sees_the_clients_address(bed: Topology, machine: Machine, web: Kit) -> None:
    kit = web("--port-driver=slirp4netns", "-p", f"0.0.0.0:{PORT}:80/tcp")
    assert fetch(bed.remote, HOST) == PAGE
    _end(machine)
    _, logged = kit.communicate(timeout=PATIENCE_SECONDS)
    assert f"[::ffff:{REMOTE}]" in logged


# Ends


def test_killed_rootlesskit_takes_the_daemon_with_it(machine: Machine, web: Kit) -> None:
    kit = web("--port-driver=slirp4netns", "-p", f"0.0.0.0:{PORT}:80/tcp")
    control(machine, "list-ports")
    os.kill(child_of(kit.pid), signal.SIGKILL)
    machine.await_daemons(0)


def test_twenty_in_a_row(machine: Machine, download: str) -> None:
    for _ in range(20):
        shown = machine.run(*rootlesskit(), "sh", "-c", f"busybox {download}").stdout
        assert shown == "OK\n"
    machine.await_daemons(0)
