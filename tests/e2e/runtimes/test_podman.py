"""Podman as an ordinary user, one daemon a container: `--network slirp4netns`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time

import pytest

from lab.machine import IMAGE, PAGE, PATIENCE_SECONDS, PORT, WEB_SERVER, Machine, fetch
from lab.namespaces import CommandError
from lab.servers import serve_http
from lab.topology import HOST, REMOTE, Topology

BOTH_PORT_HANDLERS = pytest.mark.parametrize("handler", ["rootlesskit", "slirp4netns"])


# What a container sees


def test_addresses_routes_and_names(machine: Machine) -> None:
    shown = machine.container(command="ip -4 addr show tap0; ip route; cat /etc/resolv.conf")
    assert "mtu 65520" in shown
    assert "inet 10.0.2.100/24" in shown
    assert "default via 10.0.2.2 dev tap0" in shown
    assert "nameserver 10.0.2.3" in shown


def test_podman_info_has_our_version(machine: Machine) -> None:
    info = json.loads(machine.podman("info", "--format=json"))
    version = machine.run("slirp4netns", "--version").stdout
    assert info["host"]["slirp4netns"]["version"] == version.strip()


def test_download_by_name(machine: Machine, download: str) -> None:
    assert machine.container(command=download) == "OK\n"


def test_unknown_name_stays_unknown(machine: Machine) -> None:
    shown = machine.container(command="nslookup nothing.test 10.0.2.3; nslookup remote.test")
    assert "can't find nothing.test: NXDOMAIN" in shown
    assert f"Address: {REMOTE}" in shown


def test_ten_containers_at_once(machine: Machine, download: str) -> None:
    argv = [*machine.enter, "podman", "run", "--rm", IMAGE, "sh", "-c", download]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(10)]
    assert [process.communicate(timeout=60)[0] for process in running] == ["OK\n"] * 10


def test_exec_into_a_running_container(machine: Machine, download: str) -> None:
    machine.start_web()
    assert machine.podman("exec", "web", "sh", "-c", download) == "OK\n"


def test_program_of_another_user_in_the_container(machine: Machine, download: str) -> None:
    assert machine.container("--user=www", "--cap-drop=all", command=download) == "OK\n"


def test_ids_mapped_once_more(machine: Machine, download: str) -> None:
    """The network is made after the container then, and given by process number."""
    mapped = "--uidmap=0:1:5000"
    assert machine.container(mapped, "--gidmap=0:1:5000", command=download) == "OK\n"


# Options


@pytest.mark.parametrize("allowed", [True, False])
def test_allow_host_loopback(machine: Machine, allowed: bool) -> None:
    network = f"--network=slirp4netns:allow_host_loopback={str(allowed).lower()}"
    with serve_http(machine.listen("127.0.0.1"), 100) as port:
        asked = f"timeout 3 wget -q -O- http://10.0.2.2:{port}/ | wc -c"
        assert machine.container(network, command=asked) == ("100\n" if allowed else "0\n")


def test_cidr_and_mtu(machine: Machine, download: str) -> None:
    network = "--network=slirp4netns:cidr=10.66.0.0/16,mtu=1500"
    shown = machine.container(network, command=f"ip addr show tap0; ip route; {download}")
    assert "mtu 1500" in shown
    assert "inet 10.66.0.100/16" in shown
    assert "default via 10.66.0.2" in shown
    assert shown.endswith("OK\n")


@pytest.mark.beyond
def test_podman_shows_what_is_wrong(machine: Machine) -> None:
    with pytest.raises(CommandError, match="prefix length needs to be 1-25"):
        machine.container("--network=slirp4netns:cidr=10.66.0.0/30", command="true")


# Published ports


@BOTH_PORT_HANDLERS
def test_published_port(bed: Topology, machine: Machine, handler: str) -> None:
    """From the host, from another address, from a second container by the host's address."""
    machine.start_web(f"--network=slirp4netns:port_handler={handler}", "-p", f"{PORT}:80")
    assert fetch(machine, "127.0.0.1") == PAGE
    assert fetch(machine, HOST) == PAGE
    assert fetch(bed.remote, HOST) == PAGE
    asked = f"timeout 5 wget -q -O- http://{HOST}:{PORT}/"
    assert machine.container("--network=slirp4netns", command=asked) == PAGE


@pytest.mark.parametrize(
    ("handler", "seen"),
    [("slirp4netns", {REMOTE, "10.0.2.2"}), ("rootlesskit", {"10.0.2.100"})],
)
def test_clients_address_that_the_server_sees(
    bed: Topology, machine: Machine, handler: str, seen: set[str]
) -> None:
    machine.start_web(f"--network=slirp4netns:port_handler={handler}", "-p", f"{PORT}:80")
    fetch(bed.remote, HOST)
    fetch(machine, "127.0.0.1")
    done = machine.run("podman", "logs", "web")
    logged = done.stdout + done.stderr
    assert set(re.findall(r"\[::ffff:([0-9.]+)\]\S* response:200", logged)) == seen


@BOTH_PORT_HANDLERS
def test_port_published_on_one_address(bed: Topology, machine: Machine, handler: str) -> None:
    published = f"127.0.0.1:{PORT}:80"
    machine.start_web(f"--network=slirp4netns:port_handler={handler}", "-p", published)
    assert fetch(machine, "127.0.0.1") == PAGE
    with pytest.raises(ConnectionRefusedError):
        bed.remote.connect(HOST, PORT)


