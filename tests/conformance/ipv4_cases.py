"""IPv4: RFC 791, 1122 3.2.1, 1812 4.2, 5.2, 6864, 7126."""

from __future__ import annotations

import struct
from typing import Any

from conformance.net import (
    BROADCAST_ADDRESS,
    DNS,
    GATEWAY,
    GUEST,
    MAC,
    Net,
    is_echo_reply,
    is_error,
    is_icmp,
)
from conformance.packets import ICMP, TCP, UDP, Packet, echo, eth, ip4, tcp, udp
from conformance.suite import case
from conformance.wire import CaseError
from lab.topology import REMOTE, REMOTE_SECOND


def silent_ping(net: Net, why: str, dst: str = GATEWAY, **fields: Any) -> None:
    """Such an echo request gets no reply, and no error."""
    net.send4(ICMP, echo(0x77, 1), dst, **fields)
    net.wire.silence(lambda p: is_icmp(p, 0) or is_error(p), why)


def answered_ping(net: Net, dst: str = GATEWAY, **fields: Any) -> Packet:
    """Such an echo request gets its reply."""
    net.send4(ICMP, echo(0x78, 1), dst, **fields)
    return net.wire.expect(lambda p: is_echo_reply(p, 0x78), "echo reply")


@case("RFC 1122 3.2.1.2")
def wrong_header_checksum_is_dropped(net: Net) -> None:
    silent_ping(net, "an answer to a wrong header checksum", csum=0xBEEF)


@case("RFC 1122 3.2.1.1")
def wrong_version_is_dropped(net: Net) -> None:
    for version in (0, 5, 6, 15):
        net.wire.send(ip4(GUEST, GATEWAY, ICMP, echo(0x77, 1), version=version), kind=0x0800)
    net.wire.silence(lambda p: is_icmp(p, 0), "an answer to another version")


@case("RFC 791 3.1")
def header_length_below_five_is_dropped(net: Net) -> None:
    for words in (0, 1, 4):
        net.wire.send(ip4(GUEST, GATEWAY, ICMP, echo(0x77, 1), words=words))
    net.wire.silence(lambda p: is_icmp(p, 0) or is_error(p), "an answer to a short header")


@case("RFC 791 3.1")
def header_longer_than_the_datagram_is_dropped(net: Net) -> None:
    silent_ping(net, "an answer to a header that is longer than all", words=15)


@case("RFC 791 3.1")
def total_length_beyond_the_frame_is_dropped(net: Net) -> None:
    silent_ping(net, "an answer to a datagram that is cut short", total=1000)


@case("RFC 791 3.1")
def total_length_below_the_header_is_dropped(net: Net) -> None:
    for total in (0, 1, 19):
        silent_ping(net, "an answer to a total length below the header's", total=total)


@case("RFC 894")
def padding_behind_the_datagram_is_ignored(net: Net) -> None:
    datagram = ip4(GUEST, GATEWAY, ICMP, echo(0x78, 1, b"")) + b"\xaa" * 18
    net.wire.send(datagram)
    reply = net.wire.expect(lambda p: is_echo_reply(p, 0x78), "echo reply")
    if len(reply.l4) != 8:
        raise CaseError("padding came back")


@case("RFC 1812 5.3.1")
def ttl_one_is_told_on_the_way_out(net: Net) -> None:
    net.send4(UDP, udp(GUEST, REMOTE, 3333, 4444, b"x"), ttl=1)
    error = net.expect_icmp(11, 0)
    if error.src != GATEWAY or error.l4[8:28][12:16] != bytes([10, 0, 2, 100]):
        raise CaseError(f"{error}")
    if error.l4[28:30] != struct.pack("!H", 3333):
        raise CaseError("the error does not quote the datagram")


@case("RFC 1122 3.2.1.7")
def ttl_one_reaches_the_gateway_itself(net: Net) -> None:
    answered_ping(net, ttl=1)


@case("RFC 1812 5.3.1")
def ttl_one_of_tcp_is_told(net: Net) -> None:
    net.send4(TCP, tcp(GUEST, REMOTE, 3334, 80), ttl=1)
    net.expect_icmp(11, 0)


