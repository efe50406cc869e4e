"""TCP as a program in the container sees it: errors, half close, resets, ports, backpressure."""

from __future__ import annotations

import concurrent.futures
import errno
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest

from lab import probe
from lab.daemons import Slirp
from lab.namespaces import Namespace
from lab.servers import digest_of, echo, receive_digest, receive_exactly, send_content, serve
from lab.topology import (
    REMOTE,
    SILENT,
    UNREACHABLE_AT_HOST,
    UNREACHABLE_AT_REMOTE,
    Topology,
    gateway_of,
)

GATEWAY = gateway_of("10.0.2.0/24")
CLOSED_PORT = 9
AT_ONCE_SECONDS = 0.3
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, 0 seconds


def refusal(space: Namespace, address: str, port: int = CLOSED_PORT) -> tuple[int, float]:
    """The errno of a connect() that must fail, and the seconds it took."""
    started = time.monotonic()
    try:
        space.connect(address, port).close()
    except OSError as refused:
        return refused.errno or 0, time.monotonic() - started
    pytest.fail(f"{address} port {port} is open")


# Opening


def test_closed_port_is_refused_as_fast_as_without_us(bed: Topology, net: Slirp) -> None:
    control, control_seconds = refusal(bed.host, REMOTE)
    seen, seconds = refusal(net.guest, REMOTE)
    assert seen == control == errno.ECONNREFUSED
    assert seconds < control_seconds + AT_ONCE_SECONDS


def test_closed_port_of_the_host_is_refused_at_once(net: Slirp) -> None:
    seen, seconds = refusal(net.guest, GATEWAY)
    assert seen == errno.ECONNREFUSED
    assert seconds < AT_ONCE_SECONDS


def test_no_route_on_the_host_is_reported_as_to_a_host_program(bed: Topology, net: Slirp) -> None:
    control, _ = refusal(bed.host, UNREACHABLE_AT_HOST)
    seen, seconds = refusal(net.guest, UNREACHABLE_AT_HOST)
    assert seen == control == errno.EHOSTUNREACH
    assert seconds < AT_ONCE_SECONDS


@pytest.mark.beyond
def test_unreachable_behind_a_router_is_reported(bed: Topology, net: Slirp) -> None:
    control, _ = refusal(bed.host, UNREACHABLE_AT_REMOTE)
    seen, seconds = refusal(net.guest, UNREACHABLE_AT_REMOTE)
    assert seen == control == errno.EHOSTUNREACH
    assert seconds < 2


@pytest.mark.beyond
def test_absent_neighbour_is_reported_when_the_host_knows(bed: Topology, net: Slirp) -> None:
    control, control_seconds = refusal(bed.host, "198.51.100.77")
    seen, seconds = refusal(net.guest, "198.51.100.78")
    assert seen == control == errno.EHOSTUNREACH
    assert seconds < control_seconds + 1


def test_silence_stays_silence(net: Slirp) -> None:
    with pytest.raises(TimeoutError):
        net.guest.connect(SILENT, 80, timeout=1.5)


def test_host_loopback_is_the_gateway(bed: Topology, net: Slirp) -> None:
    with (
        serve(bed.host.listen("127.0.0.1"), echo) as port,
        net.guest.connect(GATEWAY, port) as client,
    ):
        client.sendall(b"hello")
        assert receive_exactly(client, 5) == b"hello"


def test_remote_sees_the_hosts_address(bed: Topology, net: Slirp) -> None:
    with bed.remote.listen() as listener, net.guest.connect(REMOTE, listener.getsockname()[1]):
        server, (address, _) = listener.accept()
        server.close()
    assert address == "198.51.100.1"


# Closing


def test_guest_half_closes_and_still_receives(bed: Topology, net: Slirp) -> None:
    def answer_after_the_end(client: socket.socket) -> None:
        size, digest = receive_digest(client)
        client.sendall(f"{size} {digest} ".encode())
        time.sleep(0.2)
        send_content(client, 100_000)

    with (
        serve(bed.remote.listen(), answer_after_the_end) as port,
        net.guest.connect(REMOTE, port) as client,
    ):
        send_content(client, 50_000)
        head = f"50000 {digest_of(50_000)} ".encode()
        assert receive_exactly(client, len(head)) == head
        assert receive_digest(client) == (100_000, digest_of(100_000))


def test_remote_half_closes_and_still_receives(bed: Topology, net: Slirp) -> None:
    with bed.remote.listen() as listener:
        client = net.guest.connect(REMOTE, listener.getsockname()[1])
        server, _ = listener.accept()
        with client, server:
            server.settimeout(10)
            server.sendall(b"first")
            server.shutdown(socket.SHUT_WR)
            assert receive_exactly(client, 5) == b"first"
            assert client.recv(1) == b""
            time.sleep(0.2)
            send_content(client, 100_000)
            assert receive_digest(server) == (100_000, digest_of(100_000))


def test_nc_sends_and_waits_for_the_answer(bed: Topology, net: Slirp) -> None:
    def count(client: socket.socket) -> None:
        size, _ = receive_digest(client)
        client.sendall(f"got {size}\n".encode())

    with serve(bed.remote.listen(), count) as port:
        done = net.guest.run("nc", "-N", REMOTE, str(port), input="x" * 5000)
    assert done.stdout == "got 5000\n"


