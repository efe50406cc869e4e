"""The Engine on real sockets: HostOps by system calls, held against what hostops.pxd promises.

A pair of sockets is the link, and the host's loopback, behind the gateway's address, is the world
(harness/wired.py). These tests wait for the kernel, never for the clock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import dpkt
import pytest

from harness.lan import PORT, Frame, echo, ip_frame, udp_datagram, udp_train
from harness.net import GATEWAY, GUEST
from harness.wired import (
    ACK,
    FIN,
    FRAME_MAX,
    ICMP,
    IP_RECVTTL,
    LOOPBACK,
    PATIENCE_S,
    PUSH,
    RST,
    SETTINGS,
    SYN,
    TCP,
    UDP,
    Wired,
    link_pair,
    peer,
    port_of,
)
from slirp.core.engine import RUN_IDLE, RUN_LINK_DOWN, RUN_MORE, Engine


def has_ipv6() -> bool:
    """The host's loopback has ::1."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on the loopback")


def unused_port(kind: socket.SocketKind) -> int:
    """A port at which nobody is, now."""
    with peer(kind) as bound:
        return port_of(bound)


# ---- UDP


@pytest.mark.parametrize("size", [0, 1, 1472, 65507])
def test_datagram_there_and_back(wired: Wired, size: int) -> None:
    data = os.urandom(size)
    with peer() as server:
        wired.udp(port_of(server), data)
        wired.flush()
        received, client = server.recvfrom(FRAME_MAX)
        assert received == data
        server.sendto(data, client)
        frame = wired.next()
        assert (frame.ip.src, frame.udp.sport) == (GATEWAY, port_of(server))
    assert (frame.udp.dport, frame.udp.data) == (PORT, data)


def test_refused_datagram_is_reported(wired: Wired) -> None:
    """IP_RECVERR: the kernel's error queue, read on the event that tells of it."""
    dport = unused_port(socket.SOCK_DGRAM)
    wired.udp(dport, b"anybody?")
    frame = wired.next()
    assert (frame.ip.src, frame.icmp.type, frame.icmp.code) == (GATEWAY, 3, 3)
    quote = dpkt.ip.IP(frame.quote)
    assert (quote.src, quote.dst) == (GUEST, GATEWAY)
    assert struct.unpack_from("!HH", frame.quote, 20) == (PORT, dport)


def test_datagram_after_a_refused_one_is_sent(wired: Wired) -> None:
    """The pending error is the earlier one's: this one must not be lost to it."""
    dport = unused_port(socket.SOCK_DGRAM)
    wired.udp(dport, b"too early")
    wired.flush()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((LOOPBACK, dport))
        server.settimeout(PATIENCE_S)
        wired.udp(dport, b"in time")
        wired.flush()
        assert server.recv(100) == b"in time"


@pytest.mark.parametrize(("size", "segment_bytes"), [(5000, 1000), (5001, 1000), (40000, 250)])
def test_train_of_the_guests_is_cut_by_the_kernel(
    wired: Wired, size: int, segment_bytes: int
) -> None:
    """UDP_SEGMENT, or one by one where the kernel would not (more than 64 or 128 of them)."""
    data = os.urandom(size)
    with peer() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        wired.guest.send(udp_train(GATEWAY, port_of(server), data, segment_bytes))
        wired.flush()
        pieces: list[bytes] = []
        while sum(len(piece) for piece in pieces) < size:
            pieces.append(server.recv(FRAME_MAX))
    assert b"".join(pieces) == data
    assert {len(piece) for piece in pieces[:-1]} == {segment_bytes}


@pytest.mark.parametrize("offload", [0, 1 | 32])
def test_train_of_the_hosts_arrives(make_wired: Callable[..., Wired], offload: int) -> None:
    """UDP_GRO: what another of the host's sockets sent by UDP_SEGMENT may come as one."""
    wired = make_wired(offload=offload)
    data = os.urandom(5500)
    with peer() as server:
        wired.udp(port_of(server), b"start")
        wired.flush()
        _, client = server.recvfrom(100)
        segment = [(socket.SOL_UDP, 103, struct.pack("=H", 1000))]  # UDP_SEGMENT
        server.sendmsg([data], segment, 0, client)
        wired.run_until(lambda: sum(len(f.udp.data) for f in wired.frames) == len(data))
    assert b"".join(bytes(frame.udp.data) for frame in wired.frames) == data
    if not offload:
        assert [len(frame.udp.data) for frame in wired.frames] == [1000] * 5 + [500]
    assert all(len(f.udp.data) <= 1000 or f.vnet.gso_size == 1000 for f in wired.frames)


