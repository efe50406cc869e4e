"""UDP: RFC 768, 1122 4.1, 4787."""

from __future__ import annotations

import os
import socket

from conformance.net import GATEWAY, GUEST, Net, is_error
from conformance.packets import ICMP, UDP, udp
from conformance.suite import case
from conformance.wire import CaseError
from lab.topology import REMOTE, REMOTE_SECOND


def arrives_not(server: socket.socket, why: str) -> None:
    server.settimeout(0.25)
    try:
        server.recv(70_000)
    except TimeoutError:
        return
    raise CaseError(why)


@case("RFC 768")
def there_and_back(net: Net) -> None:
    with net.udp_server() as server:
        sport, dport = net.port, server.getsockname()[1]
        net.send_udp(sport, dport, b"question")
        text, peer = server.recvfrom(100)
        server.sendto(b"answer", peer)
        reply = net.expect_udp(dport, sport)
        if text != b"question" or reply.data != b"answer" or reply.src != REMOTE:
            raise CaseError(f"{reply}")


@case("RFC 768")
def empty_datagrams_both_ways(net: Net) -> None:
    with net.udp_server() as server:
        sport, dport = net.port, server.getsockname()[1]
        net.send_udp(sport, dport, b"")
        text, peer = server.recvfrom(100)
        server.sendto(b"", peer)
        if text or net.expect_udp(dport, sport).data:
            raise CaseError("not empty")


@case("RFC 768")
def no_checksum_is_accepted(net: Net) -> None:
    with net.udp_server() as server:
        net.send4(UDP, udp(GUEST, REMOTE, net.port, server.getsockname()[1], b"x", csum=0))
        if server.recv(10) != b"x":
            raise CaseError("other text")


@case("RFC 1122 4.1.3.4")
def a_wrong_checksum_is_dropped(net: Net) -> None:
    with net.udp_server() as server:
        net.send4(UDP, udp(GUEST, REMOTE, net.port, server.getsockname()[1], b"x", csum=0xDEAD))
        arrives_not(server, "a wrong checksum was accepted")


@case("RFC 768")
def lengths_that_lie_are_dropped(net: Net) -> None:
    with net.udp_server() as server:
        for length in (0, 1, 7, 100, 65535):
            net.send4(
                UDP, udp(GUEST, REMOTE, net.port, server.getsockname()[1], b"x", length=length)
            )
        arrives_not(server, "a length that lies was accepted")


@case("RFC 768")
def a_length_below_ips_cuts(net: Net) -> None:
    with net.udp_server() as server:
        dport = server.getsockname()[1]
        whole = udp(GUEST, REMOTE, net.port, dport, b"abcd")
        net.send4(UDP, whole + b"tail")
        got = server.recv(100)
        if got != b"abcd":
            raise CaseError(f"{got!r}")


@case("RFC 768")
def truncated_headers_are_dropped(net: Net) -> None:
    for size in range(8):
        net.send4(UDP, udp(GUEST, GATEWAY, 1, 9, b"")[:size], GATEWAY)
    net.wire.silence(lambda p: p.proto in (UDP, ICMP), "an answer to part of a header")


@case("RFC 768")
def source_port_zero_is_possible(net: Net) -> None:
    with net.udp_server() as server:
        net.send_udp(0, server.getsockname()[1], b"no reply wanted")
        if server.recv(100) != b"no reply wanted":
            raise CaseError("other text")


@case("RFC 768")
def destination_port_zero_does_no_harm(net: Net) -> None:
    net.send_udp(net.port, 0, b"x")
    net.send_udp(net.port, 0, b"x", dst=GATEWAY)
    net.wire.all(is_error, 0.1)
    net.ping(GATEWAY)


