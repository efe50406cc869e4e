"""--outbound-addr: which address of the host the world sees."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

import pytest

from lab.daemons import Slirp
from lab.topology import HOST, PREFIX_LENGTH, REMOTE, Topology, gateway_of

Attach = Callable[..., Slirp]
HOST_SECOND = "198.51.100.11"
HOST_THIRD = "198.51.100.12"
GATEWAY = gateway_of("10.0.2.0/24")


@pytest.fixture
def second(bed: Topology) -> Iterator[str]:
    """Another address of the host."""
    bed.host.run("ip", "addr", "add", f"{HOST_SECOND}/{PREFIX_LENGTH}", "dev", "eth0")
    yield HOST_SECOND
    bed.host.run("ip", "addr", "del", f"{HOST_SECOND}/{PREFIX_LENGTH}", "dev", "eth0")


def seen_by_tcp(bed: Topology, net: Slirp, destination: str = REMOTE) -> str:
    """The address that a server sees."""
    server = bed.remote if destination == REMOTE else bed.host
    with server.listen() as listener:
        listener.settimeout(5)
        with net.guest.connect(destination, listener.getsockname()[1]):
            client, (address, _) = listener.accept()
            client.close()
    return str(address)


def seen_by_udp(bed: Topology, net: Slirp) -> str:
    with bed.remote.bind_udp(REMOTE) as server, net.guest.bind_udp() as guest:
        guest.sendto(b"who?", (REMOTE, server.getsockname()[1]))
        return str(server.recvfrom(10)[1][0])


def hears(server: socket.socket, net: Slirp, address: str) -> bool:
    """Whether a datagram from a new socket of the guest's arrives, and from that address."""
    with net.guest.bind_udp() as guest, contextlib.suppress(TimeoutError):
        guest.sendto(b"who?", (REMOTE, server.getsockname()[1]))
        return bool(server.recvfrom(10)[1][0] == address)
    return False


def test_every_protocol_speaks_from_it(bed: Topology, attach: Attach, second: str) -> None:
    net = attach(f"--outbound-addr={second}")
    assert seen_by_tcp(bed, net) == second
    assert seen_by_udp(bed, net) == second
    with bed.remote.call(
        socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP
    ) as raw:
        raw.settimeout(5)
        net.guest.run("ping", "-c1", "-W2", REMOTE)
        assert raw.recvfrom(100)[1][0] == second


def test_to_the_hosts_loopback_too(bed: Topology, attach: Attach, second: str) -> None:
    """As slirp4netns has it, and tests it."""
    net = attach(f"--outbound-addr={second}")
    assert seen_by_tcp(bed, net, GATEWAY) == second


def test_without_it_the_host_chooses(bed: Topology, net: Slirp, second: str) -> None:
    assert seen_by_tcp(bed, net) == seen_by_udp(bed, net) == HOST


@pytest.mark.beyond
def test_interface_whose_address_changes(bed: Topology, attach: Attach) -> None:
    def command(verb: str, address: str) -> None:
        bed.host.run("ip", "addr", verb, f"{address}/32", "dev", "vpn0")

    bed.host.run("ip", "link", "add", "vpn0", "type", "veth", "peer", "name", "vpn1")
    try:
        command("add", HOST_SECOND)
        bed.host.run("ip", "link", "set", "vpn0", "up")
        net = attach("--outbound-addr=vpn0")
        bed.remote.run("ip", "route", "add", f"{HOST_SECOND}/32", "via", HOST)
        bed.remote.run("ip", "route", "add", f"{HOST_THIRD}/32", "via", HOST)
        assert seen_by_udp(bed, net) == HOST_SECOND
        command("del", HOST_SECOND)
        command("add", HOST_THIRD)
        with bed.remote.bind_udp(REMOTE) as server:
            server.settimeout(0.1)
            assert any(hears(server, net, HOST_THIRD) for _ in range(100))
    finally:
        bed.host.run("ip", "link", "del", "vpn0")
        bed.remote.run("ip", "route", "flush", "via", HOST)


@pytest.mark.parametrize("asked", ["192.0.2.77", "no-such-if"])
def test_what_the_host_does_not_have(bed: Topology, attach: Attach, asked: str) -> None:
    net = attach(f"--outbound-addr={asked}", wait=False)
    assert net.wait(10) == 1
    assert asked in net.output
