"""DHCP: RFC 2131, 2132."""

from __future__ import annotations

import socket
import struct

from conformance.net import DNS, GATEWAY, MAC, Net
from conformance.packets import BROADCAST, UDP, Packet, eth, ip4, udp
from conformance.suite import case
from conformance.wire import CaseError

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
COOKIE = bytes.fromhex("63825363")
OTHER = bytes.fromhex("020000c0ff07")


def option(kind: int, data: bytes) -> bytes:
    return bytes([kind, len(data)]) + data


def message(
    kind: int | None, xid: int, options: bytes = b"", *, mac: bytes = MAC, ciaddr: str = "0.0.0.0",
    flags: int = 0x8000, op: int = 1, cookie: bytes = COOKIE, hlen: int = 6, htype: int = 1,
) -> bytes:  # fmt: skip
    head = struct.pack("!BBBBIHH", op, htype, hlen, 0, xid, 0, flags)
    head += socket.inet_aton(ciaddr) + bytes(12) + mac.ljust(16, b"\0") + bytes(192) + cookie
    body = option(53, bytes([kind])) if kind is not None else b""
    return head + body + options + b"\xff"


def send(net: Net, payload: bytes, mac: bytes = MAC) -> None:
    """By broadcast, from who has no address."""
    if net.peer == "kernel":
        net.only("pyslirp", "slirp4netns")
    datagram = ip4("0.0.0.0", "255.255.255.255", UDP,
                   udp("0.0.0.0", "255.255.255.255", 68, 67, payload))  # fmt: skip
    net.wire.raw(eth(datagram, BROADCAST, mac))


def is_dhcp(packet: Packet) -> bool:
    return packet.proto == UDP and packet.ports == (67, 68)


def options_of(packet: Packet) -> dict[int, bytes]:
    raw, found, at = packet.data[240:], {}, 0
    while at < len(raw) and raw[at] != 255:
        if raw[at] == 0:
            at += 1
            continue
        found[raw[at]] = raw[at + 2 : at + 2 + raw[at + 1]]
        at += 2 + raw[at + 1]
    if at >= len(raw):
        raise CaseError("no end option")
    return found


def expect(net: Net, kind: int, xid: int) -> tuple[Packet, dict[int, bytes]]:
    packet = net.wire.expect(
        lambda p: is_dhcp(p) and p.data[4:8] == struct.pack("!I", xid), f"DHCP answer {kind}"
    )
    options = options_of(packet)
    if packet.data[0] != 2 or packet.data[236:240] != COOKIE:
        raise CaseError("op or cookie")
    if options.get(53) != bytes([kind]):
        raise CaseError(f"message type {options.get(53)!r}, not {kind}")
    if packet.src != GATEWAY or options.get(54) != socket.inet_aton(GATEWAY):
        raise CaseError("server identifier")
    return packet, options


def yours(packet: Packet) -> str:
    return socket.inet_ntoa(packet.data[16:20])


def lease(net: Net, xid: int, mac: bytes = MAC) -> str:
    send(net, message(DISCOVER, xid, mac=mac), mac)
    address = yours(expect(net, OFFER, xid)[0])
    wanted = option(50, socket.inet_aton(address)) + option(54, socket.inet_aton(GATEWAY))
    send(net, message(REQUEST, xid + 1, wanted, mac=mac), mac)
    if yours(expect(net, ACK, xid + 1)[0]) != address:
        raise CaseError("another address than was offered")
    return address


@case("RFC 2131 4.3.1")
def discover_gets_an_offer(net: Net) -> None:
    send(net, message(DISCOVER, 0x11))
    packet, options = expect(net, OFFER, 0x11)
    last = int(yours(packet).rpartition(".")[2])
    if not yours(packet).startswith("10.0.2.") or not 15 <= last <= 30:
        raise CaseError(f"offers {yours(packet)}")
    if packet.data[28:34] != MAC:
        raise CaseError("chaddr")
    for kind, wanted in ((1, "255.255.255.0"), (3, GATEWAY), (6, DNS)):
        if options.get(kind) != socket.inet_aton(wanted):
            raise CaseError(f"option {kind}: {options.get(kind)!r}")
    if int.from_bytes(options.get(51, b""), "big") < 60:
        raise CaseError("no lease time")


@case("RFC 2131 4.3.2")
def request_gets_an_ack(net: Net) -> None:
    lease(net, 0x21)


@case("RFC 2131 4.3.2")
def init_reboot_is_acknowledged(net: Net) -> None:
    address = lease(net, 0x31)
    send(net, message(REQUEST, 0x33, option(50, socket.inet_aton(address))))
    if yours(expect(net, ACK, 0x33)[0]) != address:
        raise CaseError("another address")


@case("RFC 2131 4.3.2")
def a_wrong_address_is_refused(net: Net) -> None:
    send(net, message(REQUEST, 0x41, option(50, socket.inet_aton("192.168.1.9"))))
    expect(net, NAK, 0x41)


@case("RFC 2131 4.3.2")
def a_request_of_another_server_is_ignored(net: Net) -> None:
    wanted = option(50, socket.inet_aton("10.0.2.15")) + option(54, socket.inet_aton("10.0.2.9"))
    send(net, message(REQUEST, 0x51, wanted))
    net.wire.silence(is_dhcp, "an answer in another server's place")


