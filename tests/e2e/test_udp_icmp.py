"""Datagrams and echo requests: sizes, boundaries, sources and errors."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from lab.daemons import Slirp
from lab.topology import (
    HOST,
    REMOTE,
    REMOTE_SECOND,
    UNREACHABLE_AT_HOST,
    Topology,
    gateway_of,
)

GATEWAY = gateway_of("10.0.2.0/24")
Attach = Callable[..., Slirp]


def exchange(guest: socket.socket, server: socket.socket, payload: bytes) -> tuple[str, int]:
    """One datagram there and back; the source the server saw."""
    port = server.getsockname()[1]
    guest.sendto(payload, (REMOTE, port))
    seen, source = server.recvfrom(65536)
    assert seen == payload
    server.sendto(payload[::-1], source)
    answer, answerer = guest.recvfrom(65536)
    assert answer == payload[::-1]
    assert answerer == (REMOTE, port)
    return str(source[0]), int(source[1])


@pytest.mark.parametrize("size", [0, 1, 512, 1472])
def test_datagram_there_and_back(bed: Topology, net: Slirp, size: int) -> None:
    with bed.remote.bind_udp(REMOTE) as server, net.guest.bind_udp() as guest:
        assert exchange(guest, server, b"z" * size)[0] == HOST


@pytest.mark.parametrize("size", [1473, 9000, 65000])
def test_large_datagram_at_a_large_mtu(bed: Topology, attach: Attach, size: int) -> None:
    net = attach("--mtu=65520")
    with bed.remote.bind_udp(REMOTE) as server, net.guest.bind_udp() as guest:
        exchange(guest, server, b"z" * size)


@pytest.mark.parametrize("mtu", ["1500", "65520"])
def test_nc_sends_60000_bytes_there_and_back(bed: Topology, attach: Attach, mtu: str) -> None:
    """nc makes datagrams of 16 KiB of them; a datagram of 60,000 bytes goes whole beside it."""
    net = attach(f"--mtu={mtu}")
    text = "".join(f"{number:06}" for number in range(10_000))
    with bed.remote.bind_udp(REMOTE) as server, net.guest.bind_udp() as guest:
        exchange(guest, server, text.encode())

        def answer() -> None:
            left = len(text)
            while left:
                piece, client = server.recvfrom(65536)
                server.sendto(piece, client)
                left -= len(piece)

        echoing = threading.Thread(target=answer)
        echoing.start()
        port = str(server.getsockname()[1])
        done = net.guest.run("nc", "-u", "-w1", REMOTE, port, input=text)
        echoing.join()
    assert done.stdout == text


def test_a_socket_keeps_its_source_for_all_destinations(bed: Topology, net: Slirp) -> None:
    with (
        bed.remote.bind_udp(REMOTE) as first,
        bed.remote.bind_udp(REMOTE) as second,
        net.guest.bind_udp() as guest,
        net.guest.bind_udp() as other,
    ):
        source = exchange(guest, first, b"one")
        assert exchange(guest, second, b"two") == source
        assert exchange(other, first, b"three") != source
        assert exchange(guest, first, b"four") == source


def test_answer_from_another_address_names_it(bed: Topology, net: Slirp) -> None:
    with (
        bed.remote.bind_udp(REMOTE) as server,
        bed.remote.bind_udp(REMOTE_SECOND) as second,
        net.guest.bind_udp() as guest,
    ):
        source = exchange(guest, server, b"who")
        second.sendto(b"me", source)
        assert guest.recvfrom(100) == (b"me", second.getsockname())


def test_a_burst_arrives_in_order(bed: Topology, net: Slirp) -> None:
    payloads = [f"datagram {number}".encode() for number in range(100)]
    with bed.remote.bind_udp(REMOTE) as server, net.guest.bind_udp() as guest:
        exchange(guest, server, b"the neighbour is known after this")
        for payload in payloads:
            guest.sendto(payload, (REMOTE, server.getsockname()[1]))
        assert [server.recv(100) for _ in payloads] == payloads


def test_closed_udp_port_is_reported_to_a_connected_socket(bed: Topology, net: Slirp) -> None:
    with bed.remote.bind_udp(REMOTE) as unused:
        closed = unused.getsockname()[1]
    with net.guest.bind_udp() as guest:
        guest.settimeout(2)
        guest.connect((REMOTE, closed))
        guest.send(b"anyone?")
        with pytest.raises(ConnectionRefusedError):
            guest.recv(100)


def test_host_loopback_is_the_gateway(bed: Topology, net: Slirp) -> None:
    with bed.host.bind_udp("127.0.0.1") as server, net.guest.bind_udp() as guest:
        port = server.getsockname()[1]
        guest.sendto(b"hello", (GATEWAY, port))
        seen, source = server.recvfrom(100)
        assert seen == b"hello"
        server.sendto(b"welcome", source)
        assert guest.recvfrom(100) == (b"welcome", (GATEWAY, port))


# Echo requests


def ping(net: Slirp, address: str, *options: str) -> str:
    """ping's report; it must have been answered."""
    return net.guest.run("ping", "-c", "2", "-i", "0.2", "-W", "2", *options, address).stdout


@pytest.mark.parametrize("address", [GATEWAY, REMOTE])
@pytest.mark.parametrize("size", [0, 56, 1472, 1473, 65507])
def test_ping(net: Slirp, address: str, size: int) -> None:
    assert " 0% packet loss" in ping(net, address, "-s", str(size))


def test_large_ping_at_a_large_mtu(attach: Attach) -> None:
    assert " 0% packet loss" in ping(attach("--mtu=65520"), REMOTE, "-s", "8000")


def test_two_pings_at_once_each_get_their_own_answers(net: Slirp) -> None:
    reports: list[str] = []
    threads = [
        threading.Thread(target=lambda: reports.append(ping(net, REMOTE, "-c", "5")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == 4
    assert all("5 received" in report and "DUP" not in report for report in reports)


def test_ping_to_an_unreachable_host_says_so(net: Slirp) -> None:
    done = net.guest.run("ping", "-c", "1", "-W", "2", UNREACHABLE_AT_HOST, check=False)
    assert done.returncode == 1
    assert "Unreachable" in done.stdout


@pytest.mark.beyond
def test_without_ping_sockets_only_the_gateway_answers(bed: Topology, net: Slirp) -> None:
    if bed.ping_groups == "0 0":
        pytest.skip("the only group that is mapped here may always use ping sockets")
    bed.host.sysctl(ipv4__ping_group_range="1 0")
    try:
        done = net.guest.run("ping", "-c", "1", "-W", "1", REMOTE, check=False)
        assert done.returncode == 1
        assert " 0% packet loss" in ping(net, GATEWAY, "-i", "1.1")
        assert net.output.count("net.ipv4.ping_group_range") == 1
    finally:
        bed.host.sysctl(ipv4__ping_group_range=bed.ping_groups)