@case("RFC 1812 5.3.1")
def ttl_zero_is_dropped_or_told(net: Net) -> None:
    net.send4(ICMP, echo(0x77, 1), REMOTE, ttl=0)
    net.wire.silence(lambda p: is_icmp(p, 0), "an answer to TTL 0")


@case("RFC 791 3.1")
def record_route_passes(net: Net) -> None:
    answered_ping(net, options=b"\x07\x0b\x04" + bytes(8))


@case("RFC 791 3.1")
def time_stamp_option_passes(net: Net) -> None:
    answered_ping(net, options=b"\x44\x0c\x05\x00" + bytes(8))


@case("RFC 791 3.1")
def no_operation_and_end_pass(net: Net) -> None:
    answered_ping(net, options=b"\x01\x01\x01\x00")


@case("RFC 6398")
def router_alert_passes(net: Net) -> None:
    answered_ping(net, options=b"\x94\x04\x00\x00")


@case("RFC 7126 4.3, 4.4")
def source_routes_are_refused(net: Net) -> None:
    for kind in (0x83, 0x89):
        option = bytes([kind, 7, 4]) + bytes([198, 51, 100, 3])
        net.send4(UDP, udp(GUEST, GATEWAY, 3, 4), GATEWAY, options=option)
        net.send4(ICMP, echo(0x77, 1), GATEWAY, options=option)
    net.wire.silence(lambda p: is_icmp(p, 0), "a source route was followed")


@case("RFC 1122 3.2.1.8")
def options_that_do_not_fit_do_no_harm(net: Net) -> None:
    for options in (
        b"\x07\x00\x00\x00",
        b"\x07\x01\x00\x00",
        b"\x07\xff\x04\x00",
        b"\x01\x01\x01\x07",
    ):
        net.send4(ICMP, echo(0x77, 1), GATEWAY, options=options)
    net.wire.all(lambda p: is_icmp(p, 0) or is_error(p), 0.1)
    net.ping(GATEWAY)


@case("RFC 791 3.1")
def options_before_tcp_and_udp(net: Net) -> None:
    with net.listener() as listener, net.udp_server() as server:
        client = net.tcp(listener.getsockname()[1])
        segment = tcp(GUEST, REMOTE, client.sport, client.dport, seq=client.iss)
        net.send4(TCP, segment, options=b"\x01\x01\x01\x01")
        client.nxt += 1
        client.take_syn_ack()
        client.abort()
        net.send_udp(net.port, server.getsockname()[1], b"x", options=b"\x01" * 40)
        if server.recv(10) != b"x":
            raise CaseError("other text")


@case("RFC 3514")
def the_reserved_flag_is_ignored(net: Net) -> None:
    answered_ping(net, evil=True)


@case("RFC 1122 3.2.2.1")
def unknown_protocol_is_told(net: Net) -> None:
    net.send4(253, b"experiment", GATEWAY)
    error = net.expect_icmp(3, 2)
    if error.l4[8 + 9] != 253:
        raise CaseError("the error does not quote the datagram")


@case("RFC 1122 3.2.1.3")
def sources_that_nobody_has_are_dropped(net: Net) -> None:
    for source in (
        "127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", BROADCAST_ADDRESS,
        GATEWAY,
    ):  # fmt: skip
        net.send4(ICMP, echo(0x77, 1), GATEWAY, src=source)
        net.send4(UDP, udp(source, GATEWAY, 1, 9), GATEWAY, src=source)
        net.send4(TCP, tcp(source, GATEWAY, 1, 9), GATEWAY, src=source)
    net.wire.silence(lambda p: p.kind == 0x0800, "an answer to an impossible source")


@case("RFC 1122 3.2.1.3 (g)")
def loopback_does_not_leave_a_host(net: Net) -> None:
    with net.listener("host") as listener, net.udp_server("host") as server:
        for address in ("127.0.0.1", "127.1.2.3", "0.0.0.0"):
            net.tcp(listener.getsockname()[1], address).syn()
            net.send_udp(net.port, server.getsockname()[1], b"in", dst=address)
            net.send4(ICMP, echo(0x77, 1), address)
        server.settimeout(0.3)
        try:
            server.recv(10)
        except TimeoutError:
            net.wire.silence(
                lambda p: is_icmp(p, 0) or (p.proto == TCP and bool(p.flags & 2)), "a way in"
            )
            return
        raise CaseError("the host's loopback is open")