@case("RFC 2131 4.3.2")
def renewal_by_unicast(net: Net) -> None:
    address = lease(net, 0x61)
    payload = message(REQUEST, 0x63, ciaddr=address, flags=0)
    net.wire.guest = address
    try:
        net.send4(UDP, udp(address, GATEWAY, 68, 67, payload), GATEWAY, src=address)
        packet, _ = expect(net, ACK, 0x63)
        if yours(packet) != address or packet.dst != address:
            raise CaseError(f"{yours(packet)} to {packet.dst}")
    finally:
        net.wire.guest = "10.0.2.100"


@case("RFC 2131 4.3.5")
def inform_gets_settings_without_a_lease(net: Net) -> None:
    send(net, message(INFORM, 0x71, ciaddr="10.0.2.100"))
    packet, options = expect(net, ACK, 0x71)
    if yours(packet) != "0.0.0.0" or 51 in options:
        raise CaseError("an address or a lease")
    if options.get(6) != socket.inet_aton(DNS):
        raise CaseError("no name server")


@case("RFC 2131 4.3.4")
def release_is_not_answered(net: Net) -> None:
    address = lease(net, 0x81)
    server = option(54, socket.inet_aton(GATEWAY))
    send(net, message(RELEASE, 0x83, server, ciaddr=address))
    net.wire.silence(is_dhcp, "an answer to a release")
    lease(net, 0x85)


@case("RFC 2131 4.3.3")
def a_declined_address_is_not_offered_again(net: Net) -> None:
    address = lease(net, 0x91)
    declined = option(50, socket.inet_aton(address)) + option(54, socket.inet_aton(GATEWAY))
    send(net, message(DECLINE, 0x93, declined))
    net.wire.silence(is_dhcp, "an answer to a decline", 0.1)
    if lease(net, 0x95) == address:
        raise CaseError("the declined address again")


@case("RFC 2131 4.3.1")
def the_same_client_gets_the_same_address(net: Net) -> None:
    if lease(net, 0xA1) != lease(net, 0xA5):
        raise CaseError("another address")


@case("RFC 2131 4.3.1")
def two_clients_get_two_addresses(net: Net) -> None:
    if lease(net, 0xB1) == lease(net, 0xB5, OTHER):
        raise CaseError("one address for two")


@case("RFC 2131 4.1")
def broadcast_flag_gets_a_broadcast(net: Net) -> None:
    send(net, message(DISCOVER, 0xC1, flags=0x8000))
    packet, _ = expect(net, OFFER, 0xC1)
    if packet.dst != "255.255.255.255" or packet.frame[:6] not in (BROADCAST, MAC):
        raise CaseError(f"to {packet.dst}")


@case("RFC 2131 4.1")
def without_the_flag_the_client_gets_it(net: Net) -> None:
    send(net, message(DISCOVER, 0xD1, flags=0))
    packet, _ = expect(net, OFFER, 0xD1)
    if packet.frame[:6] not in (BROADCAST, MAC):
        raise CaseError("to another station")
    if packet.dst not in ("255.255.255.255", yours(packet)):
        raise CaseError(f"to {packet.dst}")


@case("RFC 2132 9.8")
def parameters_asked_for_are_given(net: Net) -> None:
    send(net, message(DISCOVER, 0xE1, option(55, bytes([1, 3, 6, 15, 26, 51, 119]))))
    _, options = expect(net, OFFER, 0xE1)
    if not {1, 3, 6, 51} <= set(options):
        raise CaseError(f"{sorted(options)}")


@case("RFC 2132 5.1")
def the_mtu_is_told(net: Net) -> None:
    """Where it is asked for, and is not the ordinary one it must be: 1500 here."""
    send(net, message(DISCOVER, 0xE3, option(55, bytes([26]))))
    _, options = expect(net, OFFER, 0xE3)
    if options.get(26, b"\x05\xdc") != struct.pack("!H", 1500):
        raise CaseError(f"{options[26]!r}")


@case("RFC 2131 2")
def malformed_messages_are_dropped(net: Net) -> None:
    good = message(DISCOVER, 0xF1)
    for bad in (
        b"", good[:10], good[:235], good[:239], message(DISCOVER, 0xF1, op=2),
        message(DISCOVER, 0xF1, cookie=bytes(4)), message(DISCOVER, 0xF1, hlen=0),
        message(DISCOVER, 0xF1, hlen=255), message(None, 0xF1), message(0, 0xF1),
        message(99, 0xF1), good[:240] + b"\x35\xff\x01", good[:240] + b"\x35",
        good[:240] + b"\x35\x00\xff", message(OFFER, 0xF1), message(ACK, 0xF1), message(NAK, 0xF1),
    ):  # fmt: skip
        send(net, bad)
    net.wire.silence(is_dhcp, "an answer to a message that is none")
    lease(net, 0xF5)


@case("RFC 2132 9.14")
def a_client_identifier_is_no_hindrance(net: Net) -> None:
    send(net, message(DISCOVER, 0x101, option(61, b"\x01" + MAC)))
    expect(net, OFFER, 0x101)


@case("RFC 3396")
def overload_and_padding_do_no_harm(net: Net) -> None:
    send(net, message(DISCOVER, 0x111, b"\0" * 60 + option(52, b"\x03") + b"\0" * 100))
    expect(net, OFFER, 0x111)


@case("RFC 2131 4.3.1", seconds=1)
def a_pool_that_is_empty_does_no_harm(net: Net) -> None:
    for number in range(40):
        mac = b"\x02\x22" + number.to_bytes(4, "big")
        send(net, message(DISCOVER, 0x200 + number, mac=mac), mac)
    offers = net.wire.all(is_dhcp, 0.3)
    if not 1 <= len(offers) <= 40:
        raise CaseError(f"{len(offers)} offers")
    net.ping(GATEWAY)
