"""ICMP: RFC 792, 1122 3.2.2, 1812 4.3."""

from __future__ import annotations

import os
import struct

from conformance.net import DNS, GATEWAY, GUEST, Net, is_echo_reply, is_error, is_icmp
from conformance.packets import ICMP, UDP, Packet, echo, icmp, ip4, udp
from conformance.suite import case
from conformance.wire import CaseError
from lab.topology import REMOTE, UNREACHABLE_AT_HOST, UNREACHABLE_AT_REMOTE


def expect_reply(net: Net, ident: int) -> Packet:
    return net.wire.expect(lambda p: is_echo_reply(p, ident), "echo reply")


@case("RFC 1122 3.2.2.6")
def echo_of_the_gateway(net: Net) -> None:
    net.ping(GATEWAY)


@case("RFC 1122 3.2.2.6")
def echo_of_the_dns_address(net: Net) -> None:
    net.ping(DNS)


@case("RFC 1122 3.2.2.6")
def echo_of_the_world(net: Net) -> None:
    net.ping(REMOTE)


@case("RFC 792")
def echo_brings_everything_back(net: Net) -> None:
    for address in (GATEWAY, REMOTE):
        for size in (0, 1, 17, 1000, 1472):
            data = os.urandom(size)
            reply = net.ping(address, data)
            if reply.l4[8:] != data or reply.l4[1] != 0:
                raise CaseError(f"{size} octets of {address}")


@case("RFC 792")
def echo_keeps_number_and_identifier(net: Net) -> None:
    for address in (GATEWAY, REMOTE):
        for ident, number in ((0, 0), (1, 65535), (65535, 1), (0x1234, 0x5678)):
            net.send4(ICMP, echo(ident, number), address)
            reply = expect_reply(net, ident)
            if reply.l4[6:8] != struct.pack("!H", number):
                raise CaseError("sequence number")


@case("RFC 792")
def echoes_of_two_identifiers_are_told_apart(net: Net) -> None:
    for ident in (1, 2):
        net.send4(ICMP, echo(ident, 9, bytes([ident])), REMOTE)
    for ident in (2, 1):
        reply = expect_reply(net, ident)
        if reply.l4[8:] != bytes([ident]):
            raise CaseError("mixed up")


@case("RFC 1122 3.2.2.6")
def echo_with_wrong_checksum_is_dropped(net: Net) -> None:
    for address in (GATEWAY, REMOTE):
        net.send4(ICMP, icmp(8, 0, b"\0\x66\0\1", b"data", csum=0x1111), address)
    net.wire.silence(lambda p: is_icmp(p, 0), "an answer to a wrong checksum")


@case("RFC 792")
def truncated_messages_are_dropped(net: Net) -> None:
    whole = echo(0x66, 1)
    for size in range(8):
        net.send4(ICMP, whole[:size], GATEWAY)
    net.wire.silence(lambda p: is_icmp(p, 0) or is_error(p), "an answer to part of a message")


@case("RFC 1122 3.2.2")
def unknown_types_are_dropped(net: Net) -> None:
    for kind in (1, 2, 7, 41, 44, 255):
        net.send4(ICMP, icmp(kind, 0, bytes(4), b"data"), GATEWAY)
    net.wire.silence(lambda p: p.proto == ICMP, "an answer to a type that does not exist")


@case("RFC 1122 3.2.2")
def no_error_about_an_error(net: Net) -> None:
    quote = ip4(GATEWAY, GUEST, UDP, udp(GATEWAY, GUEST, 1, 2))
    for kind in (3, 4, 5, 11, 12):
        net.send4(ICMP, icmp(kind, 0, bytes(4), quote), REMOTE, ttl=1)
        net.send4(ICMP, icmp(kind, 0, bytes(4), quote), GATEWAY)
    net.wire.silence(is_error, "an error about an error")


@case("RFC 792")
def echo_replies_are_not_answered(net: Net) -> None:
    net.send4(ICMP, icmp(0, 0, b"\0\1\0\1", b"data"), GATEWAY)
    net.wire.silence(lambda p: p.proto == ICMP, "an answer to a reply")


