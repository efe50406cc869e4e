"""IPv6 headers and addresses (RFC 8200, 4291, 4007), and the errors that RFC 4443 wants."""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Callable

import dpkt
import pytest

from harness.ip import ETH_HLEN, IP6_HLEN, IP_ICMP6, VNET_HLEN, build_frame, build_ip, cut
from harness.lan import Lan, echo6, ip_frame, udp_datagram
from harness.net import (
    DNS6,
    GATEWAY,
    GATEWAY6,
    GATEWAY_MAC,
    GUEST6,
    GUEST_MAC,
    LINK_LOCAL6,
    NETWORK6,
    WORLD6,
)
from slirp.core.stats import Drop

UDP = dpkt.ip.IP_PROTO_UDP
HOP_BY_HOP, ROUTING, DESTINATION, NONE = 0, 43, 60, 59
OURS = [GATEWAY6, DNS6, LINK_LOCAL6]
MAPPED_LOOPBACK = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
LOOPBACK6 = bytes(15) + b"\x01"
ALL_NODES = bytes.fromhex("ff02") + bytes(13) + b"\x01"
GUEST_LINK_LOCAL = bytes.fromhex("fe80") + bytes(13) + b"\x64"


def send(lan: Lan, datagram: bytes) -> None:
    lan.send_frame(build_frame(GUEST_MAC, GATEWAY_MAC, datagram))


def with_extensions(dst: bytes, *headers: tuple[int, bytes], upper: bytes = b"") -> bytes:
    """An echo request behind extension headers: (their number, their bytes after "next header")."""
    message = upper or build_ip(GUEST6, dst, IP_ICMP6, echo6())[IP6_HLEN:]
    chain = [kind for kind, _ in headers] + [IP_ICMP6]
    body = b"".join(
        bytes([following]) + rest for (_, rest), following in zip(headers, chain[1:], strict=True)
    )
    return build_ip(GUEST6, dst, chain[0], body + message)


