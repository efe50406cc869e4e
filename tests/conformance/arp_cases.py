"""ARP: RFC 826, RFC 5227, RFC 1122 2.3.2."""

from __future__ import annotations

import struct

from conformance.net import DNS, GATEWAY, GUEST, MAC, Net
from conformance.packets import BROADCAST, ETH_ARP, ETH_IP, Packet, arp, eth
from conformance.suite import case
from conformance.wire import CaseError

OTHER = bytes.fromhex("020000c0ff01")


def ask(net: Net, frame: bytes, dst: bytes = BROADCAST, src: bytes = MAC) -> None:
    net.wire.raw(eth(frame, dst, src, ETH_ARP))


def is_arp(packet: Packet) -> bool:
    return packet.kind == ETH_ARP and packet.l3[6:8] == b"\0\2"


def expect_reply(net: Net, address: str, asker: bytes = MAC) -> Packet:
    reply = net.wire.expect(net.is_arp_reply(address), f"ARP reply for {address}")
    if reply.frame[:6] != asker or reply.l3[18:24] != asker:
        raise CaseError("the reply is not to the one who asked")
    if reply.l3[8:14] != reply.frame[6:12] or reply.l3[8] & 1:
        raise CaseError("the sender's address differs from the frame's")
    return reply


@case("RFC 826")
def arp_gateway(net: Net) -> None:
    ask(net, arp(MAC, GUEST, GATEWAY))
    reply = expect_reply(net, GATEWAY)
    if reply.l3[:8] != struct.pack("!HHBBH", 1, ETH_IP, 6, 4, 2):
        raise CaseError("the reply's header")


@case("RFC 826")
def arp_dns(net: Net) -> None:
    ask(net, arp(MAC, GUEST, DNS))
    expect_reply(net, DNS)


@case("RFC 826")
def arp_reply_names_the_askers_address(net: Net) -> None:
    ask(net, arp(MAC, "10.0.2.77", GATEWAY))
    reply = expect_reply(net, GATEWAY)
    if reply.l3[24:28] != bytes([10, 0, 2, 77]):
        raise CaseError("target protocol address")


@case("RFC 1122 2.3.2.1")
def arp_unicast_poll(net: Net) -> None:
    ask(net, arp(MAC, GUEST, GATEWAY), net.wire.gateway_mac)
    expect_reply(net, GATEWAY)


@case("RFC 826")
def arp_padded_to_sixty(net: Net) -> None:
    ask(net, arp(MAC, GUEST, GATEWAY) + bytes(18))
    expect_reply(net, GATEWAY)


@case("RFC 5227 2.1.1")
def arp_probe_of_own_address_unanswered(net: Net) -> None:
    ask(net, arp(MAC, "0.0.0.0", GUEST))
    net.wire.silence(is_arp, "an answer to the probe of a free address")


@case("RFC 5227 2.1.1")
def arp_probe_of_gateway_is_answered(net: Net) -> None:
    ask(net, arp(MAC, "0.0.0.0", GATEWAY))
    expect_reply(net, GATEWAY)


@case("RFC 5227 2.3")
def arp_announcement_unanswered(net: Net) -> None:
    ask(net, arp(MAC, GUEST, GUEST))
    net.wire.silence(is_arp, "an answer to an announcement")
    net.ping(GATEWAY)


@case("RFC 826")
def arp_for_a_stranger_in_the_subnet_unanswered(net: Net) -> None:
    ask(net, arp(MAC, GUEST, "10.0.2.55"))
    net.wire.silence(is_arp, "an answer for an address that is nobody's")


@case("RFC 826")
def arp_for_broadcast_unanswered(net: Net) -> None:
    ask(net, arp(MAC, GUEST, "10.0.2.255"))
    net.wire.silence(is_arp, "an answer for the broadcast address")


@case("RFC 826")
def arp_for_outside_unanswered(net: Net) -> None:
    ask(net, arp(MAC, GUEST, "8.8.8.8"))
    net.wire.silence(is_arp, "proxy ARP that nobody asked for")


