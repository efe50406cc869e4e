"""Port forwards: whom they serve, and which address the container sees.

slirp4netns answers list_hostfwd without the wrapper that it documents; `entries` reads both.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lab.daemons import ApiError, Slirp
from lab.namespaces import Namespace
from lab.servers import echo, receive_exactly, serve
from lab.topology import HOST, REMOTE, Topology, gateway_of

GATEWAY = gateway_of("10.0.2.0/24")
HOST_PORT = 18_080


def entries(net: Slirp) -> list[dict[str, Any]]:
    """What list_hostfwd lists."""
    reply = net.request("list_hostfwd")
    listed = reply["return"]["entries"] if "return" in reply else reply["entries"]
    return list(listed)


# TCP


@pytest.fixture
def guest_listener(net: Slirp) -> Iterator[socket.socket]:
    """A listener on port 80 of the guest."""
    with net.guest.listen(port=80) as listener:
        yield listener


def peer_seen(listener: socket.socket, client_space: Namespace, address: str, port: int) -> Any:
    """Connect, exchange a little; the client's own name and the peer that the guest saw."""
    with client_space.connect(address, port, timeout=5) as client:
        server, peer = listener.accept()
        with server:
            client.sendall(b"ping")
            assert receive_exactly(server, 4) == b"ping"
            server.sendall(b"pong")
            assert receive_exactly(client, 4) == b"pong"
        return client.getsockname(), peer


def test_tcp_forward_shows_the_clients_address(
    bed: Topology, net: Slirp, guest_listener: socket.socket
) -> None:
    net.forward("tcp", HOST_PORT, 80)
    client, seen = peer_seen(guest_listener, bed.remote, HOST, HOST_PORT)
    assert seen == client


def test_tcp_forward_shows_the_gateway_for_the_hosts_loopback(
    bed: Topology, net: Slirp, guest_listener: socket.socket
) -> None:
    net.forward("tcp", HOST_PORT, 80)
    _, seen = peer_seen(guest_listener, bed.host, "127.0.0.1", HOST_PORT)
    assert seen[0] == GATEWAY


def test_tcp_forward_on_one_address_only(
    bed: Topology, net: Slirp, guest_listener: socket.socket
) -> None:
    net.forward("tcp", HOST_PORT, 80, host_addr="127.0.0.1")
    peer_seen(guest_listener, bed.host, "127.0.0.1", HOST_PORT)
    with pytest.raises(ConnectionRefusedError):
        bed.remote.connect(HOST, HOST_PORT)


def test_tcp_forward_to_a_named_guest_address(
    bed: Topology, net: Slirp, guest_listener: socket.socket
) -> None:
    net.guest.run("ip", "addr", "add", "10.0.2.77/24", "dev", "tap0")
    net.forward("tcp", HOST_PORT, 80, guest_addr="10.0.2.77")
    with bed.remote.connect(HOST, HOST_PORT):
        server, _ = guest_listener.accept()
        with server:
            assert server.getsockname() == ("10.0.2.77", 80)


def test_two_forwards_to_one_guest_port(
    bed: Topology, net: Slirp, guest_listener: socket.socket
) -> None:
    net.forward("tcp", HOST_PORT, 80)
    net.forward("tcp", HOST_PORT + 1, 80)
    peer_seen(guest_listener, bed.remote, HOST, HOST_PORT)
    peer_seen(guest_listener, bed.remote, HOST, HOST_PORT + 1)


def test_forward_to_a_closed_guest_port_ends_the_connection(bed: Topology, net: Slirp) -> None:
    net.forward("tcp", HOST_PORT, 81)
    try:
        with bed.remote.connect(HOST, HOST_PORT, timeout=3) as client:
            assert client.recv(1) == b""
    except ConnectionError:
        pass


def test_removed_forward_refuses_but_keeps_connections(
    bed: Topology, net: Slirp, guest_listener: socket.socket
) -> None:
    forward = net.forward("tcp", HOST_PORT, 80)
    with bed.remote.connect(HOST, HOST_PORT) as client:
        server, _ = guest_listener.accept()
        with server:
            assert net.request("remove_hostfwd", id=forward) == {"return": {}}
            with pytest.raises(ConnectionRefusedError):
                bed.remote.connect(HOST, HOST_PORT)
            client.sendall(b"still here")
            assert receive_exactly(server, 10) == b"still here"
    assert entries(net) == []


def test_port_is_free_again_after_removal(
    bed: Topology, net: Slirp, guest_listener: socket.socket
) -> None:
    for _ in range(3):
        forward = net.forward("tcp", HOST_PORT, 80)
        peer_seen(guest_listener, bed.remote, HOST, HOST_PORT)
        net.request("remove_hostfwd", id=forward)


