"""--target-type=bess: a guest that speaks Ethernet over a socket, as User Mode Linux does."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import dpkt
import pytest

from harness.ip import VNET_HLEN, Datagram, Vnet, check_upper
from harness.lan import echo, ip_frame, udp_datagram
from lab.daemons import Slirp
from lab.servers import echo as echo_server
from lab.servers import serve
from lab.topology import REMOTE, Topology

Attach = Callable[..., Slirp]
GATEWAY = bytes((10, 0, 2, 2))
GUEST = bytes((10, 0, 2, 100))
GUEST_MAC = bytes.fromhex("020000000042")
UDP, TCP, ICMP = dpkt.ip.IP_PROTO_UDP, dpkt.ip.IP_PROTO_TCP, dpkt.ip.IP_PROTO_ICMP
SYN, ACK, PUSH, FIN = 0x02, 0x10, 0x08, 0x01
PATIENCE_S = 10


class UmlGuest:
    """The other end of the socket."""

    def __init__(self, path: pathlib.Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(PATIENCE_S)
        self.sock.connect(str(path))
        self.gateway_mac = self._resolve()

    def _resolve(self) -> bytes:
        """ARP for the gateway."""
        arp = dpkt.arp.ARP(op=1, sha=GUEST_MAC, spa=GUEST, tha=bytes(6), tpa=GATEWAY)
        self.sock.send(b"\xff" * 6 + GUEST_MAC + struct.pack("!H", 0x0806) + bytes(arp))
        reply = dpkt.ethernet.Ethernet(self.sock.recv(2000))
        assert (reply.dst, reply.arp.op, reply.arp.spa) == (GUEST_MAC, 2, GATEWAY)
        return bytes(reply.arp.sha)

    def send(self, dst: bytes, proto: int, payload: object) -> None:
        frame = ip_frame(
            dst, proto, payload, src=GUEST, src_mac=GUEST_MAC, dst_mac=self.gateway_mac
        )
        self.sock.send(frame[VNET_HLEN:])

    def next(self) -> Any:
        """The next datagram, as dpkt.ip.IP; its checksums are our business, and right."""
        ip = dpkt.ethernet.Ethernet(self.sock.recv(70000)).data
        check_upper(Datagram.parse(bytes(ip)), Vnet())
        return ip

    def tcp(
        self, dst: bytes, dport: int, seq: int, ack: int, flags: int, data: bytes = b""
    ) -> None:
        segment = dpkt.tcp.TCP(
            sport=4000, dport=dport, seq=seq, ack=ack, flags=flags, win=65535, data=data
        )
        self.send(dst, TCP, segment)


@pytest.fixture
def path(bed: Topology) -> Iterator[pathlib.Path]:
    path = bed.workdir / "bess.sock"
    yield path
    assert not path.exists()


@pytest.fixture
def daemon(attach: Attach, path: pathlib.Path) -> Iterator[Slirp]:
    daemon = attach("--target-type=bess", configure=False, target=(str(path),))
    yield daemon
    daemon.stop()
    daemon.ended_by_test = True


@contextlib.contextmanager
def guest_at(path: pathlib.Path) -> Iterator[UmlGuest]:
    guest = UmlGuest(path)
    with guest.sock:
        yield guest


def test_ping(daemon: Slirp, path: pathlib.Path) -> None:
    with guest_at(path) as guest:
        for dst in (GATEWAY, socket.inet_aton(REMOTE)):
            guest.send(dst, ICMP, echo(data=b"x" * 100))
            answer = guest.next()
            assert (answer.src, answer.icmp.type, answer.icmp.echo.data) == (dst, 0, b"x" * 100)


def test_datagrams(bed: Topology, daemon: Slirp, path: pathlib.Path) -> None:
    with bed.remote.bind_udp(REMOTE) as server, guest_at(path) as guest:
        server.settimeout(PATIENCE_S)
        port = server.getsockname()[1]
        guest.send(socket.inet_aton(REMOTE), UDP, udp_datagram(port, b"question"))
        data, client = server.recvfrom(100)
        assert data == b"question"
        server.sendto(b"answer", client)
        answer = guest.next()
        assert (answer.udp.sport, bytes(answer.udp.data)) == (port, b"answer")


def test_connection(bed: Topology, daemon: Slirp, path: pathlib.Path) -> None:
    remote = socket.inet_aton(REMOTE)
    with serve(bed.remote.listen(), echo_server) as port, guest_at(path) as guest:
        guest.tcp(remote, port, 0, 0, SYN)
        syn_ack = guest.next().tcp
        assert (syn_ack.flags, syn_ack.ack) == (SYN | ACK, 1)
        guest.tcp(remote, port, 1, syn_ack.seq + 1, ACK | PUSH, b"hello")
        text = b""
        while len(text) < 5:
            segment = guest.next().tcp
            text += bytes(segment.data)
        assert text == b"hello"


def test_next_guest_is_taken_when_one_has_gone(daemon: Slirp, path: pathlib.Path) -> None:
    """As at a reboot; one who comes too early waits."""
    with guest_at(path) as first:
        waiting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with waiting:
            waiting.connect(str(path))
        first.send(GATEWAY, ICMP, echo())
        assert first.next().icmp.type == 0
    for _ in range(3):
        with guest_at(path) as guest:
            guest.send(GATEWAY, ICMP, echo())
            assert guest.next().icmp.type == 0


def test_idle_while_nobody_is_there(daemon: Slirp, path: pathlib.Path) -> None:
    with guest_at(path):
        pass
    with guest_at(path):
        pass
    clock = pathlib.Path(f"/proc/{daemon.pid}/stat")

    def ticks() -> int:
        fields = clock.read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    time.sleep(0.5)
    before = ticks()
    time.sleep(1)
    assert ticks() - before < 50


def test_path_of_another_server(daemon: Slirp, attach: Attach, path: pathlib.Path) -> None:
    other = attach("--target-type=bess", configure=False, target=(str(path),), wait=False)
    assert other.wait(10) == 1
    assert str(path) in other.output


def test_configure_makes_no_sense(attach: Attach, bed: Topology) -> None:
    target = (str(bed.workdir / "none.sock"),)
    other = attach("--target-type=bess", target=target, wait=False)
    assert other.wait(10) == 1
    assert "--configure conflicts with --target-type=bess" in other.output