def test_many_published_ports(bed: Topology, machine: Machine) -> None:
    """One request to the API for each."""
    ports = ("-p", f"{PORT}-{PORT + 49}:80-129", "-p", "5353:53/udp")
    machine.start_web("--network=slirp4netns:port_handler=slirp4netns", *ports)
    assert fetch(bed.remote, HOST) == PAGE
    listening = machine.run("ss", "-Hltn").stdout
    assert all(f"0.0.0.0:{port} " in listening for port in range(PORT, PORT + 50))


def test_published_datagrams(bed: Topology, machine: Machine) -> None:
    network = "--network=slirp4netns:port_handler=slirp4netns"
    server = ("sh", "-c", "echo answer | nc.openbsd -v -u -l 53")
    options = ("-d", "--name=udp", network, "-p", "5353:53/udp")
    machine.podman("run", *options, IMAGE, *server)
    deadline = time.monotonic() + PATIENCE_SECONDS
    with bed.remote.bind_udp() as client:
        client.settimeout(0.5)
        answer = b""
        while not answer:
            assert time.monotonic() < deadline
            client.sendto(b"question\n", (HOST, 5353))
            with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                answer = client.recv(1000)
    assert answer == b"answer\n"
    done = machine.run("podman", "logs", "udp")
    assert f"received on {REMOTE}" in done.stderr + done.stdout


@pytest.mark.parametrize("publish", ["[::1]:8080:80", "8080:80/sctp"])
def test_port_that_cannot_be_published_is_an_error(machine: Machine, publish: str) -> None:
    network = "--network=slirp4netns:port_handler=slirp4netns"
    with pytest.raises(CommandError, match="bad request: add_hostfwd"):
        machine.container(network, "-p", publish, command="true")


@BOTH_PORT_HANDLERS
def test_busy_port_is_an_error(machine: Machine, handler: str) -> None:
    network = f"--network=slirp4netns:port_handler={handler}"
    with machine.listen("0.0.0.0", PORT), pytest.raises(CommandError, match=str(PORT)):
        machine.container(network, "-p", f"{PORT}:80", command="true")
    assert machine.container(network, "-p", f"{PORT}:80", command="echo OK") == "OK\n"


# Pods


def test_pod_whose_containers_talk_over_localhost(bed: Topology, machine: Machine) -> None:
    machine.podman("pod", "create", "--name=pod", "-p", f"{PORT}:80")
    machine.start_web("--pod=pod")
    assert fetch(bed.remote, HOST) == PAGE
    assert machine.container("--pod=pod", command="wget -q -O- http://localhost/") == PAGE
    assert len(machine.daemons()) == 1


def test_container_that_joins_anothers_network(machine: Machine, download: str) -> None:
    machine.start_web()
    joined = "--network=container:web"
    assert machine.container(joined, command="wget -q -O- http://localhost/") == PAGE
    assert machine.container(joined, command=download) == "OK\n"


# Ends


@BOTH_PORT_HANDLERS
def test_twenty_restarts_with_the_same_port(bed: Topology, machine: Machine, handler: str) -> None:
    machine.start_web(f"--network=slirp4netns:port_handler={handler}", "-p", f"{PORT}:80")
    for count in range(20):
        assert fetch(bed.remote, HOST) == PAGE
        if count % 2:
            machine.podman("restart", "--time=0", "web")
        else:
            machine.podman("stop", "--time=0", "web")
            machine.podman("start", "web")
        machine.await_daemons(1)
    assert fetch(bed.remote, HOST) == PAGE


@pytest.mark.parametrize("victim", ["container", "conmon"])
def test_killed_container(bed: Topology, machine: Machine, victim: str) -> None:
    network = "--network=slirp4netns:port_handler=slirp4netns"
    machine.start_web(network, "-p", f"{PORT}:80")
    assert fetch(bed.remote, HOST) == PAGE
    path = ".State.Pid" if victim == "container" else ".State.ConmonPid"
    machine.run("kill", "-KILL", machine.inspect("web", path))
    machine.await_daemons(0)
    with pytest.raises(ConnectionRefusedError):
        bed.remote.connect(HOST, PORT)
    machine.clean()
    machine.start_web(network, "-p", f"{PORT}:80")
    assert fetch(bed.remote, HOST) == PAGE


def test_killed_daemon(bed: Topology, machine: Machine) -> None:
    """The container lives on without a network, and has one again after a restart."""
    network = "--network=slirp4netns:port_handler=slirp4netns"
    machine.start_web(network, "-p", f"{PORT}:80")
    assert fetch(bed.remote, HOST) == PAGE
    (daemon,) = machine.daemons()
    os.kill(daemon, signal.SIGKILL)
    machine.await_daemons(0)
    assert machine.podman("exec", "web", "wget", "-q", "-O-", "http://127.0.0.1/") == PAGE
    machine.podman("restart", "--time=0", "web")
    assert fetch(bed.remote, HOST) == PAGE


def test_container_whose_starter_has_gone(bed: Topology, machine: Machine, download: str) -> None:
    """Podman is killed with its terminal; conmon, the container and the daemon live on."""
    argv = ["podman", "run", "--name=web", "-p", f"{PORT}:80", IMAGE, *WEB_SERVER]
    starter = machine.popen(*argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        assert fetch(bed.remote, HOST) == PAGE
    finally:
        starter.kill()
        starter.wait()
    assert machine.podman("exec", "web", "sh", "-c", download) == "OK\n"
    addresses = machine.podman("exec", "web", "ip", "-4", "addr")
    assert "10.0.2.100/24" in addresses


def test_addresses_stay_after_a_restart(machine: Machine) -> None:
    machine.start_web()
    machine.podman("restart", "--time=0", "web")
    shown = machine.podman("exec", "web", "ip", "-4", "addr")
    assert shown.count("inet 10.0.2.100/24") == 1
