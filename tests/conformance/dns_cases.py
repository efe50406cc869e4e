"""DNS at its own address: RFC 1035 4.2, 5966/7766, 6891, 5625."""

from __future__ import annotations

import socket
import struct
import time

from conformance.endpoint import Tcp, mss
from conformance.net import DNS, GUEST, LONG_TEXT, Net, is_error
from conformance.packets import ACK, FIN, PSH, Packet, dns_query
from conformance.suite import case
from conformance.wire import CaseError

ADDRESS = socket.inet_aton("192.0.2.80")


def ask(net: Net, query: bytes, sport: int | None = None) -> Packet:
    sport = sport or net.port
    net.send_udp(sport, 53, query, dst=DNS)
    return net.expect_udp(53, sport, 3)


def check_answer(message: bytes, ident: int) -> None:
    if message[:2] != struct.pack("!H", ident) or not message[2] & 0x80:
        raise CaseError("another identifier, or no answer")
    if ADDRESS not in message:
        raise CaseError("not the record")


def connect(net: Net) -> Tcp:
    client = Tcp(net.wire, GUEST, DNS, net.port, 53)
    client.open(mss(1460))
    return client


def read_messages(client: Tcp, count: int) -> list[bytes]:
    messages: list[bytes] = []
    raw = b""
    while len(messages) < count:
        raw += client.expect_data(1)
        while len(raw) >= 2 and len(raw) >= 2 + int.from_bytes(raw[:2], "big"):
            size = 2 + int.from_bytes(raw[:2], "big")
            messages.append(raw[2:size])
            raw = raw[size:]
    return messages


@case("RFC 1035 4.2.1")
def query_by_udp(net: Net) -> None:
    reply = ask(net, dns_query("example.test", 0x1111))
    check_answer(reply.data, 0x1111)
    if reply.src != DNS:
        raise CaseError(f"from {reply.src}")


@case("RFC 1035 4.2.1")
def unknown_name_by_udp(net: Net) -> None:
    reply = ask(net, dns_query("nowhere.test", 0x1112))
    if reply.data[3] & 15 != 3:
        raise CaseError(f"rcode {reply.data[3] & 15}")


@case("RFC 1035 4.2.1")
def truncated_answer_says_so(net: Net) -> None:
    reply = ask(net, dns_query("long.test", 0x1113, 16))
    if not reply.data[2] & 2 or len(reply.data) > 512:
        raise CaseError("no TC")


@case("RFC 6891")
def query_with_edns(net: Net) -> None:
    check_answer(ask(net, dns_query("example.test", 0x1114, edns=4096)).data, 0x1114)


@case("RFC 5625 6")
def several_queries_from_one_port(net: Net) -> None:
    sport = net.port
    for ident in range(5):
        net.send_udp(sport, 53, dns_query("example.test", ident), dst=DNS)
    got = {net.expect_udp(53, sport, 3).data[:2] for _ in range(5)}
    if got != {struct.pack("!H", ident) for ident in range(5)}:
        raise CaseError(f"{got}")


@case("RFC 5625 6")
def one_identifier_from_two_ports(net: Net) -> None:
    one, two = net.port, net.port
    net.send_udp(one, 53, dns_query("example.test", 7), dst=DNS)
    net.send_udp(two, 53, dns_query("nowhere.test", 7), dst=DNS)
    if net.expect_udp(53, one, 3).data[3] & 15 or net.expect_udp(53, two, 3).data[3] & 15 != 3:
        raise CaseError("mixed up")


@case("RFC 5625 6")
def the_same_query_again(net: Net) -> None:
    sport = net.port
    for _ in range(2):
        check_answer(ask(net, dns_query("example.test", 9), sport).data, 9)


@case("RFC 1035 4.2.1", seconds=1)
def garbage_does_no_harm(net: Net) -> None:
    for garbage in (b"", b"\0", b"x" * 11, b"\xff" * 12, b"\0" * 512, b"\xc0\x0c" * 300):
        net.send_udp(net.port, 53, garbage, dst=DNS)
    time.sleep(0.2)
    check_answer(ask(net, dns_query("example.test", 10)).data, 10)


@case("RFC 1122 3.2.2.1")
def other_ports_of_the_dns_address_are_closed(net: Net) -> None:
    net.send_udp(net.port, 54, b"x", dst=DNS)
    net.wire.expect(is_error, "ICMP error")


@case("RFC 7766 5")
def query_by_tcp(net: Net) -> None:
    client = connect(net)
    query = dns_query("example.test", 0x2221)
    client.send(ACK | PSH, struct.pack("!H", len(query)) + query)
    check_answer(read_messages(client, 1)[0], 0x2221)
    client.abort()


@case("RFC 7766 5")
def long_answer_by_tcp(net: Net) -> None:
    client = connect(net)
    query = dns_query("long.test", 0x2222, 16)
    client.send(ACK | PSH, struct.pack("!H", len(query)) + query)
    (answer,) = read_messages(client, 1)
    if LONG_TEXT[:200].encode() not in answer or len(answer) < 3000:
        raise CaseError(f"{len(answer)} octets")
    client.abort()


@case("RFC 7766 6.2.1.1")
def pipelined_queries_by_tcp(net: Net) -> None:
    client = connect(net)
    sent = b""
    for ident in range(5):
        query = dns_query("example.test", ident)
        sent += struct.pack("!H", len(query)) + query
    client.send(ACK | PSH, sent)
    got = {message[:2] for message in read_messages(client, 5)}
    if got != {struct.pack("!H", ident) for ident in range(5)}:
        raise CaseError(f"{got}")
    client.abort()


@case("RFC 7766 8")
def query_in_pieces_by_tcp(net: Net) -> None:
    client = connect(net)
    query = dns_query("example.test", 0x2223)
    for octet in struct.pack("!H", len(query)) + query:
        client.send(ACK | PSH, bytes([octet]))
    check_answer(read_messages(client, 1)[0], 0x2223)
    client.abort()


@case("RFC 7766 6.2.4")
def half_closed_query_by_tcp(net: Net) -> None:
    client = connect(net)
    query = dns_query("example.test", 0x2224)
    client.send(ACK | PSH | FIN, struct.pack("!H", len(query)) + query)
    check_answer(read_messages(client, 1)[0], 0x2224)
    client.abort()


@case("RFC 5452 9.2", seconds=1)
def many_queries_at_once(net: Net) -> None:
    ports = [(net.port, ident) for ident in range(200)]
    for sport, ident in ports:
        net.send_udp(sport, 53, dns_query("example.test", ident), dst=DNS)
    for sport, ident in ports:
        check_answer(net.expect_udp(53, sport, 3).data, ident)


@case("RFC 1035 4.2.1")
def checksum_of_the_query_counts(net: Net) -> None:
    from conformance.packets import UDP, udp

    sport = net.port
    net.send4(UDP, udp(GUEST, DNS, sport, 53, dns_query("example.test", 1), csum=0x1357), DNS)
    net.wire.silence(
        lambda p: p.proto == UDP and p.ports == (53, sport), "an answer to a wrong checksum"
    )
