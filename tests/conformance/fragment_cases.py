"""Fragments of IPv4: RFC 791 3.2, RFC 815, 1858, 3128, 5722, 1122 3.3.2."""

from __future__ import annotations

import itertools
import os
import socket
from typing import Any

from conformance.net import GATEWAY, GUEST, Net, is_echo_reply, is_icmp
from conformance.packets import ICMP, TCP, UDP, echo, ip4, tcp, udp
from conformance.suite import case
from conformance.wire import CaseError
from lab.topology import REMOTE

_idents = itertools.count(0x2000)


def pieces(
    whole: bytes, room: int, proto: int = UDP, dst: str = REMOTE, **fields: Any
) -> list[bytes]:
    """The datagrams that carry `whole` in pieces of `room` octets."""
    ident = next(_idents)
    return [
        ip4(GUEST, dst, proto, whole[at : at + room], ident=ident, offset=at,
            more=at + room < len(whole), **fields)
        for at in range(0, len(whole), room)
    ]  # fmt: skip


def datagram(net: Net, server: socket.socket, text: bytes) -> bytes:
    return udp(GUEST, REMOTE, net.port, server.getsockname()[1], text)


def arrives(net: Net, server: socket.socket, frames: list[bytes], text: bytes) -> None:
    for frame in frames:
        net.wire.send(frame)
    got = server.recv(70_000)
    if got != text:
        raise CaseError(f"{len(got)} octets, or others")


def arrives_not(net: Net, server: socket.socket, frames: list[bytes], why: str) -> None:
    for frame in frames:
        net.wire.send(frame)
    server.settimeout(0.3)
    try:
        server.recv(70_000)
    except TimeoutError:
        return
    raise CaseError(why)


@case("RFC 791 3.2")
def two_pieces_in_order(net: Net) -> None:
    with net.udp_server() as server:
        text = os.urandom(2000)
        arrives(net, server, pieces(datagram(net, server, text), 1480), text)


@case("RFC 815")
def pieces_in_reverse(net: Net) -> None:
    with net.udp_server() as server:
        text = os.urandom(6000)
        arrives(net, server, pieces(datagram(net, server, text), 1000)[::-1], text)


@case("RFC 815")
def pieces_shuffled(net: Net) -> None:
    with net.udp_server() as server:
        text = os.urandom(6000)
        cut = pieces(datagram(net, server, text), 800)
        arrives(net, server, cut[1::2] + cut[::2], text)


@case("RFC 815")
def a_piece_twice(net: Net) -> None:
    with net.udp_server() as server:
        text = os.urandom(3000)
        cut = pieces(datagram(net, server, text), 1000)
        arrives(net, server, [cut[0], cut[0], cut[1], cut[1], *cut[2:]], text)


@case("RFC 791 3.2")
def pieces_of_eight_octets(net: Net) -> None:
    with net.udp_server() as server:
        text = os.urandom(200)
        arrives(net, server, pieces(datagram(net, server, text), 8), text)


@case("RFC 791 3.2")
def the_largest_datagram(net: Net) -> None:
    with net.udp_server() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        text = os.urandom(65_507)
        arrives(net, server, pieces(datagram(net, server, text), 1480), text)


@case("RFC 791 3.2")
def several_datagrams_interleaved(net: Net) -> None:
    with net.udp_server() as server:
        texts = [os.urandom(3000) for _ in range(4)]
        cuts = [pieces(datagram(net, server, text), 1000) for text in texts]
        for row in itertools.zip_longest(*cuts):
            for frame in row:
                if frame:
                    net.wire.send(frame)
        if {server.recv(5000) for _ in texts} != set(texts):
            raise CaseError("other text")


@case("RFC 5722, 1858")
def overlapping_pieces_are_dropped(net: Net) -> None:
    with net.udp_server() as server:
        whole = datagram(net, server, b"a" * 2000)
        first, second, *rest = pieces(whole, 800)
        ident = int.from_bytes(first[4:6], "big")
        evil = ip4(GUEST, REMOTE, UDP, b"E" * 800, ident=ident, offset=400, more=True)
        arrives_not(net, server, [first, evil, second, *rest], "an overlap was put together")


@case("RFC 791 3.2")
def an_echo_in_pieces(net: Net) -> None:
    request = echo(0x55, 1, b"p" * 3000)
    for frame in pieces(request, 1480, ICMP, GATEWAY):
        net.wire.send(frame)
    first = net.wire.expect(
        lambda p: p.proto == ICMP and p.fragment == (0, True) and p.l4[0] == 0, "the reply's first"
    )
    size = len(first.l4)
    while size < 3008:
        size += len(net.wire.expect(lambda p: p.proto == ICMP and p.fragment[0] > 0, "more").l4)
    if size != 3008:
        raise CaseError(f"{size} octets")