@case("RFC 826")
def arp_wrong_hardware_type(net: Net) -> None:
    ask(net, arp(MAC, GUEST, GATEWAY, hardware=15))
    net.wire.silence(is_arp, "an answer to another hardware type")


@case("RFC 826")
def arp_wrong_protocol(net: Net) -> None:
    ask(net, arp(MAC, GUEST, GATEWAY, protocol=0x86DD))
    net.wire.silence(is_arp, "an answer to another protocol")


@case("RFC 826")
def arp_wrong_sizes(net: Net) -> None:
    ask(net, arp(MAC, GUEST, GATEWAY, sizes=(8, 4)))
    ask(net, arp(MAC, GUEST, GATEWAY, sizes=(6, 16)))
    net.wire.silence(is_arp, "an answer to wrong address lengths")


@case("RFC 826")
def arp_truncated(net: Net) -> None:
    for size in (0, 1, 8, 14, 27):
        ask(net, arp(MAC, GUEST, GATEWAY)[:size])
    net.wire.silence(is_arp, "an answer to part of a request")


@case("RFC 826")
def arp_unknown_operation(net: Net) -> None:
    for operation in (0, 3, 8, 65535):
        ask(net, arp(MAC, GUEST, GATEWAY, operation=operation))
    net.wire.silence(is_arp, "an answer to an operation that does not exist")


@case("RFC 826")
def arp_reply_is_not_answered(net: Net) -> None:
    ask(net, arp(MAC, GUEST, GATEWAY, operation=2, target_mac=net.wire.gateway_mac))
    net.wire.silence(is_arp, "an answer to an answer")


@case("RFC 5227 2.4")
def arp_gateway_address_cannot_be_stolen(net: Net) -> None:
    ask(net, arp(OTHER, GATEWAY, GATEWAY), src=OTHER)
    ask(net, arp(OTHER, GATEWAY, GUEST, operation=2), net.wire.gateway_mac, OTHER)
    net.wire.all(is_arp, 0.05)
    ask(net, arp(MAC, GUEST, GATEWAY))
    if expect_reply(net, GATEWAY).l3[8:14] != net.wire.gateway_mac:
        raise CaseError("the gateway's hardware address changed")
    net.ping(GATEWAY)


@case("RFC 826")
def arp_request_for_other_station_ignored(net: Net) -> None:
    ask(net, arp(MAC, GUEST, GATEWAY), OTHER)
    net.wire.silence(is_arp, "an answer to a frame for another station")


@case("RFC 826")
def arp_new_hardware_address_is_learned(net: Net) -> None:
    """A guest whose station address changed says so, and replies follow."""
    ask(net, arp(OTHER, GUEST, GATEWAY), src=OTHER)
    expect_reply(net, GATEWAY, OTHER)
    ask(net, arp(MAC, GUEST, GATEWAY))
    expect_reply(net, GATEWAY)
    if net.ping(GATEWAY).frame[:6] != MAC:
        raise CaseError("the reply went to the old address")


@case("RFC 826")
def arp_flood_of_strangers_harms_nobody(net: Net) -> None:
    for number in range(2000):
        mac = b"\x02\x11" + number.to_bytes(4, "big")
        sender = f"10.0.2.{4 + number % 90}"
        net.wire.socket.send(eth(arp(mac, sender, GATEWAY), BROADCAST, mac, ETH_ARP))
    net.wire.all(is_arp, 0.3)
    ask(net, arp(MAC, GUEST, GATEWAY))
    expect_reply(net, GATEWAY)
    net.ping(GATEWAY)


@case("RFC 894")
def frame_of_unknown_type(net: Net) -> None:
    net.wire.raw(eth(bytes(64), net.wire.gateway_mac, MAC, 0x1234))
    net.wire.raw(eth(bytes(64), net.wire.gateway_mac, MAC, 0x0040))
    net.wire.raw(eth(b"", net.wire.gateway_mac, MAC, 0x8100))
    net.ping(GATEWAY)
