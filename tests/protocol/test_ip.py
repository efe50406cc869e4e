"""Ethernet and IPv4: what is taken for a datagram, from whom and to whom (RFC 791, 1122 3.2)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any

import dpkt
import pytest

from harness.ip import ETH_HLEN, VNET_HLEN
from harness.lan import BROADCAST_MAC, Lan, echo, ip_frame
from harness.net import DNS, GATEWAY, GUEST, GUEST_MAC, WORLD
from slirp.core.stats import Drop

ICMP, TCP = dpkt.ip.IP_PROTO_ICMP, dpkt.ip.IP_PROTO_TCP
SCTP = 132
HEADER = VNET_HLEN + ETH_HLEN
PROTO_UNREACHABLE = 2
HOST_UNREACHABLE = 1
MULTICAST_MAC = bytes.fromhex("01005e000001")

# The rule of RFC 1122 3.2.1.3 for each kind of address that is never one host's.
NEVER_ONE_HOST = {
    "this network": bytes(4),
    "loopback": bytes((127, 0, 0, 1)),
    "loopback, another": bytes((127, 255, 255, 254)),
    "multicast": bytes((224, 0, 0, 1)),
    "multicast, highest": bytes((239, 255, 255, 255)),
    "class E": bytes((240, 0, 0, 1)),
    "limited broadcast": b"\xff" * 4,
    "broadcast of the subnet": bytes((10, 0, 2, 255)),
}


def ping_frame() -> bytearray:
    return bytearray(ip_frame(GATEWAY, ICMP, echo()))


def summed(frame: bytearray, hlen: int = 20) -> bytes:
    """The frame with its IP header's checksum made anew."""
    frame[HEADER + 10 : HEADER + 12] = bytes(2)
    total = dpkt.in_cksum(bytes(frame[HEADER : HEADER + hlen]))
    frame[HEADER + 10 : HEADER + 12] = struct.pack("!H", total)
    return bytes(frame)


# ---- Ethernet


@pytest.mark.parametrize("n", [0, 1, VNET_HLEN - 1, VNET_HLEN, HEADER - 1])
def test_too_short_for_ethernet(lan: Lan, n: int) -> None:
    lan.send_frame(bytes(ping_frame())[:n])
    lan.dropped(Drop.DROP_ETH_TRUNCATED)


@pytest.mark.parametrize("ethertype", [0x0000, 0x05DC, 0x0805, 0x8100, 0x88CC, 0xFFFF])
def test_other_protocols(lan: Lan, ethertype: int) -> None:
    frame = ping_frame()
    frame[HEADER - 2 : HEADER] = struct.pack("!H", ethertype)
    lan.send_frame(bytes(frame))
    lan.dropped(Drop.DROP_ETH_TYPE_UNKNOWN)


def test_for_somebody_else(lan: Lan) -> None:
    """A switch that floods must not have us answer for others."""
    lan.ping(GATEWAY, dst_mac=bytes.fromhex("525500000203"))
    lan.dropped(Drop.DROP_ETH_NOT_FOR_US)


def test_no_frame_comes_from_a_group(lan: Lan) -> None:
    """IEEE 802.3 3.2.3: the source address is an individual's."""
    lan.ping(GATEWAY, src_mac=MULTICAST_MAC)
    lan.dropped(Drop.DROP_ETH_NOT_FOR_US)


@pytest.mark.parametrize("group", [BROADCAST_MAC, MULTICAST_MAC])
def test_unicast_datagram_in_a_frame_for_a_group(lan: Lan, group: bytes) -> None:
    """RFC 1122 3.3.6: silently discarded, so that nobody has a whole link answer."""
    lan.ping(GATEWAY, dst_mac=group)
    lan.udp(WORLD, 80, dst_mac=group)
    lan.send(WORLD, SCTP, b"text", dst_mac=group)
    lan.dropped(*[Drop.DROP_IP4_BAD_DESTINATION] * 3)


def test_answers_go_where_the_frame_came_from(lan: Lan) -> None:
    mac = bytes.fromhex("02aabbccddee")
    lan.ping(GATEWAY, src_mac=mac)
    assert lan.next().dst_mac == mac