@case("RFC 1122 4.1.1")
def a_large_datagram_to_the_guest(net: Net) -> None:
    with net.udp_server() as server:
        sport, dport = net.port, server.getsockname()[1]
        net.send_udp(sport, dport, b"x")
        _, peer = server.recvfrom(10)
        server.sendto(os.urandom(65_507), peer)
        size = 0
        while size < 65_515:
            piece = net.wire.expect(lambda p: p.proto == UDP and p.src == REMOTE, "a piece")
            if len(piece.l3) > 1500:
                raise CaseError("a piece above the MTU")
            size += len(piece.l4)


@case("RFC 4787 REQ-1")
def mapping_does_not_depend_on_the_endpoint(net: Net) -> None:
    with net.udp_server() as one, net.udp_server() as two:
        sport = net.port
        net.send_udp(sport, one.getsockname()[1], b"1")
        net.send_udp(sport, two.getsockname()[1], b"2", dst=REMOTE_SECOND)
        if one.recvfrom(10)[1] != two.recvfrom(10)[1]:
            raise CaseError("another mapping for another endpoint")


@case("RFC 4787 REQ-8")
def filtering_does_not_depend_on_the_endpoint(net: Net) -> None:
    """Whoever knows the mapping may write to it; the source is what it really is."""
    with net.udp_server() as one, net.udp_server() as two:
        sport = net.port
        net.send_udp(sport, one.getsockname()[1], b"1")
        _, mapped = one.recvfrom(10)
        two.sendto(b"out of the blue", mapped)
        if net.expect_udp(two.getsockname()[1], sport).data != b"out of the blue":
            raise CaseError("other text")


@case("RFC 4787 REQ-3")
def two_ports_get_two_mappings(net: Net) -> None:
    with net.udp_server() as server:
        mapped = []
        for _ in range(2):
            net.send_udp(net.port, server.getsockname()[1], b"x")
            mapped.append(server.recvfrom(10)[1])
        if mapped[0] == mapped[1]:
            raise CaseError("one mapping for two ports")


@case("RFC 4787 REQ-5")
def a_mapping_stays_the_same(net: Net) -> None:
    with net.udp_server() as server:
        sport, seen = net.port, set()
        for _ in range(5):
            net.send_udp(sport, server.getsockname()[1], b"x")
            seen.add(server.recvfrom(10)[1])
        if len(seen) != 1:
            raise CaseError(f"{seen}")


@case("RFC 1122 4.1.3.5")
def replies_of_the_hosts_loopback(net: Net) -> None:
    with net.udp_server("host") as server:
        sport, dport = net.port, server.getsockname()[1]
        net.send_udp(sport, dport, b"question", dst=GATEWAY)
        _, peer = server.recvfrom(100)
        server.sendto(b"answer", peer)
        reply = net.expect_udp(dport, sport)
        if reply.src != GATEWAY:
            raise CaseError(f"from {reply.src}")


@case("RFC 1122 4.1.3.3")
def a_mapping_outlives_an_error(net: Net) -> None:
    with net.udp_server() as server:
        sport = net.port
        net.send_udp(sport, 9, b"nobody")
        net.expect_icmp(3, 3)
        net.send_udp(sport, server.getsockname()[1], b"somebody")
        _, peer = server.recvfrom(100)
        server.sendto(b"yes", peer)
        net.expect_udp(server.getsockname()[1], sport)


@case("RFC 768", seconds=1)
def a_thousand_ports_do_no_harm(net: Net) -> None:
    with net.udp_server() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 21)
        for number in range(1000):
            net.send_udp(30_000 + number, server.getsockname()[1], b"x")
        net.ping(GATEWAY)
        net.send_udp(net.port, server.getsockname()[1], b"last")
        for _ in range(1001):
            if server.recv(10) == b"last":
                return
        raise CaseError("the last did not arrive")


@case("RFC 1122 4.1.3.6")
def order_is_kept(net: Net) -> None:
    with net.udp_server() as server:
        sport = net.port
        for number in range(50):
            net.send_udp(sport, server.getsockname()[1], bytes([number]))
        got = [server.recv(10)[0] for _ in range(50)]
        if got != list(range(50)):
            raise CaseError(f"{got}")