@case("RFC 791 3.2")
def a_segment_in_pieces(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.open()
        server, _ = listener.accept()
        with server:
            server.settimeout(2)
            segment = tcp(
                GUEST, REMOTE, client.sport, client.dport, seq=client.nxt, ack=client.rcv,
                flags=0x18, data=b"t" * 1000,
            )  # fmt: skip
            for frame in pieces(segment, 512, TCP):
                net.wire.send(frame)
            if len(server.recv(2000)) != 1000:
                raise CaseError("other text")
        client.abort()


@case("RFC 1858 3")
def tiny_first_piece_of_tcp_is_dropped(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        segment = tcp(GUEST, REMOTE, client.sport, client.dport, seq=client.iss)
        for frame in pieces(segment, 8, TCP):
            net.wire.send(frame)
        # The kernel puts it together first, which is as safe: no filter stands between.
        client.wire.all(client.ours, 0.2)
        other = net.tcp(client.dport)
        other.open()
        other.abort()


@case("RFC 791 3.2")
def a_first_piece_alone_is_nothing(net: Net) -> None:
    with net.udp_server() as server:
        cut = pieces(datagram(net, server, b"x" * 2000), 1480)
        arrives_not(net, server, cut[:1], "part of a datagram was delivered")


@case("RFC 791 3.2")
def a_last_piece_alone_is_nothing(net: Net) -> None:
    with net.udp_server() as server:
        cut = pieces(datagram(net, server, b"x" * 2000), 1480)
        arrives_not(net, server, cut[1:], "part of a datagram was delivered")


@case("RFC 791 3.1")
def pieces_beyond_65535_are_dropped(net: Net) -> None:
    """The ping of death."""
    ident = next(_idents)
    for more in (True, False):
        net.wire.send(ip4(GUEST, GATEWAY, ICMP, b"d" * 1000, ident=ident, offset=65_528, more=more))
    net.wire.send(ip4(GUEST, GATEWAY, ICMP, b"d" * 1000, ident=ident, more=True))
    net.wire.silence(lambda p: is_icmp(p, 0), "an answer to more than 65535 octets", 0.1)
    net.ping(GATEWAY)


@case("RFC 791 3.2")
def a_middle_piece_of_odd_size_is_dropped(net: Net) -> None:
    ident = next(_idents)
    request = echo(0x56, 1, b"o" * 100)
    net.wire.send(ip4(GUEST, GATEWAY, ICMP, request[:13], ident=ident, more=True))
    net.wire.send(ip4(GUEST, GATEWAY, ICMP, request[8:], ident=ident, offset=8))
    net.wire.silence(lambda p: is_echo_reply(p, 0x56), "an odd piece was put together", 0.3)


@case("RFC 791 3.2")
def idents_are_kept_apart(net: Net) -> None:
    with net.udp_server() as server:
        one = pieces(datagram(net, server, b"1" * 2000), 1480)
        two = pieces(datagram(net, server, b"2" * 2000), 1480)
        arrives_not(net, server, [one[0], two[1]], "pieces of two datagrams were mixed")
        server.settimeout(1.5)
        arrives(net, server, [two[0]], b"2" * 2000)
        arrives(net, server, [one[1]], b"1" * 2000)


@case("RFC 1122 3.3.2", seconds=1)
def a_flood_of_first_pieces_is_survived(net: Net) -> None:
    for ident in range(3000):
        net.wire.socket.send(
            net.wire.gateway_mac + net.wire.mac + b"\x08\x00"
            + ip4(GUEST, REMOTE, UDP, b"f" * 600, ident=ident, more=True)
        )  # fmt: skip
    net.wire.all(lambda p: True, 0.1)
    net.ping(GATEWAY)
    with net.udp_server() as server:
        net.send_udp(net.port, server.getsockname()[1], b"x")
        if server.recv(10) != b"x":
            raise CaseError("other text")


@case("RFC 792, 1122 3.3.2", seconds=36)
def missing_pieces_are_told_after_a_while(net: Net) -> None:
    with net.udp_server() as server:
        cut = pieces(datagram(net, server, b"x" * 2000), 1480, dst=GATEWAY)
        net.wire.send(cut[0])
        error = net.expect_icmp(11, 1, 35)
        if error.l4[8:12][2:4] == b"":
            raise CaseError("no quote")


@case("RFC 1122 3.3.2", seconds=1)
def df_and_fragment_together(net: Net) -> None:
    with net.udp_server() as server:
        text = os.urandom(2000)
        arrives(net, server, pieces(datagram(net, server, text), 1480, df=True), text)


@case("RFC 791 3.2")
def the_largest_echo(net: Net) -> None:
    """ping -s 65507, of the gateway and of the world."""
    for dst in (GATEWAY, REMOTE):
        request = echo(0x57, 1, os.urandom(65_507))
        for frame in pieces(request, 1480, ICMP, dst):
            net.wire.send(frame)
        whole = bytearray(len(request))
        left = len(request)
        while left:
            piece = net.wire.expect(lambda p: p.proto == ICMP, f"a piece of {dst}", 2)
            at = piece.fragment[0]
            whole[at : at + len(piece.l4)] = piece.l4
            left -= len(piece.l4)
        if whole[8:] != request[8:]:
            raise CaseError("other octets")