def test_frames_and_bytes_are_counted_without_the_virtio_header(lan: Lan) -> None:
    lan.ping(GATEWAY, data=bytes(100))
    lan.next()
    size = ETH_HLEN + 20 + 8 + 100
    assert (lan.stat("frames_from_guest"), lan.stat("bytes_from_guest")) == (1, size)
    assert (lan.stat("frames_to_guest"), lan.stat("bytes_to_guest")) == (1, size)


def test_frame_that_the_link_refuses_is_counted(lan: Lan) -> None:
    lan.host.link_error = errno.EIO
    lan.ping(GATEWAY)
    assert lan.stat("link_send_failed") == 1
    assert lan.stat("frames_to_guest") == 0


# ---- the IPv4 header


@pytest.mark.parametrize("n", range(20))
def test_truncated_header(lan: Lan, n: int) -> None:
    lan.send_frame(bytes(ping_frame())[: HEADER + n])
    lan.dropped(Drop.DROP_IP4_MALFORMED)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, b"\x65"),  # version 6
        (0, b"\x05"),  # version 0
        (0, b"\x44"),  # IHL 16 bytes
        (0, b"\x40"),  # IHL 0
        (0, b"\x4f"),  # IHL over the total length
        (2, b"\x00\x00"),  # total length 0
        (2, b"\x00\x13"),  # below the header's
        (2, b"\x00\x21"),  # one byte more than there is
        (2, b"\xff\xff"),
    ],
)
def test_lengths_that_do_not_fit(lan: Lan, at: int, value: bytes) -> None:
    """RFC 1122 3.2.1.1, 3.1: silently discarded."""
    frame = ping_frame()
    frame[HEADER + at : HEADER + at + len(value)] = value
    lan.send_frame(summed(frame))
    lan.dropped(Drop.DROP_IP4_MALFORMED)


@pytest.mark.parametrize("at", range(20))
def test_header_checksum(lan: Lan, at: int) -> None:
    """RFC 1122 3.2.1.2: verified, whatever byte is damaged."""
    frame = ping_frame()
    frame[HEADER + at] ^= 0x01 if at != 3 else 0x40  # (a length that still fits)
    lan.send_frame(bytes(frame))
    drop = Drop.DROP_IP4_BAD_CHECKSUM if at not in (0, 2, 3) else Drop.DROP_IP4_MALFORMED
    lan.dropped(drop)


def test_ethernets_padding_is_not_part_of_it(lan: Lan) -> None:
    """RFC 894: short frames are padded; the total length says what counts."""
    lan.send_frame(bytes(ping_frame()) + b"\xaa" * 30)
    frame = lan.expect_echo_reply(GATEWAY)
    assert len(frame.payload) == 20 + 8 + 4


# ---- options


@pytest.mark.parametrize(
    "options",
    [
        b"\x01\x01\x01\x01",  # NOP
        b"\x00\x83\xff\xff",  # end of list: what follows is padding
        b"\x07\x07\x04\x00\x00\x00\x00\x00",  # record route
        b"\x44\x08\x05\x00" + bytes(4),  # time-stamp
        b"\x94\x04\x00\x00",  # router alert
        b"\x01\x07\x03\x04\x07\x03\x04\x00",
        b"\x1e\x28" + bytes(38),  # forty bytes of an unknown one
    ],
)
def test_options_are_passed_over(lan: Lan, options: bytes) -> None:
    """RFC 1122 3.2.1.8: unknown ones are ignored."""
    lan.ping(GATEWAY, opts=options)
    lan.expect_echo_reply(GATEWAY)


@pytest.mark.parametrize("kind", [131, 137])
@pytest.mark.parametrize("before", [b"", b"\x01", b"\x07\x03\x04\x01"])
def test_source_routes_are_refused(lan: Lan, kind: int, before: bytes) -> None:
    """RFC 7126 4.3 and 4.4: loose and strict source routes are dropped by default."""
    options = before + bytes((kind, 7, 4)) + WORLD
    lan.ping(GATEWAY, opts=options + bytes(-len(options) % 4))
    lan.dropped(Drop.DROP_IP4_SOURCE_ROUTE)