@case("RFC 1122 3.2.2.6")
def echo_with_another_code_is_answered_or_dropped(net: Net) -> None:
    net.send4(ICMP, icmp(8, 5, b"\0\x67\0\1", b"data"), GATEWAY)
    net.wire.silence(is_error, "an error about an echo")
    net.ping(GATEWAY)


@case("RFC 1812 4.3.3.6")
def echo_of_the_broadcast_does_no_harm(net: Net) -> None:
    net.send4(ICMP, echo(0x68, 1), "10.0.2.255")
    net.wire.silence(is_error, "an error about a broadcast")


@case("RFC 1122 3.2.2.1")
def closed_udp_port_of_the_gateway_is_told(net: Net) -> None:
    net.send_udp(3001, 9, b"anybody?", dst=GATEWAY)
    error = net.expect_icmp(3, 3)
    if error.src != GATEWAY:
        raise CaseError(f"from {error.src}")
    if error.l4[8 + 20 : 8 + 24] != struct.pack("!HH", 3001, 9):
        raise CaseError("the error does not quote the datagram's ports")


@case("RFC 1122 3.2.2.1")
def closed_udp_port_of_the_world_is_told(net: Net) -> None:
    net.send_udp(3002, 9, b"anybody?")
    error = net.expect_icmp(3, 3)
    if error.src != REMOTE:
        raise CaseError(f"from {error.src}")
    if error.l4[8 + 12 : 8 + 20] != bytes([10, 0, 2, 100, 198, 51, 100, 2]):
        raise CaseError("the error does not quote the guest's own addresses")
    if error.l4[8 + 20 : 8 + 24] != struct.pack("!HH", 3002, 9):
        raise CaseError("the error does not quote the datagram's ports")


@case("RFC 1812 4.3.2.3")
def errors_quote_at_least_eight_octets(net: Net) -> None:
    net.send_udp(3003, 9, b"q" * 100)
    error = net.expect_icmp(3, 3)
    if not 8 + 28 <= len(error.l4) <= 576 - 20:
        raise CaseError(f"{len(error.l4)} octets")


@case("RFC 1812 5.2.7.1")
def unreachable_hosts_are_told(net: Net) -> None:
    for address in (UNREACHABLE_AT_HOST, UNREACHABLE_AT_REMOTE):
        net.send_udp(net.port, 9, b"x", dst=address)
        error = net.expect_icmp(3)
        if error.l4[1] not in (0, 1):
            raise CaseError(f"code {error.l4[1]}")


@case("RFC 1812 5.2.7.1")
def echo_to_an_unreachable_host_is_told(net: Net) -> None:
    net.send4(ICMP, echo(0x69, 1), UNREACHABLE_AT_REMOTE)
    error = net.expect_icmp(3)
    if error.l4[8 + 20] != 8 or error.l4[8 + 24 : 8 + 26] != b"\0\x69":
        raise CaseError("the error does not quote the echo")


@case("RFC 1393")
def traceroute_sees_the_gateway_first(net: Net) -> None:
    net.send4(ICMP, echo(0x6A, 1), REMOTE, ttl=1)
    if net.expect_icmp(11, 0).src != GATEWAY:
        raise CaseError("the first hop is not the gateway")
    net.send4(ICMP, echo(0x6A, 2), REMOTE, ttl=8)
    net.wire.expect(lambda p: is_echo_reply(p, 0x6A), "echo reply")


@case("RFC 1812 4.3.2.8", seconds=1)
def errors_are_bounded(net: Net) -> None:
    for number in range(3000):
        datagram = udp(GUEST, REMOTE, 4000 + number % 3, 9, b"x")
        net.wire.socket.send(
            net.wire.gateway_mac + net.wire.mac + b"\x08\x00"
            + ip4(GUEST, REMOTE, UDP, datagram, ttl=1)
        )  # fmt: skip
    got = len(net.wire.all(is_error, 0.4))
    net.ping(GATEWAY)
    if got == 0:
        raise CaseError("no error at all")


@case("RFC 792")
def large_echo_of_the_gateway(net: Net) -> None:
    net.ping(GATEWAY, os.urandom(1472))
