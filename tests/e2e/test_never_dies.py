"""What a guest, a host or a clumsy hand may do to the daemon: it goes on, and nothing that was
acknowledged is lost.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable

import pytest

from lab import storm
from lab.daemons import Slirp, default_command, usage
from lab.servers import (
    DnsServer,
    digest_of,
    echo,
    receive_digest,
    receive_exactly,
    send_content,
    serve,
)
from lab.topology import HOST, REMOTE, Topology

Attach = Callable[..., Slirp]
STORM_FRAMES = int(os.environ.get("PYSLIRP_STORM_FRAMES", "200000"))
STORM_SEED = int(os.environ.get("PYSLIRP_STORM_SEED", "1"))
STORM_PARTS = max(1, STORM_FRAMES // 1_000_000)
MAX_GROWTH_BYTES = 64 << 20  # the table of 32,768 flows at its fullest, and what hangs on them
SHIM = pathlib.Path(__file__).parents[1] / "lab" / "failing.c"


def stats(net: Slirp) -> dict[str, int]:
    """The daemon's counters, by SIGUSR1."""
    before = net.output.count('{"stats"')
    net.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        reports = re.findall(r'^\{"stats": (\{.*?\})\}$', net.output, re.M)
        if len(reports) > before:
            return dict(json.loads(reports[-1]))
        time.sleep(0.05)
    raise AssertionError("no report")


def exchange(bed: Topology, net: Slirp, port: int, size: int = 5) -> None:
    """Something there and back over a connection of its own."""
    with net.guest.connect(REMOTE, port, timeout=30) as client:
        client.sendall(b"x" * size)
        assert receive_exactly(client, size) == b"x" * size


def serves(bed: Topology, net: Slirp) -> None:
    """TCP, UDP and DNS work."""
    with serve(bed.remote.listen(), echo) as port:
        exchange(bed, net, port)
    with bed.remote.bind_udp(REMOTE) as server, net.guest.bind_udp() as client:
        client.sendto(b"there", (REMOTE, server.getsockname()[1]))
        text, source = server.recvfrom(100)
        server.sendto(text, source)
        assert client.recvfrom(100)[0] == b"there"
    asked = net.guest.run("dig", "@10.0.2.3", "+short", "+tries=3", "+time=2", "example.test")
    assert asked.stdout.strip() == "192.0.2.80"


def digest_through(net: Slirp, port: int, size: int, seed: int) -> str:
    """Send content and read it back; the digest of what came."""
    with net.guest.connect(REMOTE, port, timeout=60) as client:
        with concurrent.futures.ThreadPoolExecutor(1) as sender:
            sending = sender.submit(send_content, client, size, seed)
            received, digest = receive_digest(client)
            sending.result()
        assert received == size
        return digest


# A hostile guest