@pytest.mark.parametrize(
    "options",
    [
        b"\x01\x01\x01\x07",  # no room for the length
        b"\x07\x00\x00\x00",
        b"\x07\x01\x00\x00",
        b"\x07\x05\x00\x00",
        b"\x83\xff\x04\x00",
    ],
)
def test_options_that_do_not_fit(lan: Lan, options: bytes) -> None:
    lan.ping(GATEWAY, opts=options)
    lan.dropped(Drop.DROP_IP4_MALFORMED)


@pytest.mark.parametrize("fields", [{"df": 1}, {"rf": 1}, {"id": 0xFFFF}, {"tos": 0xFF}])
def test_other_fields_do_not_matter(lan: Lan, fields: dict[str, Any]) -> None:
    lan.ping(GATEWAY, **fields)
    lan.expect_echo_reply(GATEWAY)


def test_time_to_live_is_no_matter_to_the_destination(lan: Lan) -> None:
    """RFC 1122 3.2.1.7: a host must not discard a datagram for a TTL below two."""
    lan.ping(GATEWAY, ttl=0)
    lan.ping(GATEWAY, ttl=1)
    lan.expect_echo_reply(GATEWAY)
    lan.expect_echo_reply(GATEWAY)


# ---- addresses

SENDERS: dict[str, Callable[[Lan, bytes], None]] = {
    "ping": lambda lan, src: lan.ping(GATEWAY, src=src),
    "udp": lambda lan, src: lan.udp(WORLD, 80, src=src),
    "tcp": lambda lan, src: lan.send(WORLD, TCP, dpkt.tcp.TCP(dport=80, flags=2), src=src),
    "unknown": lambda lan, src: lan.send(WORLD, SCTP, b"text", src=src),
}


@pytest.mark.parametrize("kind", SENDERS)
@pytest.mark.parametrize(
    "src", [*NEVER_ONE_HOST.values(), GATEWAY, DNS], ids=[*NEVER_ONE_HOST, "gateway", "dns"]
)
def test_source_is_one_host_and_not_us(lan: Lan, kind: str, src: bytes) -> None:
    """RFC 1122 3.2.1.3: discarded; nothing is sent to a group in answer (3.2.2)."""
    SENDERS[kind](lan, src)
    lan.dropped(Drop.DROP_IP4_BAD_SOURCE)
    assert lan.stat("flows") == 0


def to_ping(lan: Lan, dst: bytes) -> None:
    lan.ping(dst)


def to_udp(lan: Lan, dst: bytes) -> None:
    lan.udp(dst, 80)


def to_tcp(lan: Lan, dst: bytes) -> None:
    lan.send(dst, TCP, dpkt.tcp.TCP(dport=80, flags=2))


@pytest.mark.parametrize("send", [to_ping, to_udp, to_tcp])
@pytest.mark.parametrize("dst", NEVER_ONE_HOST.values(), ids=list(NEVER_ONE_HOST))
def test_destination_that_is_never_one_host(
    lan: Lan, send: Callable[[Lan, bytes], None], dst: bytes
) -> None:
    """Nothing reaches the host, whose loopback must not be had by its own name, and no ICMP error
    answers a group (RFC 1122 3.2.2), no RST either (9293 3.9.2.3: SYNs for a group are ignored).
    """
    send(lan, dst)
    lan.dropped(Drop.DROP_IP4_BAD_DESTINATION)
    assert not lan.host.calls


@pytest.mark.parametrize("send", [to_ping, to_udp, to_tcp])
@pytest.mark.parametrize("last", [1, 4, 15, 99, 100, 101, 254])
def test_destination_on_the_link_that_nobody_has(
    lan: Lan, send: Callable[[Lan, bytes], None], last: int
) -> None:
    """RFC 1812 5.2.7.1: what a router cannot deliver on a link of its own is unreachable."""
    send(lan, bytes((10, 0, 2, last)))
    quote = lan.expect_icmp_error(HOST_UNREACHABLE)
    assert quote.dst == bytes((10, 0, 2, last))
    lan.dropped(Drop.DROP_IP4_BAD_DESTINATION)
    assert not lan.host.calls