@case("RFC 1112 4")
def class_e_and_multicast_are_not_answered(net: Net) -> None:
    for address in ("240.0.0.1", "224.0.0.1", "239.255.255.250"):
        net.send4(ICMP, echo(0x77, 1), address)
    net.wire.silence(lambda p: is_icmp(p, 0), "an answer in the name of a group")


@case("RFC 1122 3.2.2")
def broadcasts_cause_no_errors(net: Net) -> None:
    for address in ("255.255.255.255", BROADCAST_ADDRESS, "10.0.2.0", "224.0.0.251"):
        net.send4(UDP, udp(GUEST, address, 99, 9999, b"x"), address)
        net.send4(253, b"x", address)
    net.wire.silence(is_error, "an error about a broadcast")


@case("RFC 1122 3.3.6")
def unicast_datagram_in_a_broadcast_frame_is_dropped(net: Net) -> None:
    net.wire.raw(eth(ip4(GUEST, GATEWAY, TCP, tcp(GUEST, GATEWAY, 5, 9)), b"\xff" * 6, MAC))
    net.wire.silence(lambda p: p.proto == TCP, "an answer to a datagram in a broadcast frame")


@case("RFC 826")
def a_frame_for_another_station_is_not_ours(net: Net) -> None:
    other = bytes.fromhex("020000c0ff02")
    net.wire.raw(eth(ip4(GUEST, GATEWAY, ICMP, echo(0x77, 1)), other, MAC))
    net.wire.silence(lambda p: is_icmp(p, 0), "an answer to a frame for another station")


@case("RFC 1812 4.2.2.7")
def other_address_of_the_subnet_works(net: Net) -> None:
    """A guest may take any free address; the answers follow it."""
    net.wire.guest = "10.0.2.77"
    try:
        net.send4(ICMP, echo(0x79, 1), GATEWAY, src="10.0.2.77")
        reply = net.wire.expect(lambda p: is_echo_reply(p, 0x79), "echo reply")
        if reply.dst != "10.0.2.77":
            raise CaseError(f"{reply}")
        with net.udp_server() as server:
            net.send_udp(5000, server.getsockname()[1], b"x", src="10.0.2.77")
            _, peer = server.recvfrom(10)
            server.sendto(b"y", peer)
            if net.expect_udp(server.getsockname()[1], 5000).dst != "10.0.2.77":
                raise CaseError("the reply went to another address")
    finally:
        net.wire.guest = GUEST


@case("RFC 1812 4.3.2.7")
def a_stranger_in_the_subnet_is_not_impersonated(net: Net) -> None:
    net.send4(ICMP, echo(0x77, 1), "10.0.2.55")
    client = net.tcp(80, "10.0.2.55")
    client.syn()
    net.wire.silence(lambda p: is_icmp(p, 0) or p.src == "10.0.2.55", "an answer of a stranger")


@case("RFC 6864 4.1")
def replies_are_sound(net: Net) -> None:
    for dst in (GATEWAY, DNS, REMOTE, REMOTE_SECOND):
        if net.ping(dst).ttl < 2:
            raise CaseError("TTL")


@case("RFC 1122 3.3.3")
def datagrams_keep_to_the_mtu(net: Net) -> None:
    with net.udp_server() as server:
        sport, dport = net.port, server.getsockname()[1]
        net.send_udp(sport, dport, b"x")
        _, peer = server.recvfrom(10)
        server.sendto(b"l" * 4000, peer)
        pieces = [
            net.wire.expect(lambda p: p.proto == UDP and p.src == REMOTE, "a piece")
            for _ in range(3)
        ]
        if any(len(piece.l3) > 1500 for piece in pieces):
            raise CaseError("a datagram above the MTU")
        if sum(len(piece.l4) for piece in pieces) != 4008:
            raise CaseError("pieces do not add up")


@case("RFC 791")
def truncated_headers_do_no_harm(net: Net) -> None:
    whole = ip4(GUEST, GATEWAY, ICMP, echo(0x77, 1))
    for size in range(20):
        net.wire.send(whole[:size], kind=0x0800)
    net.wire.silence(lambda p: is_icmp(p, 0) or is_error(p), "an answer to part of a header", 0.1)
    net.ping(GATEWAY)