@pytest.mark.timeout(3600 if STORM_FRAMES > 1_000_000 else 300)
def test_a_storm_of_frames(bed: Topology, dns: DnsServer, attach: Attach) -> None:
    """Valid, damaged and random frames of every protocol, as fast as they go."""
    net = attach("--enable-ipv6", api=True)
    serves(bed, net)
    before = usage(net.pid).pss_bytes
    with serve(bed.remote.listen(), echo) as port, net.guest.connect(REMOTE, port) as kept:
        kept.settimeout(30)
        kept.sendall(b"before")
        assert receive_exactly(kept, 6) == b"before"
        taken = 0
        for part in range(STORM_PARTS):
            taken += storm.storm(net.guest, STORM_FRAMES // STORM_PARTS, STORM_SEED + part)
            kept.sendall(b"behind")
            assert receive_exactly(kept, 6) == b"behind"
    net.request("list_hostfwd")
    counters = stats(net)
    print(f"storm: {taken} of {STORM_FRAMES} frames sent, {counters['frames_from_guest']} read")
    assert counters["frames_from_guest"] > STORM_FRAMES // 10
    assert counters["frames_to_guest"] > STORM_FRAMES // 1000  # it had to do with them
    assert counters["frags_reassembled"] > STORM_FRAMES // 1000
    serves(bed, net)
    grown = usage(net.pid).pss_bytes - before
    print(f"storm: {before >> 20} MB before, {grown >> 20} MB more after")
    assert grown < MAX_GROWTH_BYTES


# Nothing left to give


SERVED = 32  # connections before the rush


@pytest.mark.parametrize("files", [96, 300])
def test_more_connections_than_descriptors(
    bed: Topology, dns: DnsServer, attach: Attach, files: int
) -> None:
    """Who is connected stays so, others are refused, the API answers, and all is well when they are
    gone.
    """
    command = ["prlimit", f"--nofile={files}:{files}", *default_command()]
    net = attach(api=True, command=command)
    with serve(bed.remote.listen(), echo) as port, contextlib.ExitStack() as open_clients:
        clients = [open_clients.enter_context(net.guest.new_socket()) for _ in range(files + 100)]
        for client in clients[:SERVED]:
            client.settimeout(10)
            client.connect((REMOTE, port))
        for client in clients[SERVED:]:
            client.setblocking(False)
            client.connect_ex((REMOTE, port))
        time.sleep(1)
        net.request("list_hostfwd")
        assert all(answers(client) for client in clients[:SERVED])
    serves(bed, net)
    net.request("list_hostfwd")


def test_forward_without_descriptors_waits_at_rest(bed: Topology, attach: Attach) -> None:
    """No descriptor is left, and no connection that could give way: a forward's client waits in the
    listener's queue, the CPU is at rest, and the client is served when there is one again.
    """
    net = attach(api=True)
    listener = net.guest.listen()
    net.forward("tcp", 8080, listener.getsockname()[1])
    stats(net)
    held = {int(name) for name in os.listdir(f"/proc/{net.pid}/fd")}
    limit = [*bed.host_command(), "prlimit", f"--pid={net.pid}"]  # only the same user may
    was, lowest_free = 1024, min(set(range(len(held) + 1)) - held)
    subprocess.run([*limit, f"--nofile={lowest_free}:"], check=True)
    with serve(listener, echo), bed.remote.connect(HOST, 8080) as waiting:  # by the kernel's queue
        before = usage(net.pid).cpu_seconds
        time.sleep(2)
        assert usage(net.pid).cpu_seconds - before < 0.2
        counters = stats(net)
        assert counters["forwards_accepted"] == 0
        assert counters["forwards_deferred"] >= 10
        subprocess.run([*limit, f"--nofile={was}:"], check=True)
        assert answers(waiting)


def answers(client: socket.socket) -> bool:
    """Whether there is an echo server at the other end."""
    client.settimeout(5)
    try:
        client.sendall(b"x")
        return client.recv(1) == b"x"
    except OSError:
        return False


@pytest.fixture(scope="module")
def failing(bed: Topology) -> str:
    """The library under which allocations of the data plane fail."""
    library = bed.workdir / "failing.so"
    compiled = ["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", str(library), str(SHIM), "-ldl"]
    subprocess.run(compiled, check=True)
    library.chmod(0o755)
    return str(library)


def test_one_allocation_in_three_fails(
    bed: Topology, dns: DnsServer, attach: Attach, failing: str
) -> None:
    """Connections wait, or are refused; those that were served got every byte."""
    preload = ["env", f"LD_PRELOAD={failing}", "FAIL_EVERY=3", *default_command()]
    net = attach(api=True, command=preload)
    size = 1 << 20
    with serve(bed.remote.listen(), echo) as port:
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            futures = [clients.submit(digest_through, net, port, size, seed) for seed in range(16)]
        ended = [future.exception() for future in futures]
        whole = [future.result() for future in futures if not future.exception()]
    assert len(whole) >= 12, ended
    assert set(whole) <= {digest_of(size, seed) for seed in range(16)}
    serves(bed, net)


def test_every_allocation_fails(bed: Topology, attach: Attach, failing: str) -> None:
    """Nothing can be carried; the API and the counters tell."""
    preload = ["env", f"LD_PRELOAD={failing}", "FAIL_EVERY=1", *default_command()]
    net = attach(api=True, command=preload)
    with bed.remote.listen() as listener, pytest.raises(OSError, match="timed out"):
        net.guest.connect(REMOTE, listener.getsockname()[1], timeout=2)
    net.request("list_hostfwd")
    assert stats(net)["drop_flows_full"] > 0


# Time


def test_a_process_that_was_stopped(bed: Topology, dns: DnsServer, attach: Attach) -> None:
    """Its clock leaps by seconds in the middle of transfers: not a byte is missing."""
    net = attach(api=True)
    size = 64 << 20
    with serve(bed.remote.listen(), echo) as port, concurrent.futures.ThreadPoolExecutor(1) as one:
        transfer = one.submit(digest_through, net, port, size, 7)
        for _ in range(3):
            time.sleep(0.1)
            net.process.send_signal(signal.SIGSTOP)
            time.sleep(1.5)
            net.process.send_signal(signal.SIGCONT)
        assert transfer.result() == digest_of(size, 7)
    serves(bed, net)


# A clumsy hand


def test_the_api_sockets_file_is_deleted(bed: Topology, dns: DnsServer, attach: Attach) -> None:
    """Traffic and forwards go on, and the end is in order."""
    net = attach(api=True)
    assert net.api_path is not None
    net.api_path.unlink()
    serves(bed, net)
    net.send_signal(signal.SIGTERM)
    assert net.wait() in (0, -signal.SIGTERM)


def test_the_tap_goes_down_and_up(bed: Topology, dns: DnsServer, attach: Attach) -> None:
    """What the daemon writes meanwhile is refused with EIO; the guest has it afterwards."""
    net = attach(api=True)
    with serve(bed.remote.listen(), echo) as port, net.guest.connect(REMOTE, port) as client:
        client.settimeout(30)
        net.guest.run("ip", "link", "set", "tap0", "down")
        time.sleep(0.3)
        net.guest.run("ip", "link", "set", "tap0", "up")
        net.guest.run("ip", "route", "replace", "default", "via", "10.0.2.2")
        client.sendall(b"again")
        assert receive_exactly(client, 5) == b"again"
    serves(bed, net)


def test_the_tap_is_taken_away(attach: Attach) -> None:
    """There is nothing left to do: it ends by itself, and says so by its status alone."""
    net = attach(api=True)
    net.guest.run("ip", "link", "delete", "tap0")
    assert net.wait(5) in (0, 1)