def test_forwarded_port(wired: Wired) -> None:
    """The client's datagram in, the answer out of the port that it had asked, at that address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound, peer() as client:
        bound.bind(("0.0.0.0", 0))
        bound.setblocking(False)
        port = port_of(bound)
        wired.engine.add_forward("udp", bound.detach(), GUEST, 53)
        client.connect(("127.0.0.7", port))  # and only from there an answer is taken
        client.send(b"query")
        frame = wired.next()
        assert (frame.ip.src, frame.udp.sport) == (GATEWAY, port_of(client))
        assert (frame.udp.dport, frame.udp.data) == (53, b"query")
        wired.udp(port_of(client), b"answer", sport=53)
        wired.flush()
        assert client.recv(100) == b"answer"


def test_forwarded_ports_client_is_gone(wired: Wired) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as bound:
        bound.bind((LOOPBACK, 0))
        bound.setblocking(False)
        port = port_of(bound)
        wired.engine.add_forward("udp", bound.detach(), GUEST, 53)
    with peer() as client:
        client_port = port_of(client)
        client.sendto(b"query", (LOOPBACK, port))
        wired.next()
    wired.udp(client_port, b"answer", sport=53)
    frame = wired.next()
    assert (frame.ip.src, frame.icmp.type, frame.icmp.code) == (GATEWAY, 3, 3)
    assert struct.unpack_from("!HH", frame.quote, 20) == (53, client_port)


def test_many_datagrams_lose_none(wired: Wired) -> None:
    """Level-triggered: what one turn leaves is told again."""
    with peer() as server:
        wired.udp(port_of(server), b"start")
        wired.flush()
        _, client = server.recvfrom(100)
        for n in range(150):
            server.sendto(struct.pack("!H", n), client)
        wired.run_until(lambda: len(wired.frames) == 150)
    numbers = [struct.unpack("!H", bytes(frame.udp.data))[0] for frame in wired.frames]
    assert numbers == list(range(150))


@pytest.mark.parametrize("forwarded", [False, True])
def test_datagrams_wait_for_an_engine_that_is_busy(wired: Wired, forwarded: bool) -> None:
    """More than the receive buffer that a socket has by itself can hold."""
    with peer() as server:
        if forwarded:
            bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            bound.bind((LOOPBACK, 0))
            client = bound.getsockname()
            wired.engine.add_forward("udp", bound.detach(), GUEST, PORT)
        else:
            wired.udp(port_of(server), b"open")
            wired.flush()
            _, client = server.recvfrom(FRAME_MAX)
        usual = server.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        number = usual // 1400  # each takes more than its octets of the buffer
        for n in range(number):
            server.sendto(struct.pack("!H", n) + bytes(1398), client)
    wired.run_until(lambda: len(wired.frames) == number)
    assert [int.from_bytes(frame.udp.data[:2], "big") for frame in wired.frames] == [*range(number)]


def test_shorter_life_is_set(wired: Wired) -> None:
    """IP_TTL for the one datagram; the next has the host's own again."""
    with peer() as server:
        server.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        lives = []
        for ttl in (5, 64):
            udp = udp_datagram(port_of(server), b"x")
            wired.guest.send(ip_frame(GATEWAY, UDP, udp, ttl=ttl))
            wired.flush()
            _, control, _, _ = server.recvmsg(10, 100)
            lives.append(struct.unpack("=i", control[0][2])[0])
    assert lives[0] == 4  # one hop is behind it
    assert lives[1] >= 64


def test_class_and_life_go_both_ways(wired: Wired) -> None:
    """IP_TOS, IP_TTL: of each datagram."""
    with peer() as server:
        server.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        udp = udp_datagram(port_of(server), b"x")
        wired.guest.send(ip_frame(GATEWAY, UDP, udp, tos=0xB8))
        wired.flush()
        _, control, _, client = server.recvmsg(10, 100)
        assert control[0][2] == b"\xb8"
        server.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x28)
        server.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
        server.sendto(b"y", client)
        answer = wired.next().ip
    assert (answer.tos, answer.ttl) == (0x28, 33)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_outbound_address(wired: Wired, kind: socket.SocketKind) -> None:
    """The peer sees it; the port is still the kernel's to choose at connect()."""
    wired.engine.set_outbound(bytes((127, 0, 0, 9)))
    with peer(kind) as server:
        if kind == socket.SOCK_DGRAM:
            wired.udp(port_of(server), b"x")
            wired.flush()
            _, client = server.recvfrom(10)
        else:
            wired.connect(port_of(server))
            accepted, client = server.accept()
            accepted.close()
    assert client[0] == "127.0.0.9"


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_outbound_address_that_the_host_has_no_more(wired: Wired, kind: socket.SocketKind) -> None:
    """An interface went away: nothing leaves from another address."""
    wired.engine.set_outbound(bytes((192, 0, 2, 1)))
    with peer(kind) as server:
        if kind == socket.SOCK_DGRAM:
            wired.udp(port_of(server), b"x")
            wired.flush()
            assert wired.engine.stats()["drop_udp_host_refused"] == 1
        else:
            wired.tcp(port_of(server), 0, 0, SYN)
            assert wired.next().ip.data.flags == RST | ACK