@pytest.mark.beyond
def test_reset_by_the_guest_reaches_the_remote(bed: Topology, net: Slirp) -> None:
    with bed.remote.listen() as listener:
        client = net.guest.connect(REMOTE, listener.getsockname()[1])
        server, _ = listener.accept()
        with server:
            server.settimeout(5)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.close()
            with pytest.raises(ConnectionResetError):
                server.recv(1)


def test_reset_by_the_remote_reaches_the_guest(bed: Topology, net: Slirp) -> None:
    with bed.remote.listen() as listener:
        client = net.guest.connect(REMOTE, listener.getsockname()[1], timeout=5)
        server, _ = listener.accept()
    with client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        server.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_close_with_unread_data_resets_the_guest(bed: Topology, net: Slirp) -> None:
    with bed.remote.listen() as listener:
        client = net.guest.connect(REMOTE, listener.getsockname()[1], timeout=5)
        server, _ = listener.accept()
    with client:
        client.sendall(b"never read")
        assert server.recv(1, socket.MSG_PEEK) == b"n"
        server.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


# Many


def test_200_connections_at_once(bed: Topology, net: Slirp) -> None:
    def exchange(number: int, port: int) -> bool:
        message = f"connection {number} ".encode() * 1000
        with net.guest.connect(REMOTE, port) as client:
            barrier.wait(30)
            client.sendall(message)
            return receive_exactly(client, len(message)) == message

    barrier = threading.Barrier(200)
    with (
        serve(bed.remote.listen(), echo) as port,
        concurrent.futures.ThreadPoolExecutor(200) as pool,
    ):
        assert all(pool.map(exchange, range(200), [port] * 200))


@pytest.mark.beyond
def test_client_port_is_reused_at_once(bed: Topology, net: Slirp) -> None:
    def answer_and_close_first(client: socket.socket) -> None:
        client.sendall(client.recv(100))

    slowest = 0.0
    with serve(bed.remote.listen(), answer_and_close_first) as port:
        for _ in range(30):
            started = time.monotonic()
            client = net.guest.new_socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.settimeout(5)
            client.bind(("0.0.0.0", 45_678))
            client.connect((REMOTE, port))
            client.sendall(b"again")
            assert receive_exactly(client, 6) == b"again"
            client.close()
            time.sleep(0.02)  # the guest's own kernel must see the last ACK to free the port
            slowest = max(slowest, time.monotonic() - started)
    assert slowest < 0.5


def open_files(net: Slirp) -> int:
    """How many file descriptors the daemon holds."""
    return len(os.listdir(f"/proc/{net.pid}/fd"))


def await_open_files(net: Slirp, most: int, seconds: float) -> int:
    """Wait until at most `most` file descriptors are left; how many there are."""
    deadline = time.monotonic() + seconds
    while open_files(net) > most and time.monotonic() < deadline:
        time.sleep(0.05)
    return open_files(net)


def report(net: Slirp) -> dict[str, int]:
    """The counters that the daemon prints when it is asked to."""
    before = net.output.count('{"stats"')
    net.process.send_signal(signal.SIGUSR1)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        lines = [line for line in net.output.splitlines() if line.startswith('{"stats"')]
        if len(lines) > before and lines[-1].endswith("}}"):
            return dict(json.loads(lines[-1])["stats"])
        time.sleep(0.02)
    raise AssertionError("no report")


@pytest.mark.beyond
def test_ten_thousand_short_connections_leave_nothing(bed: Topology, net: Slirp) -> None:
    """No flow, no descriptor, no byte: once what the two kernels still say is said."""
    time.sleep(1)  # the daemon opens its event loop after it is ready
    before = open_files(net)
    cpus = os.sched_getaffinity(0)
    count = 0.0
    with probe.server(bed, bed.remote, 5300, cpus):
        argv = ("crr", REMOTE, "5300", "1", "32")
        while count < 10_000:
            with probe.client(bed, net.guest, *argv, seconds=1, cpus=cpus) as numbers:
                result = numbers()
            assert result["errors"] == 0
            assert result["count"] > 0
            count += result["count"]
    assert await_open_files(net, before, 20) <= before
    deadline = time.monotonic() + 20
    while (left := report(net))["flows"] and time.monotonic() < deadline:
        time.sleep(0.2)
    assert (left["flows"], left["buffer_blocks"]) == (0, 0)


# Backpressure


def fill(client: socket.socket) -> int:
    """Send until the other side's window and all buffers are full; how many octets that took."""
    client.settimeout(1.5)
    sent = 0
    try:
        while True:
            sent += client.send(bytes(1 << 16))
    except TimeoutError:
        return sent


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("mtu", [1500, 65520])
def test_reader_that_stops_stops_the_writer_and_loses_nothing(
    bed: Topology, attach: Callable[..., Slirp], mtu: int, direction: str
) -> None:
    net = attach(f"--mtu={mtu}")
    with bed.remote.listen() as listener:
        guest = net.guest.connect(REMOTE, listener.getsockname()[1])
        remote, _ = listener.accept()
    writer, reader = (guest, remote) if direction == "up" else (remote, guest)
    with writer, reader:
        sent = fill(writer)
        assert sent < 64 << 20
        time.sleep(1.0)
        counted: list[tuple[int, str]] = []
        reader.settimeout(10)
        drain = threading.Thread(target=lambda: counted.append(receive_digest(reader)))
        drain.start()
        writer.settimeout(10)
        writer.sendall(bytes(1 << 20))
        writer.shutdown(socket.SHUT_WR)
        drain.join()
    assert counted[0][0] == sent + (1 << 20)
