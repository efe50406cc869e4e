"""What routers on the way say: traceroute, and path-MTU discovery, through several of them.

host ── remote ── second (link of 1,280 bytes) ── third
"""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Callable, Iterator

import pytest

from lab.daemons import Slirp
from lab.namespaces import Namespace, family_of
from lab.topology import HOST, REMOTE, REMOTE6, Topology, gateway_of

Attach = Callable[..., Slirp]
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0  # linux/in.h
GATEWAY = gateway_of("10.0.2.0/24")
SECOND, THIRD = "198.18.1.2", "198.18.2.2"
NARROW_MTU = 1280
IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_PMTUDISC_DONT, IP_MTU = 10, 2, 0, 14


@dataclasses.dataclass(frozen=True)
class Chain:
    """The routers behind the remote."""

    second: Namespace
    third: Namespace


@pytest.fixture(scope="module")
def chain(bed: Topology) -> Iterator[Chain]:
    narrow = f"mtu {NARROW_MTU}"
    with (
        Namespace(("unshare", "--net"), ("--net",)) as second,
        Namespace(("unshare", "--net"), ("--net",)) as third,
    ):
        for space, batch in (
            (
                bed.remote,
                f"""
                link add east type veth peer name west netns {second.pid}
                addr add 198.18.1.1/24 dev east
                link set east up
                route add 198.18.2.0/24 via {SECOND}
                """,
            ),
            (
                second,
                f"""
                link set lo up
                addr add {SECOND}/24 dev west
                link set west up
                link add east {narrow} type veth peer name west {narrow} netns {third.pid}
                addr add 198.18.2.1/24 dev east
                link set east up
                route add default via 198.18.1.1
                """,
            ),
            (
                third,
                f"""
                link set lo up
                addr add {THIRD}/24 dev west
                link set west up
                route add default via 198.18.2.1
                """,
            ),
        ):
            space.run("ip", "-batch", "-", input=batch)
        second.sysctl(ipv4__ip_forward="1")
        for space in (bed.remote, second, third):
            space.sysctl(ipv4__icmp_ratelimit="0")
        yield Chain(second, third)
        bed.remote.run("ip", "link", "del", "east")


@pytest.mark.beyond
@pytest.mark.parametrize("kind", ["--udp", "--icmp"])
def test_traceroute_sees_every_router(chain: Chain, net: Slirp, kind: str) -> None:
    """The gateway first: we are a hop."""
    done = net.guest.run("traceroute", "-n", "-q1", "-w3", kind, THIRD)
    hops = re.findall(r"^ *\d+  (\S+)", done.stdout, re.M)
    assert hops == [GATEWAY, REMOTE, SECOND, THIRD], done.stdout


@pytest.mark.beyond
def test_path_mtu_is_told(chain: Chain, net: Slirp) -> None:
    """RFC 1191: what may not be cut comes back as the router's word on it, and the next guest hears
    of it too, though the host knows already.
    """
    for _ in range(2):
        with chain.third.bind_udp(THIRD) as server, net.guest.bind_udp() as client:
            client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
            client.settimeout(5)
            client.connect((THIRD, server.getsockname()[1]))
            client.send(bytes(1400))
            with pytest.raises(OSError, match="Message too long"):
                client.recv(100)
            assert client.getsockopt(socket.IPPROTO_IP, IP_MTU) == NARROW_MTU
            client.send(bytes(NARROW_MTU - 28))
            assert len(server.recv(2000)) == NARROW_MTU - 28
        net.guest.run("ip", "route", "flush", "cache")


def test_what_may_be_cut_arrives(chain: Chain, net: Slirp) -> None:
    with chain.third.bind_udp(THIRD) as server, net.guest.bind_udp() as client:
        server.settimeout(5)
        client.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        client.sendto(bytes(1400), (THIRD, server.getsockname()[1]))
        assert len(server.recv(2000)) == 1400


@pytest.mark.beyond
def test_ping_that_may_not_be_cut(chain: Chain, net: Slirp) -> None:
    done = net.guest.run("ping", "-c1", "-W3", "-Mdo", "-s1400", THIRD, check=False)
    assert re.search(rf"mtu ?= ?{NARROW_MTU}", done.stdout + done.stderr), done


@pytest.mark.beyond
def test_answer_of_a_forwarded_port_is_cut_on_the_way(chain: Chain, net: Slirp) -> None:
    """The guest allows it, so the first one arrives: nobody has to learn of the path's MTU."""
    with net.guest.bind_udp() as server, chain.third.bind_udp(THIRD) as client:
        net.forward("udp", 7000, server.getsockname()[1])
        server.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)
        client.sendto(b"?", (HOST, 7000))
        _, source = server.recvfrom(10)
        server.sendto(bytes(1400), source)
        client.settimeout(3)
        assert len(client.recv(2000)) == 1400


def test_class_of_a_datagram(chain: Chain, net: Slirp) -> None:
    """DSCP and ECN arrive, and come back."""
    with chain.third.bind_udp(THIRD) as server, net.guest.bind_udp() as client:
        for end in (server, client):
            end.settimeout(5)
            end.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB9)
        client.sendto(b"x", (THIRD, server.getsockname()[1]))
        _, control, _, source = server.recvmsg(10, 100)
        assert control[0][2] == b"\xb9"
        server.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x28)
        server.sendto(b"y", source)
        assert client.recvmsg(10, 100)[1][0][2] == b"\x28"


TCP_SAVE_SYN, TCP_SAVED_SYN = 27, 28  # linux/tcp.h


@pytest.mark.beyond
@pytest.mark.parametrize(
    ("address", "level", "option"),
    [
        (REMOTE, socket.IPPROTO_IP, socket.IP_TOS),
        (REMOTE6, socket.IPPROTO_IPV6, socket.IPV6_TCLASS),
    ],
)
def test_class_of_a_syn(
    bed: Topology, attach: Attach, address: str, level: int, option: int
) -> None:
    """The host's SYN has it already; not the guest's ECN bits, which are an offer of its own."""
    net = attach("-6")
    with (
        bed.remote.listen(address) as listener,
        net.guest.new_socket(family=family_of(address)) as client,
    ):
        listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
        client.setsockopt(level, option, 0xB8)
        client.settimeout(5)
        client.connect((address, listener.getsockname()[1]))
        server, _ = listener.accept()
        with server:
            header = server.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, 200)
    tos = header[1] if header[0] >> 4 == 4 else int.from_bytes(header[:2], "big") >> 4 & 0xFF
    assert tos == 0xB8


@pytest.mark.beyond
def test_class_of_a_connection(bed: Topology, net: Slirp) -> None:
    """It follows the guest's."""
    kind = (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    with bed.remote.listen() as listener, bed.remote.call(socket.socket, *kind) as wire:
        port = listener.getsockname()[1]
        wire.settimeout(5)
        with net.guest.connect(REMOTE, port) as client:
            client.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x48)
            for text in (b"one", b"two"):  # the first tells us, at the latest
                client.send(text)
                packet = b""
                while not packet.endswith(text):
                    packet = wire.recv(2000)
            assert packet[1] == 0x48
