"""IPv6: RFC 8200, 4291, 4443, 4861, 4862, 8106, 8415, and TCP and UDP above it."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

from conformance.endpoint import Tcp, mss
from conformance.net import DNS6, GATEWAY, GATEWAY6, GUEST6, MAC, Net
from conformance.packets import (
    ETH_IP6,
    FRAGMENT,
    ICMP6,
    RST,
    TCP,
    UDP,
    Packet,
    dns_query,
    eth,
    icmp6,
    ip6,
    packed,
    tcp,
    udp,
)  # fmt: skip
from conformance.suite import case
from conformance.wire import CaseError
from lab.topology import REMOTE6

LINK_LOCAL = "fe80::c0ff:eeff:fe00:1"
ALL_ROUTERS, ALL_NODES = "ff02::2", "ff02::1"
HOP_BY_HOP, ROUTING, DEST_OPTIONS, NO_NEXT = 0, 43, 60, 59


def group_mac(address: str) -> bytes:
    return b"\x33\x33" + packed(address)[-4:]


def solicited_node(address: str) -> str:
    raw = packed("ff02::1:ff00:0")[:13] + packed(address)[13:]
    return socket.inet_ntop(socket.AF_INET6, raw)


def is_icmp6(packet: Packet, kind: int) -> bool:
    return packet.kind == ETH_IP6 and packet.proto == ICMP6 and packet.l4[0] == kind


def is_error6(packet: Packet) -> bool:
    return packet.kind == ETH_IP6 and packet.proto == ICMP6 and packet.l4[0] < 128


def solicit(
    net: Net, target: str, *, src: str = GUEST6, hops: int = 255, csum: int | None = None,
    unicast: bool = False, options: bytes | None = None, code: int = 0,
) -> None:  # fmt: skip
    """A neighbour solicitation."""
    dst = target if unicast else solicited_node(target)
    if options is None:
        options = b"" if src == "::" else b"\x01\x01" + MAC
    body = bytes(4) + packed(target) + options
    message = icmp6(src, dst, 135, code, body, csum)
    mac = net.wire.gateway_mac if unicast else group_mac(dst)
    net.wire.send(ip6(src, dst, ICMP6, message, hops=hops), mac)


def expect_advert(net: Net, target: str) -> Packet:
    packet = net.wire.expect(
        lambda p: is_icmp6(p, 136) and p.l4[8:24] == packed(target), "neighbour advertisement"
    )
    if packet.ttl != 255:
        raise CaseError("hop limit")
    return packet


def is_advert(packet: Packet) -> bool:
    return is_icmp6(packet, 136)


def echo6(net: Net, dst: str, data: bytes = b"ping", ident: int = 0x77, **fields: int) -> None:
    message = icmp6(GUEST6, dst, 128, 0, struct.pack("!HH", ident, 1) + data)
    net.wire.send(ip6(GUEST6, dst, ICMP6, message, **fields))


def expect_echo6(net: Net, dst: str, ident: int = 0x77) -> Packet:
    return net.wire.expect(
        lambda p: is_icmp6(p, 129) and p.l4[4:6] == struct.pack("!H", ident) and p.src == dst,
        f"echo reply of {dst}",
    )


def send_udp6(net: Net, sport: int, dport: int, data: bytes, dst: str = REMOTE6) -> None:
    net.wire.send(ip6(GUEST6, dst, UDP, udp(GUEST6, dst, sport, dport, data)))


@contextlib.contextmanager
def udp6_server(net: Net) -> Iterator[socket.socket]:
    server = net.bed.remote.new_socket(socket.SOCK_DGRAM, socket.AF_INET6)
    with server:
        server.bind((REMOTE6, 0))
        server.settimeout(1.5)
        yield server


@contextlib.contextmanager
def connected6(net: Net) -> Iterator[tuple[Tcp, socket.socket]]:
    listener = net.bed.remote.new_socket(socket.SOCK_STREAM, socket.AF_INET6)
    with listener:
        listener.bind((REMOTE6, 0))
        listener.listen()
        listener.settimeout(3)
        client = Tcp(net.wire, GUEST6, REMOTE6, net.port, listener.getsockname()[1])
        client.open(mss(1440))
        server, _ = listener.accept()
        with server:
            server.settimeout(3)
            yield client, server
        client.abort()


# Neighbours


@case("RFC 4861 7.2.4")
def neighbour_gateway(net: Net) -> None:
    solicit(net, GATEWAY6)
    packet = expect_advert(net, GATEWAY6)
    flags = packet.l4[4]
    if not flags & 0x40 or packet.dst != GUEST6:
        raise CaseError("not solicited, or to another")
    if packet.l4[24:26] != b"\x02\x01" or packet.l4[26:32] != packet.frame[6:12]:
        raise CaseError("target link-layer address")


@case("RFC 4861 7.2.4")
def neighbour_dns(net: Net) -> None:
    solicit(net, DNS6)
    expect_advert(net, DNS6)


@case("RFC 4861 7.3.3")
def neighbour_unicast_probe(net: Net) -> None:
    solicit(net, GATEWAY6, unicast=True)
    expect_advert(net, GATEWAY6)


@case("RFC 4862 5.4")
def duplicate_detection_of_own_address_unanswered(net: Net) -> None:
    for address in (GUEST6, "fd00::1234:5678", LINK_LOCAL):
        solicit(net, address, src="::")
    net.wire.silence(is_advert, "an answer for a free address")


@case("RFC 4862 5.4.3")
def duplicate_detection_of_the_gateway_is_answered(net: Net) -> None:
    solicit(net, GATEWAY6, src="::")
    packet = expect_advert(net, GATEWAY6)
    if packet.dst != ALL_NODES or packet.l4[4] & 0x40:
        raise CaseError(f"to {packet.dst}, flags {packet.l4[4]:#x}")


@case("RFC 4861 7.1.1")
def solicitation_from_afar_is_dropped(net: Net) -> None:
    solicit(net, GATEWAY6, hops=254)
    net.wire.silence(is_advert, "an answer to hop limit 254")


@case("RFC 4861 7.1.1")
def malformed_solicitations_are_dropped(net: Net) -> None:
    solicit(net, GATEWAY6, csum=0x1234)
    solicit(net, GATEWAY6, code=1)
    solicit(net, GATEWAY6, options=b"\x01\x00" + MAC)
    solicit(net, GATEWAY6, options=b"\x01\x09" + MAC)
    solicit(net, GATEWAY6, src="::", options=b"\x01\x01" + MAC)
    short = icmp6(GUEST6, GATEWAY6, 135, 0, bytes(4) + packed(GATEWAY6)[:8])
    net.wire.send(ip6(GUEST6, GATEWAY6, ICMP6, short, hops=255))
    net.wire.silence(is_advert, "an answer to a malformed solicitation")


@case("RFC 4861 7.2.3")
def solicitation_for_a_stranger_unanswered(net: Net) -> None:
    solicit(net, "fd00::55")
    solicit(net, "2001:db8:51::2")
    net.wire.silence(is_advert, "an answer for an address that is nobody's")


# Routers


@case("RFC 4861 6.2.6")
def router_advertisement(net: Net) -> None:
    net.only("pyslirp", "slirp4netns")
    message = icmp6(LINK_LOCAL, ALL_ROUTERS, 133, 0, bytes(4) + b"\x01\x01" + MAC)
    net.wire.send(ip6(LINK_LOCAL, ALL_ROUTERS, ICMP6, message, hops=255), group_mac(ALL_ROUTERS))
    packet = net.wire.expect(lambda p: is_icmp6(p, 134), "router advertisement", 3)
    if packet.ttl != 255 or not packet.src.startswith("fe80:"):
        raise CaseError("hop limit or source")
    if int.from_bytes(packet.l4[6:8], "big") == 0:
        raise CaseError("no default router")
    options, at = {}, 16
    while at + 2 <= len(packet.l4) and packet.l4[at + 1]:
        options[packet.l4[at]] = packet.l4[at : at + 8 * packet.l4[at + 1]]
        at += 8 * packet.l4[at + 1]
    prefix = options.get(3, bytes(32))
    if prefix[2] != 64 or not prefix[3] & 0x40 or prefix[16:32] != packed("fd00::"):
        raise CaseError(f"prefix {prefix.hex()}")
    if 25 in options and packed(DNS6) not in options[25]:
        raise CaseError("RDNSS")
    if 1 in options and options[1][2:8] != packet.frame[6:12]:
        raise CaseError("source link-layer address")


@case("RFC 4861 6.1.1")
def malformed_router_solicitations_are_dropped(net: Net) -> None:
    net.wire.all(lambda p: True, 0.2)
    for hops, src, options in (
        (64, LINK_LOCAL, b""), (255, "::", b"\x01\x01" + MAC), (255, LINK_LOCAL, b"\x01\x00" + MAC),
    ):  # fmt: skip
        message = icmp6(src, ALL_ROUTERS, 133, 0, bytes(4) + options)
        net.wire.send(ip6(src, ALL_ROUTERS, ICMP6, message, hops=hops), group_mac(ALL_ROUTERS))
    net.wire.silence(
        lambda p: is_icmp6(p, 134) and p.dst != ALL_NODES, "an answer to a bad solicitation"
    )


# Echo and errors


@case("RFC 4443 4.2")
def echo6_of_the_gateway(net: Net) -> None:
    for data in (b"", b"x", os.urandom(1400)):
        echo6(net, GATEWAY6, data)
        if expect_echo6(net, GATEWAY6).l4[8:] != data:
            raise CaseError("other text")


@case("RFC 4443 4.2")
def echo6_of_the_dns_address(net: Net) -> None:
    echo6(net, DNS6)
    expect_echo6(net, DNS6)


@case("RFC 4443 4.2")
def echo6_of_the_world(net: Net) -> None:
    data = os.urandom(500)
    echo6(net, REMOTE6, data)
    if expect_echo6(net, REMOTE6).l4[8:] != data:
        raise CaseError("other text")


@case("RFC 4443 2.3")
def wrong_checksum6_is_dropped(net: Net) -> None:
    message = icmp6(GUEST6, GATEWAY6, 128, 0, b"\0\x70\0\1", csum=0x4321)
    net.wire.send(ip6(GUEST6, GATEWAY6, ICMP6, message))
    net.wire.silence(lambda p: is_icmp6(p, 129), "an answer to a wrong checksum")


@case("RFC 4443 3.3")
def hop_limit_one_is_told(net: Net) -> None:
    net.wire.send(ip6(GUEST6, REMOTE6, UDP, udp(GUEST6, REMOTE6, 3333, 44, b"x"), hops=1))
    packet = net.wire.expect(lambda p: is_icmp6(p, 3), "time exceeded")
    if packet.l4[1] != 0 or packet.l4[8 + 40 : 8 + 42] != struct.pack("!H", 3333):
        raise CaseError(f"{packet}")


@case("RFC 4443 3.1")
def closed_udp6_port_is_told(net: Net) -> None:
    send_udp6(net, 3001, 9, b"anybody?", GATEWAY6)
    packet = net.wire.expect(lambda p: is_icmp6(p, 1), "unreachable")
    if packet.l4[1] != 4 or packet.l4[8 + 40 : 8 + 44] != struct.pack("!HH", 3001, 9):
        raise CaseError(f"{packet}")


@case("RFC 4443 3.1")
def closed_udp6_port_of_the_world_is_told(net: Net) -> None:
    send_udp6(net, 3002, 9, b"anybody?")
    packet = net.wire.expect(lambda p: is_icmp6(p, 1), "unreachable")
    if packet.l4[1] != 4 or packet.src != REMOTE6:
        raise CaseError(f"{packet}")


@case("RFC 4443 3.4")
def unknown_next_header_is_told(net: Net) -> None:
    net.wire.send(ip6(GUEST6, GATEWAY6, 253, b"experiment"))
    packet = net.wire.expect(lambda p: is_icmp6(p, 4), "parameter problem")
    if packet.l4[1] != 1 or int.from_bytes(packet.l4[4:8], "big") != 6:
        raise CaseError(f"code {packet.l4[1]}, pointer {packet.l4[4:8].hex()}")


@case("RFC 4443 2.4 (e)")
def no_error6_about_an_error(net: Net) -> None:
    quote = ip6(GATEWAY6, GUEST6, UDP, udp(GATEWAY6, GUEST6, 1, 2))
    for kind in (1, 2, 3, 4, 100):
        message = icmp6(GUEST6, REMOTE6, kind, 0, bytes(4) + quote)
        net.wire.send(ip6(GUEST6, REMOTE6, ICMP6, message, hops=1))
    net.wire.silence(is_error6, "an error about an error")


@case("RFC 4443 2.4 (e.3)")
def no_error6_about_a_group(net: Net) -> None:
    for group in ("ff02::1", "ff02::fb", "ff0e::1234"):
        datagram = ip6(GUEST6, group, UDP, udp(GUEST6, group, 5, 9999, b"x"))
        net.wire.send(datagram, group_mac(group))
    net.wire.silence(is_error6, "an error about a multicast")


# Headers


def extended(net: Net, first: int, header: bytes, ident: int, dst: str = GATEWAY6) -> None:
    """An echo request behind an extension header."""
    message = icmp6(GUEST6, dst, 128, 0, struct.pack("!HH", ident, 1))
    net.wire.send(ip6(GUEST6, dst, first, header + message))


@case("RFC 8200 4.3")
def hop_by_hop_options_pass(net: Net) -> None:
    extended(net, HOP_BY_HOP, bytes([ICMP6, 0, 1, 4, 0, 0, 0, 0]), 0x81)
    expect_echo6(net, GATEWAY6, 0x81)


@case("RFC 8200 4.6")
def destination_options_pass(net: Net) -> None:
    extended(net, DEST_OPTIONS, bytes([ICMP6, 0, 0x1E, 4, 0, 0, 0, 0]), 0x82)
    expect_echo6(net, GATEWAY6, 0x82)


@case("RFC 8200 4.2")
def unknown_options_do_what_their_bits_say(net: Net) -> None:
    extended(net, DEST_OPTIONS, bytes([ICMP6, 0, 0x40 | 0x1E, 4, 0, 0, 0, 0]), 0x83)
    net.wire.silence(lambda p: is_icmp6(p, 129) or is_error6(p), "01: discard in silence")
    extended(net, DEST_OPTIONS, bytes([ICMP6, 0, 0x80 | 0x1E, 4, 0, 0, 0, 0]), 0x84)
    packet = net.wire.expect(lambda p: is_icmp6(p, 4), "10: parameter problem")
    if packet.l4[1] != 2 or int.from_bytes(packet.l4[4:8], "big") != 42:
        raise CaseError(f"code {packet.l4[1]}, pointer {packet.l4[4:8].hex()}")


@case("RFC 8200 4.7")
def no_next_header_is_nothing(net: Net) -> None:
    net.wire.send(ip6(GUEST6, GATEWAY6, NO_NEXT, b"whatever"))
    net.wire.silence(is_error6, "an error about nothing")


@case("RFC 5095")
def routing_header_zero_is_refused(net: Net) -> None:
    header = bytes([ICMP6, 2, 0, 1, 0, 0, 0, 0]) + packed(REMOTE6)
    extended(net, ROUTING, header, 0x85)
    net.wire.silence(lambda p: is_icmp6(p, 129), "a source route was followed")


@case("RFC 8200 3")
def payload_lengths_that_lie_are_dropped(net: Net) -> None:
    message = icmp6(GUEST6, GATEWAY6, 128, 0, b"\0\x86\0\1")
    for length in (0, 4, 500, 65535):
        net.wire.send(ip6(GUEST6, GATEWAY6, ICMP6, message, length=length))
    net.wire.silence(lambda p: is_icmp6(p, 129), "an answer to a length that lies")


@case("RFC 8200 3")
def truncated_headers6_do_no_harm(net: Net) -> None:
    whole = ip6(GUEST6, GATEWAY6, HOP_BY_HOP, bytes([ICMP6, 0, 1, 4, 0, 0, 0, 0]))
    for size in range(48):
        net.wire.send(whole[:size], kind=ETH_IP6)
    net.wire.send(ip6(GUEST6, GATEWAY6, HOP_BY_HOP, bytes([ICMP6, 200, 1, 4])))
    net.wire.all(lambda p: True, 0.1)
    net.ping(GATEWAY)


@case("RFC 4291 2.5.3, 2.7")
def sources_that_nobody_has6_are_dropped(net: Net) -> None:
    for source in ("::1", "ff02::1", "::", GATEWAY6):
        message = icmp6(source, GATEWAY6, 128, 0, b"\0\x87\0\1")
        net.wire.send(ip6(source, GATEWAY6, ICMP6, message))
        net.wire.send(ip6(source, GATEWAY6, TCP, tcp(source, GATEWAY6, 5, 9)))
    net.wire.silence(
        lambda p: (
            p.kind == ETH_IP6 and p.proto in (TCP, ICMP6) and (p.proto == TCP or p.l4[0] == 129)
        ),
        "an answer to an impossible source",
    )


@case("RFC 4291 2.5.3")
def loopback6_does_not_leave_a_host(net: Net) -> None:
    for address in ("::1", "::ffff:127.0.0.1", "::127.0.0.1"):
        echo6(net, address)
        net.wire.send(ip6(GUEST6, address, TCP, tcp(GUEST6, address, 5, 9)))
    net.wire.silence(
        lambda p: is_icmp6(p, 129) or (p.kind == ETH_IP6 and p.proto == TCP and bool(p.flags & 2)),
        "an answer of the host's loopback",
    )


# Fragments


def cut6(dst: str, proto: int, whole: bytes, room: int, ident: int) -> list[bytes]:
    return [
        ip6(GUEST6, dst, FRAGMENT, struct.pack(
            "!BxHI", proto, at | (at + room < len(whole)), ident) + whole[at : at + room])
        for at in range(0, len(whole), room)
    ]  # fmt: skip


@case("RFC 8200 4.5")
def pieces6_arrive(net: Net) -> None:
    with udp6_server(net) as server:
        text = os.urandom(5000)
        whole = udp(GUEST6, REMOTE6, net.port, server.getsockname()[1], text)
        for order in (1, -1):
            for frame in cut6(REMOTE6, UDP, whole, 1232, 77 + order)[::order]:
                net.wire.send(frame)
            if server.recv(9000) != text:
                raise CaseError("other text")


@case("RFC 5722")
def overlapping_pieces6_are_dropped(net: Net) -> None:
    with udp6_server(net) as server:
        whole = udp(GUEST6, REMOTE6, net.port, server.getsockname()[1], b"a" * 3000)
        first, second, third = cut6(REMOTE6, UDP, whole, 1200, 99)
        evil = ip6(GUEST6, REMOTE6, FRAGMENT, struct.pack("!BxHI", UDP, 800 | 1, 99) + b"E" * 800)
        for frame in (first, evil, second, third):
            net.wire.send(frame)
        server.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            server.recv(9000)
            raise CaseError("an overlap was put together")


@case("RFC 6946")
def an_atomic_fragment_is_a_datagram(net: Net) -> None:
    with udp6_server(net) as server:
        whole = udp(GUEST6, REMOTE6, net.port, server.getsockname()[1], b"atom")
        net.wire.send(cut6(REMOTE6, UDP, whole, 1232, 5)[0])
        if server.recv(100) != b"atom":
            raise CaseError("other text")


@case("RFC 8200 4.5")
def an_odd_piece6_is_told(net: Net) -> None:
    piece = ip6(GUEST6, GATEWAY6, FRAGMENT, struct.pack("!BxHI", UDP, 1, 6) + b"x" * 13)
    net.wire.send(piece)
    packet = net.wire.expect(lambda p: is_icmp6(p, 4), "parameter problem")
    if packet.l4[1] != 0 or int.from_bytes(packet.l4[4:8], "big") != 4:
        raise CaseError(f"code {packet.l4[1]}, pointer {packet.l4[4:8].hex()}")


# What is above


@case("RFC 8200 8.1")
def udp6_there_and_back(net: Net) -> None:
    with udp6_server(net) as server:
        sport, dport = net.port, server.getsockname()[1]
        send_udp6(net, sport, dport, b"question")
        text, peer = server.recvfrom(100)[:2]
        server.sendto(b"answer", peer)
        reply = net.expect_udp(dport, sport)
        if text != b"question" or reply.data != b"answer" or reply.src != REMOTE6:
            raise CaseError(f"{reply}")


@case("RFC 8200 8.1")
def udp6_without_checksum_is_dropped(net: Net) -> None:
    with udp6_server(net) as server:
        datagram = udp(GUEST6, REMOTE6, net.port, server.getsockname()[1], b"x", csum=0)
        net.wire.send(ip6(GUEST6, REMOTE6, UDP, datagram))
        server.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            server.recv(10)
            raise CaseError("accepted")


@case("RFC 9293")
def tcp6_both_ways(net: Net) -> None:
    with connected6(net) as (client, server):
        client.push(b"u" * 1440, server)
        server.sendall(b"d" * 20_000)
        if client.expect_data(20_000) != b"d" * 20_000:
            raise CaseError("other text")
        server.close()
        client.expect_fin()


@case("RFC 6691")
def tcp6_mss(net: Net) -> None:
    with connected6(net) as (client, server):
        found = client.peer_syn.options.get(2, b"") if client.peer_syn else b""
        if int.from_bytes(found, "big") != 1440:
            raise CaseError(f"MSS {found.hex()} at an MTU of 1500")
        client.push(b"x", server)


@case("RFC 9293 3.10.7.1")
def tcp6_closed_port_is_reset(net: Net) -> None:
    for address in (REMOTE6, GATEWAY6):
        client = Tcp(net.wire, GUEST6, address, net.port, 9)
        client.syn()
        client.expect_rst()


@case("RFC 9293 3.1")
def tcp6_wrong_checksum_is_dropped(net: Net) -> None:
    with connected6(net) as (client, server):
        client.forget()
        client.send(0x18, b"bad", csum=0x1111, at=client.nxt)
        client.silence("an answer to a wrong checksum")
        client.push(b"good", server)


@case("RFC 5961 3.2")
def tcp6_reset_elsewhere_is_challenged(net: Net) -> None:
    with connected6(net) as (client, server):
        client.push(b"x", server)
        client.forget()
        client.send(RST, at=client.nxt + 100)
        client.expect_ack(client.nxt)
        client.push(b"alive", server)


@case("RFC 1035 4.2.1")
def query_by_udp6(net: Net) -> None:
    net.only("pyslirp", "slirp4netns")
    sport = net.port
    send_udp6(net, sport, 53, dns_query("example.test", 0x3333), DNS6)
    reply = net.expect_udp(53, sport, 3)
    if socket.inet_aton("192.0.2.80") not in reply.data or reply.src != DNS6:
        raise CaseError(f"{reply}")


@case("RFC 8415 18.3.6")
def dhcp6_gives_the_name_server(net: Net) -> None:
    """Stateless: where there is a server at all, it answers with the address of the DNS."""
    net.only("pyslirp", "slirp4netns")
    group = "ff02::1:2"
    client_id = struct.pack("!HHHH", 1, 10, 3, 1) + MAC
    request = b"\x0b\x12\x34\x56" + client_id + struct.pack("!HHH", 6, 2, 23)
    datagram = udp(LINK_LOCAL, group, 546, 547, request)
    net.wire.send(ip6(LINK_LOCAL, group, UDP, datagram, hops=1), group_mac(group))
    packet = net.wire.expect(lambda p: p.proto == UDP and p.ports == (547, 546), "DHCPv6 reply")
    if packet.data[:4] != b"\x07\x12\x34\x56" or packed(DNS6) not in packet.data:
        raise CaseError(f"{packet.data.hex()}")
    if client_id not in packet.data or packet.dst != LINK_LOCAL:
        raise CaseError("client identifier or destination")


@case("RFC 8415 16")
def malformed_dhcp6_is_dropped(net: Net) -> None:
    group = "ff02::1:2"
    for request in (
        b"",
        b"\x01",
        b"\x0b\0\0",
        b"\x01\0\0\0\0\x01\xff\xff",
        b"\xff" * 40,
        bytes(40),
    ):
        datagram = udp(LINK_LOCAL, group, 546, 547, request)
        net.wire.send(ip6(LINK_LOCAL, group, UDP, datagram, hops=1), group_mac(group))
    net.wire.silence(lambda p: p.proto == UDP and p.ports == (547, 546), "an answer to nonsense")


@case("RFC 2464")
def frame_for_another_station6_is_not_ours(net: Net) -> None:
    message = icmp6(GUEST6, GATEWAY6, 128, 0, b"\0\x88\0\1")
    net.wire.raw(
        eth(ip6(GUEST6, GATEWAY6, ICMP6, message), bytes.fromhex("020000c0ff09"), MAC, ETH_IP6)
    )
    net.wire.silence(lambda p: is_icmp6(p, 129), "an answer to a frame for another station")


@case("RFC 4443 4.2")
def echo6_of_the_groups_is_answered_by_the_router(net: Net) -> None:
    """All nodes and all routers of the link: the reply is from an address of one's own."""
    for ident, group in ((0x91, ALL_NODES), (0x92, ALL_ROUTERS)):
        for src in (GUEST6, LINK_LOCAL):
            message = icmp6(src, group, 128, 0, struct.pack("!HH", ident, 1) + b"group")
            net.wire.guest6 = src
            net.wire.send(ip6(src, group, ICMP6, message), group_mac(group))
            try:
                reply = net.wire.expect(lambda p: is_icmp6(p, 129), f"echo reply for {group}")
            finally:
                net.wire.guest6 = GUEST6
            if reply.dst != src or reply.src.startswith("ff") or reply.l4[8:] != b"group":
                raise CaseError(f"{reply}")


@case("RFC 4291 2.1")
def neighbour_link_local_of_the_router(net: Net) -> None:
    """From the guest's own link-local address, as a kernel asks that has no other yet."""
    solicit(net, GATEWAY6, src=LINK_LOCAL)
    if expect_advert(net, GATEWAY6).dst != LINK_LOCAL:
        raise CaseError("to another address")