def test_outbound_address_of_no_family(wired: Wired) -> None:
    with pytest.raises(ValueError, match="4 or 16 bytes"):
        wired.engine.set_outbound(b"\x7f")


@needs_ipv6
def test_client_of_the_other_family(wired: Wired) -> None:
    """The guest has no IPv6: such a client is seen as the gateway, and answered as what it is."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as bound:
        bound.bind(("::1", 0))
        bound.setblocking(False)
        port = port_of(bound)
        wired.engine.add_forward("udp", bound.detach(), GUEST, 53)
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.settimeout(PATIENCE_S)
        client.connect(("::1", port))
        client.send(b"query")
        frame = wired.next()
        assert (frame.ip.src, frame.udp.sport) == (GATEWAY, port_of(client))
        wired.udp(port_of(client), b"answer", sport=53)
        wired.flush()
        assert client.recv(100) == b"answer"


# ---- TCP


def test_connection_there_and_back(wired: Wired) -> None:
    with peer(socket.SOCK_STREAM) as server:
        dport = port_of(server)
        ack = wired.connect(dport)
        host, _ = server.accept()
        with host:
            wired.tcp(dport, 1, ack, ACK | PUSH, b"request")
            wired.flush()
            host.settimeout(PATIENCE_S)
            assert host.recv(100) == b"request"
            host.sendall(b"answer")
            wired.run_until(lambda: any(f.ip.data.data for f in wired.frames))
            answer = next(f.ip.data for f in wired.frames if f.ip.data.data)
            assert (answer.data, answer.ack) == (b"answer", 8)
            wired.frames.clear()
            wired.tcp(dport, 8, ack + 6, ACK | FIN)
            wired.flush()
            assert host.recv(100) == b""  # half closed: the rest still flows
            host.sendall(b"more")
            wired.run_until(lambda: any(f.ip.data.data == b"more" for f in wired.frames))
        wired.run_until(lambda: any(f.ip.data.flags & FIN for f in wired.frames))
        wired.tcp(dport, 9, ack + 11, ACK)
        wired.flush()
    assert wired.engine.stats()["flows"] == 0


def test_refused_connection_is_reset(wired: Wired) -> None:
    wired.tcp(unused_port(socket.SOCK_STREAM), 0, 0, SYN)
    answer = wired.next().ip.data
    assert (answer.flags, answer.ack) == (RST | ACK, 1)


def test_reset_of_the_host_reaches_the_guest(wired: Wired) -> None:
    with peer(socket.SOCK_STREAM) as server:
        wired.connect(port_of(server))
        host, _ = server.accept()
        host.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        host.close()
        assert wired.next().ip.data.flags & RST


def test_reset_of_the_guest_reaches_the_host(wired: Wired) -> None:
    with peer(socket.SOCK_STREAM) as server:
        dport = port_of(server)
        ack = wired.connect(dport)
        host, _ = server.accept()
        with host:
            wired.tcp(dport, 1, ack, RST)
            wired.flush()
            host.settimeout(PATIENCE_S)
            with pytest.raises(ConnectionResetError):
                host.recv(100)


def test_forwarded_connection(wired: Wired) -> None:
    with peer(socket.SOCK_STREAM) as listener, socket.socket() as client:
        listener.setblocking(False)
        address = listener.getsockname()
        wired.engine.add_forward("tcp", listener.detach(), GUEST, 80)
        client.settimeout(PATIENCE_S)
        client.connect(address)
        frame = wired.next()
        syn = frame.ip.data
        assert (frame.ip.src, syn.sport) == (GATEWAY, port_of(client))
        assert (syn.flags, syn.dport) == (SYN, 80)
        reply = dpkt.tcp.TCP(
            sport=80, dport=syn.sport, seq=100, ack=syn.seq + 1, flags=SYN | ACK, win=65535
        )
        wired.guest.send(ip_frame(GATEWAY, TCP, reply))
        client.send(b"hello")
        wired.run_until(lambda: any(f.ip.data.data == b"hello" for f in wired.frames))


# ---- the engine


def test_our_addresses_answer_echo(wired: Wired) -> None:
    wired.guest.send(ip_frame(GATEWAY, ICMP, echo()))
    assert wired.next().icmp.type == dpkt.icmp.ICMP_ECHOREPLY


def test_link_without_virtio_headers(make_wired: Callable[..., Wired]) -> None:
    """A TAP that somebody else has opened may have none: then nothing is left to it either."""
    wired = make_wired(vnet_hdr=False, offload=0xFF)
    wired.guest.send(ip_frame(GATEWAY, ICMP, echo())[12:])
    assert wired.engine.run() == RUN_IDLE
    frame = Frame.parse(bytes(12) + wired.guest.recv(FRAME_MAX))
    assert frame.icmp.type == dpkt.icmp.ICMP_ECHOREPLY
    assert wired.engine.stats()["bytes_to_guest"] == 14 + 20 + 8 + 4


def test_driven_by_a_thread(wired: Wired) -> None:
    """run_until sleeps without the GIL, wakes up for frames, and ends when told to."""
    readable, writable = os.pipe()
    status: list[int] = []
    thread = threading.Thread(target=lambda: status.append(wired.engine.run_until(readable)))
    thread.start()
    wired.guest.setblocking(True)
    for seq in range(3):
        wired.guest.send(ip_frame(GATEWAY, ICMP, echo(seq=seq)))
        assert Frame.parse(wired.guest.recv(FRAME_MAX)).icmp.data.seq == seq
    os.write(writable, b"x")
    thread.join(PATIENCE_S)
    assert status == [RUN_IDLE]
    os.close(readable)
    os.close(writable)


def test_a_frame_after_the_visit_waits_for_the_next(wired: Wired) -> None:
    """So that the driver looks at resolv.conf before it, and need not while nothing comes."""
    with peer() as never_readable:
        wired.udp(9, b"x")
        frames = wired.engine.stats()["frames_from_guest"]
        assert wired.engine.run_until(never_readable.fileno(), 1) == RUN_MORE
        assert wired.engine.stats()["frames_from_guest"] == frames
        assert wired.engine.run() == RUN_IDLE
        assert wired.engine.stats()["frames_from_guest"] == frames + 1


def test_the_hosts_socket_is_read_once(wired: Wired) -> None:
    """What did not fill the buffer was all; but the end may be behind it, or an urgent mark."""
    with peer(socket.SOCK_STREAM) as server:
        ack = wired.connect(port_of(server))
        client, _ = server.accept()
        with client:
            for number in range(3):
                client.send(b"%d" % number)
                assert wired.next().ip.data.data == b"%d" % number
            client.send(b"urgent", socket.MSG_OOB)
            client.send(b"more")
            client.shutdown(socket.SHUT_WR)
            got = b""
            while not (segment := wired.next().ip.data).flags & FIN:
                got += segment.data
            assert got + segment.data == b"urgenmore"
            assert segment.seq + len(segment.data) == ack + 3 + len(b"urgenmore")


def test_timer_wakes_the_engine(wired: Wired) -> None:
    """Readable when a deadline has come: here the delayed ACK's, 10 ms after a small segment."""
    with peer(socket.SOCK_STREAM) as server:
        dport = port_of(server)
        ack = wired.connect(dport)
        wired.tcp(dport, 1, ack, ACK | PUSH, b"x")
        assert wired.next().ip.data.ack == 2