def options(*parts: bytes) -> bytes:
    """An options header after its first byte, padded to eights."""
    body = b"".join(parts)
    pad = -(len(body) + 2) % 8
    if pad == 1:
        body += b"\0"
    elif pad:
        body += bytes([1, pad - 2]) + bytes(pad - 2)
    return bytes([(len(body) + 2) // 8 - 1]) + body


@pytest.mark.parametrize("ours", OURS)
@pytest.mark.parametrize("size", [0, 1, 56, 1452, 65507])
def test_our_addresses_answer(lan: Lan, ours: bytes, size: int) -> None:
    """RFC 4443 4.2."""
    data = bytes(size)
    datagram = build_ip(GUEST6, ours, IP_ICMP6, echo6(data=data))
    for piece in cut(datagram, 1448) if size > 1452 else [datagram]:
        send(lan, piece)
    lan.expect_echo_reply(ours, data=data)


@pytest.mark.parametrize("group", ["ff02::1", "ff02::2"])
def test_the_gateway_answers_for_the_groups_of_the_link(lan: Lan, group: str) -> None:
    """RFC 4443 4.2, from an address of its own and of the asker's scope; for no other group."""
    dst = ipaddress.ip_address(group).packed
    for src, ours in ((GUEST6, GATEWAY6), (GUEST_LINK_LOCAL, LINK_LOCAL6)):
        mac = b"\x33\x33" + dst[12:]
        datagram = build_ip(src, dst, IP_ICMP6, echo6())
        lan.send_frame(bytes(12) + mac + GUEST_MAC + b"\x86\xdd" + datagram)
        frame = lan.next()
        assert (frame.ip.src, frame.ip.dst, frame.payload[IP6_HLEN]) == (ours, src, 129)
    send(lan, build_ip(GUEST6, dst[:15] + b"\x09", IP_ICMP6, echo6()))
    lan.dropped(Drop.DROP_IP6_BAD_DESTINATION)


def test_nobody_else_of_the_prefix_answers(lan: Lan) -> None:
    lan.ping(NETWORK6[:15] + b"\x55")
    lan.dropped(Drop.DROP_IP6_BAD_DESTINATION)
    lan.expect_icmp6_error(1, 3)


@pytest.mark.parametrize(
    "src",
    [bytes(16), LOOPBACK6, ALL_NODES, MAPPED_LOOPBACK, *OURS],
    ids=["unspecified", "loopback", "multicast", "mapped", "gateway", "dns", "link-local"],
)
def test_nobodys_source(lan: Lan, src: bytes) -> None:
    """RFC 4291 2.5, 2.7; and ours are not the guest's."""
    send(lan, build_ip(src, WORLD6, UDP, udp_datagram(53, b"x")))
    lan.dropped(Drop.DROP_IP6_BAD_SOURCE)


@pytest.mark.parametrize(
    "dst",
    [
        bytes(16),
        LOOPBACK6,
        MAPPED_LOOPBACK,
        bytes(10) + b"\xff\xff\x0a\x00\x02\x02",
        ALL_NODES,
        bytes.fromhex("ff0e") + bytes(13) + b"\x01",
    ],
)
def test_nobodys_destination(lan: Lan, dst: bytes) -> None:
    """No spelling of an IPv4 address, nor of the host's loopback, gets through as IPv6."""
    send(lan, build_ip(GUEST6, dst, UDP, udp_datagram(53, b"x")))
    lan.dropped(Drop.DROP_IP6_BAD_DESTINATION)
    assert not lan.host.sockets


def test_unicast_in_a_frame_for_a_group(lan: Lan) -> None:
    lan.send_frame(ip_frame(WORLD6, UDP, udp_datagram(53, b"x"), dst_mac=b"\x33\x33\0\0\0\1"))
    lan.dropped(Drop.DROP_IP6_BAD_DESTINATION)


def test_link_local_source_stays_on_the_link(lan: Lan) -> None:
    """RFC 4007 9, RFC 4443 3.1: to us it may speak, to the world not."""
    send(lan, build_ip(GUEST_LINK_LOCAL, GATEWAY6, IP_ICMP6, echo6()))
    frame = lan.next()
    assert (frame.ip.src, frame.ip.dst) == (GATEWAY6, GUEST_LINK_LOCAL)
    send(lan, build_ip(GUEST_LINK_LOCAL, WORLD6, UDP, udp_datagram(53, b"x")))
    lan.dropped(Drop.DROP_IP6_SCOPE)
    lan.expect_icmp6_error(1, 2, src=LINK_LOCAL6, guest=GUEST_LINK_LOCAL)


def test_link_local_neighbours_are_nowhere(lan: Lan) -> None:
    send(lan, build_ip(GUEST_LINK_LOCAL, LINK_LOCAL6[:15] + b"\x77", UDP, udp_datagram(53, b"x")))
    lan.dropped(Drop.DROP_IP6_BAD_DESTINATION)
    lan.expect_icmp6_error(1, 3, src=LINK_LOCAL6, guest=GUEST_LINK_LOCAL)


@pytest.mark.parametrize("n", [0, 1, 39, 40, 47])
def test_frame_too_short(lan: Lan, n: int) -> None:
    frame = ip_frame(GATEWAY6, IP_ICMP6, echo6(data=b""))
    lan.send_frame(frame[: VNET_HLEN + ETH_HLEN + n])
    lan.dropped(Drop.DROP_IP6_MALFORMED)


def test_padded_frame(lan: Lan) -> None:
    """The payload length decides, not the frame's."""
    lan.send_frame(ip_frame(GATEWAY6, IP_ICMP6, echo6(data=b"ping")) + bytes(30))
    lan.expect_echo_reply(GATEWAY6)


def test_another_version(lan: Lan) -> None:
    frame = bytearray(ip_frame(GATEWAY6, IP_ICMP6, echo6()))
    frame[VNET_HLEN + ETH_HLEN] = 0x40
    lan.send_frame(bytes(frame))
    lan.dropped(Drop.DROP_IP6_MALFORMED)


def test_bad_checksum(lan: Lan) -> None:
    """RFC 8200 8.1: ICMPv6's covers the addresses too."""
    message = bytearray(build_ip(GUEST6, GATEWAY6, IP_ICMP6, echo6())[IP6_HLEN:])
    message[3] ^= 1
    send(lan, build_ip(GUEST6, GATEWAY6, IP_ICMP6, bytes(message)))
    lan.dropped(Drop.DROP_ICMP_BAD_CHECKSUM)


def test_udp_without_checksum(lan: Lan) -> None:
    """RFC 8200 8.1: there is always one."""
    datagram = bytearray(build_ip(GUEST6, WORLD6, UDP, udp_datagram(53, b"x")))
    datagram[IP6_HLEN + 6 : IP6_HLEN + 8] = b"\0\0"
    send(lan, bytes(datagram))
    lan.dropped(Drop.DROP_UDP_BAD_CHECKSUM)


@pytest.mark.parametrize("hops", [0, 1])
def test_hop_limit_of_the_last_hop(lan: Lan, hops: int) -> None:
    """RFC 8200 3, RFC 4443 3.3."""
    lan.ping(WORLD6, ttl=hops)
    lan.dropped(Drop.DROP_IP6_HOP_LIMIT_EXPIRED)
    if hops:
        lan.expect_icmp6_error(3, 0)
    lan.ping(GATEWAY6, ttl=hops)
    lan.expect_echo_reply(GATEWAY6)


@pytest.mark.parametrize("proto", [4, 41, 50, 51, 132, 135, 139, 253, 1])
def test_unknown_next_header(lan: Lan, proto: int) -> None:
    """RFC 4443 3.4: code 1, the pointer at what named it."""
    send(lan, build_ip(GUEST6, GATEWAY6, proto, bytes(16)))
    lan.dropped(Drop.DROP_IP6_PROTO_UNKNOWN)
    pointer, quote = lan.expect_icmp6_error(4, 1, src=GATEWAY6)
    assert (pointer, quote.proto) == (6, proto)


def test_unknown_next_header_behind_extensions(lan: Lan) -> None:
    send(lan, build_ip(GUEST6, GATEWAY6, DESTINATION, b"\x84" + options() + bytes(8)))
    lan.dropped(Drop.DROP_IP6_PROTO_UNKNOWN)
    assert lan.expect_icmp6_error(4, 1, src=GATEWAY6)[0] == IP6_HLEN


def test_no_next_header(lan: Lan) -> None:
    """RFC 8200 4.7."""
    send(lan, build_ip(GUEST6, GATEWAY6, NONE, bytes(16)))
    lan.dropped(Drop.DROP_IP6_NO_NEXT_HEADER)


@pytest.mark.parametrize(
    "headers",
    [
        [(HOP_BY_HOP, options())],
        [(DESTINATION, options())],
        [(HOP_BY_HOP, options(b"\x05\x02\0\0"))],
        [(DESTINATION, options(b"\x1e\x03abc"))],
        [(HOP_BY_HOP, options()), (DESTINATION, options()), (DESTINATION, options(bytes(40)))],
        [(ROUTING, b"\x00\x00\x00" + bytes(4))],
        [(ROUTING, b"\x02\x04\x00" + bytes(20))],
    ],
)
def test_extension_headers_are_passed_over(lan: Lan, headers: list[tuple[int, bytes]]) -> None:
    """RFC 8200 4.1 to 4.6: any number, in any order; options of kind 00 are skipped."""
    send(lan, with_extensions(GATEWAY6, *headers))
    lan.expect_echo_reply(GATEWAY6)


def test_hop_by_hop_stands_first_only(lan: Lan) -> None:
    """RFC 8200 4.3."""
    send(lan, with_extensions(GATEWAY6, (DESTINATION, options()), (HOP_BY_HOP, options())))
    lan.dropped(Drop.DROP_IP6_BAD_EXTENSION)
    assert lan.expect_icmp6_error(4, 1, src=GATEWAY6)[0] == IP6_HLEN


@pytest.mark.parametrize(
    ("kind", "told"), [(0x40, False), (0x80, True), (0xC0, True), (0xC2, True)]
)
def test_unknown_option(lan: Lan, kind: int, told: bool) -> None:
    """RFC 8200 4.2: its upper bits say what is to be done."""
    send(lan, with_extensions(GATEWAY6, (DESTINATION, options(bytes([kind, 2, 0, 0])))))
    lan.dropped(Drop.DROP_IP6_BAD_EXTENSION)
    if told:
        assert lan.expect_icmp6_error(4, 2, src=GATEWAY6)[0] == IP6_HLEN + 2


@pytest.mark.parametrize(("kind", "told"), [(0x40, False), (0x80, True), (0xC0, False)])
def test_unknown_option_to_a_group(lan: Lan, kind: int, told: bool) -> None:
    send(lan, with_extensions(ALL_NODES, (DESTINATION, options(bytes([kind, 2, 0, 0])))))
    lan.dropped(Drop.DROP_IP6_BAD_EXTENSION)
    if told:
        assert lan.expect_icmp6_error(4, 2)[0] == IP6_HLEN + 2


def test_option_that_does_not_fit(lan: Lan) -> None:
    send(lan, with_extensions(GATEWAY6, (DESTINATION, b"\x00\x1e\x05abcd")))
    lan.dropped(Drop.DROP_IP6_BAD_EXTENSION)
    assert lan.expect_icmp6_error(4, 0, src=GATEWAY6)[0] == IP6_HLEN + 2


def test_extension_header_that_does_not_fit(lan: Lan) -> None:
    send(lan, build_ip(GUEST6, GATEWAY6, DESTINATION, bytes([IP_ICMP6, 9]) + bytes(30)))
    lan.dropped(Drop.DROP_IP6_MALFORMED)
    send(lan, build_ip(GUEST6, GATEWAY6, HOP_BY_HOP, bytes(7)))
    lan.dropped(Drop.DROP_IP6_MALFORMED)


def test_source_routing_is_refused(lan: Lan) -> None:
    """RFC 8200 4.4, RFC 5095."""
    send(lan, with_extensions(GATEWAY6, (ROUTING, b"\x02\x00\x01" + bytes(20))))
    lan.dropped(Drop.DROP_IP6_BAD_EXTENSION)
    assert lan.expect_icmp6_error(4, 0, src=GATEWAY6)[0] == IP6_HLEN + 2


def test_no_error_about_an_error(lan: Lan) -> None:
    """RFC 4443 2.4 (e.1)."""
    error = struct.pack("!BBHI", 1, 4, 0, 0) + bytes(48)
    send(lan, build_ip(GUEST6, NETWORK6[:15] + b"\x55", IP_ICMP6, error))
    lan.dropped(Drop.DROP_ICMP_TYPE_UNKNOWN)


def test_quotes_fit_the_smallest_mtu(lan: Lan) -> None:
    """RFC 4443 2.4 (c)."""
    send(lan, build_ip(GUEST6, GATEWAY6, 253, bytes(1400)))
    lan.dropped(Drop.DROP_IP6_PROTO_UNKNOWN)
    assert len(lan.inbox[0].payload) == 1280
    lan.expect_icmp6_error(4, 1, src=GATEWAY6)


def test_without_ipv6(make_lan: Callable[..., Lan]) -> None:
    lan = make_lan(network6=None)
    lan.ping(GATEWAY6)
    lan.dropped(Drop.DROP_IP6_DISABLED)
    lan.ping(GATEWAY)
    lan.expect_echo_reply(GATEWAY)


@pytest.mark.parametrize("prefix", [2, 3, 8, 63, 64, 65, 96, 120, 126])
def test_prefix_of_any_length(prefix: int) -> None:
    """The subnet's own addresses are nowhere, what is outside is the world."""
    network = int.from_bytes(NETWORK6, "big") >> (128 - prefix) << (128 - prefix)
    lan = Lan(network6=network.to_bytes(16, "big"), prefix_len6=prefix)
    inside = (network | 1).to_bytes(16, "big")
    outside = ((network ^ 1 << (128 - prefix)) | 1).to_bytes(16, "big")
    lan.udp(inside, 53)
    lan.dropped(Drop.DROP_IP6_BAD_DESTINATION)
    lan.udp(outside, 53)
    assert lan.host.newest.sent[0].addr == outside


@pytest.mark.parametrize(
    "bad",
    [
        {"prefix_len6": 0},
        {"prefix_len6": 127},
        {"gateway6": bytes(4)},
        {"guest6": MAPPED_LOOPBACK},
        {"mtu": 1279, "network6": NETWORK6},
    ],
)
def test_settings_that_cannot_be(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="IPv6"):
        Lan(**bad)  # type: ignore[arg-type]