def test_many_clients_of_one_forward(bed: Topology, net: Slirp) -> None:
    net.forward("tcp", HOST_PORT, 80)
    with serve(net.guest.listen(port=80), echo):
        clients = [bed.remote.connect(HOST, HOST_PORT) for _ in range(100)]
        for number, client in enumerate(clients):
            client.sendall(f"client {number:4}".encode())
        for number, client in enumerate(clients):
            assert receive_exactly(client, 11) == f"client {number:4}".encode()
            client.close()


# UDP


def test_udp_forward_shows_the_clients_address(bed: Topology, net: Slirp) -> None:
    net.forward("udp", HOST_PORT, 53)
    with (
        net.guest.bind_udp(port=53) as server,
        bed.remote.bind_udp(REMOTE) as first,
        bed.remote.bind_udp(REMOTE) as second,
    ):
        for client in (first, second, first):
            client.sendto(b"question", (HOST, HOST_PORT))
            seen, source = server.recvfrom(100)
            assert seen == b"question"
            assert source == client.getsockname()
            server.sendto(b"answer", source)
            assert client.recvfrom(100) == (b"answer", (HOST, HOST_PORT))


def test_udp_forward_shows_the_gateway_for_the_hosts_loopback(bed: Topology, net: Slirp) -> None:
    net.forward("udp", HOST_PORT, 53)
    with net.guest.bind_udp(port=53) as server, bed.host.bind_udp("127.0.0.1") as client:
        client.sendto(b"question", ("127.0.0.1", HOST_PORT))
        seen, source = server.recvfrom(100)
        assert (seen, source[0]) == (b"question", GATEWAY)
        server.sendto(b"answer", source)
        assert client.recvfrom(100) == (b"answer", ("127.0.0.1", HOST_PORT))


def test_udp_forward_ends_when_removed(bed: Topology, net: Slirp) -> None:
    forward = net.forward("udp", HOST_PORT, 53)
    net.request("remove_hostfwd", id=forward)
    with bed.remote.bind_udp(REMOTE) as client:
        client.settimeout(2)
        client.connect((HOST, HOST_PORT))
        client.send(b"question")
        with pytest.raises(ConnectionRefusedError):
            client.recv(100)


def test_tcp_and_udp_forwards_share_a_port_number(
    bed: Topology, net: Slirp, guest_listener: socket.socket
) -> None:
    net.forward("tcp", HOST_PORT, 80)
    net.forward("udp", HOST_PORT, 80)
    peer_seen(guest_listener, bed.remote, HOST, HOST_PORT)
    with net.guest.bind_udp(port=80) as server, bed.remote.bind_udp(REMOTE) as client:
        client.sendto(b"question", (HOST, HOST_PORT))
        assert server.recv(100) == b"question"


# The list


def test_list_shows_every_forward_as_it_was_asked_for(net: Slirp) -> None:
    first = net.forward("tcp", HOST_PORT, 80, host_addr="127.0.0.1", guest_addr="10.0.2.50")
    second = net.forward("udp", HOST_PORT, 53)
    listed = sorted(entries(net), key=lambda entry: entry["id"])
    assert first != second
    assert listed == [
        {
            **{"id": first, "proto": "tcp", "host_addr": "127.0.0.1", "host_port": HOST_PORT},
            **{"guest_addr": "10.0.2.50", "guest_port": 80},
        },
        {
            **{"id": second, "proto": "udp", "host_addr": "0.0.0.0", "host_port": HOST_PORT},
            **{"guest_addr": "10.0.2.100", "guest_port": 53},
        },
    ]


def test_busy_host_port_is_an_error_and_nothing_is_listed(bed: Topology, net: Slirp) -> None:
    with bed.host.listen(port=HOST_PORT), pytest.raises(ApiError):
        net.forward("tcp", HOST_PORT, 80)
    assert entries(net) == []
    net.forward("tcp", HOST_PORT, 80)
    with pytest.raises(ApiError):
        net.forward("tcp", HOST_PORT, 81)
    assert len(entries(net)) == 1


def test_privileged_port_is_an_error_for_an_ordinary_user(net: Slirp) -> None:
    with pytest.raises(ApiError):
        net.forward("tcp", 80, 80)


def test_hundreds_of_forwards_in_a_row(bed: Topology, net: Slirp) -> None:
    started = time.monotonic()
    ids = [net.forward("tcp", 20_000 + number, 80) for number in range(300)]
    assert len(set(ids)) == 300
    assert time.monotonic() - started < 10
    with serve(net.guest.listen(port=80), echo), bed.remote.connect(HOST, 20_299) as client:
        client.sendall(b"last")
        assert receive_exactly(client, 4) == b"last"
    for number in ids:
        net.request("remove_hostfwd", id=number)
    with pytest.raises(ConnectionRefusedError):
        bed.remote.connect(HOST, 20_000)