def test_closed_engine_refuses(wired: Wired) -> None:
    wired.engine.close()
    wired.engine.close()
    calls: list[Callable[[], object]] = [
        wired.engine.fileno,
        wired.engine.run,
        wired.engine.stats,
        wired.engine.flows,
        lambda: wired.engine.set_dns([]),
        lambda: wired.engine.remove_forward(1),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="closed"):
            call()


def test_link_that_ends(wired: Wired) -> None:
    """The daemon's life ends with the guest's namespace."""
    wired.guest.close()
    assert wired.engine.run() & RUN_LINK_DOWN
    with peer() as never_readable:
        assert wired.engine.run_until(never_readable.fileno()) & RUN_LINK_DOWN


@pytest.mark.parametrize(
    "bad", [{"mtu": 100}, {"mtu": 65536}, {"gateway_mac": b""}, {"network4": b""}, {"dns4": b"x"}]
)
def test_bad_settings_leave_the_link_to_the_caller(bad: dict[str, Any]) -> None:
    guest, ours = link_pair()
    with guest, ours, pytest.raises(ValueError, match=r"bytes|MTU"):
        Engine(ours.fileno(), **SETTINGS | bad)


def test_link_that_cannot_be_watched_is_left_to_the_caller() -> None:
    with open(os.devnull) as null, pytest.raises(PermissionError):
        Engine(null.fileno(), **SETTINGS)