def test_unknown_protocol(lan: Lan) -> None:
    """RFC 1122 3.2.2.1: protocol unreachable, with the header and what follows it."""
    for dst in (WORLD, GATEWAY, DNS):
        lan.send(dst, SCTP, b"12345678 and more")
        quote = lan.expect_icmp_error(PROTO_UNREACHABLE, src=GATEWAY if dst == WORLD else dst)
        assert (quote.src, quote.dst, quote.p) == (GUEST, dst, SCTP)
        assert bytes(quote.data) == b"12345678 and more"
    lan.dropped(*[Drop.DROP_IP4_PROTO_UNKNOWN] * 3)


@pytest.mark.parametrize("proto", [6, 17])
def test_the_last_hop_is_told(lan: Lan, proto: int) -> None:
    """RFC 1812 5.3.1: TTL 1 ends at a router, with time exceeded: traceroute's first line."""
    lan.send(WORLD, proto, bytes(20), ttl=1)
    quote = lan.expect_icmp_error(0, icmp_type=11)
    assert (quote.src, quote.dst, quote.p) == (GUEST, WORLD, proto)
    lan.send(WORLD, proto, bytes(20), ttl=0)
    lan.expect_nothing()
    lan.dropped(*[Drop.DROP_IP4_TTL_EXPIRED] * 2)


def test_unknown_protocol_to_a_group_is_silence(lan: Lan) -> None:
    """RFC 1122 3.2.2: no error about a datagram for a group."""
    lan.send(bytes((224, 0, 0, 251)), 2, b"IGMP")
    lan.dropped(Drop.DROP_IP4_PROTO_UNKNOWN)


def test_source_beyond_the_subnet_is_served(lan: Lan) -> None:
    """A guest that routes for others (a bridge inside, say) is served under their addresses."""
    inner = bytes((172, 17, 0, 2))
    lan.ping(GATEWAY, src=inner)
    frame = lan.next()
    assert (frame.dst_mac, frame.ip.dst) == (GUEST_MAC, inner)


# ---- ICMP errors in general (RFC 1122 3.2.2, 1812 4.3.2)


def test_quote_is_as_long_as_576_bytes_allow(lan: Lan) -> None:
    """RFC 1812 4.3.2.3."""
    payload = bytes(range(256)) * 4
    lan.send(WORLD, SCTP, payload)
    frame = lan.next()
    assert len(frame.payload) == 576
    assert frame.quote == ip_frame(WORLD, SCTP, payload)[HEADER:][:548]
    lan.dropped(Drop.DROP_IP4_PROTO_UNKNOWN)


def test_quote_has_the_options(lan: Lan) -> None:
    lan.send(WORLD, SCTP, b"12345678", opts=b"\x94\x04\x00\x00")
    quote = lan.next().quote
    assert quote[20:] == b"\x94\x04\x00\x00" + b"12345678"
    lan.dropped(Drop.DROP_IP4_PROTO_UNKNOWN)


def test_errors_are_limited_in_rate(lan: Lan) -> None:
    """RFC 1812 4.3.2.8: a burst of 200, then a thousand a second."""
    for _ in range(250):
        lan.send(WORLD, SCTP, b"")
    assert len(lan.inbox) == 200
    assert (lan.stat("icmp_errors_sent"), lan.stat("icmp_errors_limited")) == (200, 50)
    lan.advance(0.0105)
    for _ in range(20):
        lan.send(WORLD, SCTP, b"")
    assert len(lan.inbox) == 210
    lan.advance(100)
    for _ in range(300):
        lan.send(WORLD, SCTP, b"")
    assert len(lan.inbox) == 410
    lan.inbox.clear()
    lan.dropped(*[Drop.DROP_IP4_PROTO_UNKNOWN] * 570)


# ---- what we send


def test_datagram_within_the_mtu_is_atomic(lan: Lan) -> None:
    """RFC 6864 4.1: DF, and no identification."""
    lan.ping(GATEWAY, data=bytes(1500 - 28))
    ip = lan.next().ip
    assert (ip.df, ip.id) == (1, 0)
    assert ip.ttl == 64


@pytest.mark.parametrize("mtu", [576, 1500, 9000, 65520])
def test_mtu(make_lan: Callable[..., Lan], mtu: int) -> None:
    lan = make_lan(mtu=mtu)
    lan.ping(GATEWAY, data=bytes(mtu - 28))
    assert len(lan.next().payload) == mtu
