"""Frames for the control plane: which are handed up, how many, how often, and the way back."""

from __future__ import annotations

import struct
from collections.abc import Callable

import dpkt
import pytest

from harness.ip import (
    ETH_HLEN,
    IP6_HLEN,
    IP_HLEN,
    IP_ICMP6,
    VNET_HLEN,
    VNET_NEEDS_CSUM,
    Vnet,
    build_ip,
)
from harness.lan import BROADCAST_MAC, ETH_IP, Lan, ip_frame, udp_datagram
from harness.net import DNS, GATEWAY, GATEWAY6, GATEWAY_MAC, GUEST, GUEST_MAC, WORLD
from slirp.core.stats import Drop

UDP = dpkt.ip.IP_PROTO_UDP
NOBODY = bytes(4)
EVERYBODY = b"\xff" * 4
SUBNET = bytes((10, 0, 2, 255))
SERVER_PORT = 67
CLIENT_PORT = 68
RING_FRAMES = 32
BURST = 64
PERIOD_S = 0.01
MAX_BYTES = 1514


def query(
    data: bytes = b"a DHCP message",
    src: bytes = NOBODY,
    dst: bytes = EVERYBODY,
    dst_mac: bytes = BROADCAST_MAC,
    dport: int = SERVER_PORT,
    vnet: Vnet | None = None,
) -> bytes:
    """A frame as a DHCP client sends it."""
    datagram = udp_datagram(dport, data, CLIENT_PORT)
    return ip_frame(dst, UDP, datagram, src=src, dst_mac=dst_mac, vnet=vnet)


# ---- what is handed up


@pytest.mark.parametrize("src", [NOBODY, GUEST], ids=["no address yet", "an address"])
@pytest.mark.parametrize(
    ("dst", "dst_mac"),
    [(EVERYBODY, BROADCAST_MAC), (SUBNET, BROADCAST_MAC), (GATEWAY, GATEWAY_MAC)],
    ids=["broadcast", "broadcast of the subnet", "to us"],
)
def test_dhcp_is_handed_up_whole(lan: Lan, src: bytes, dst: bytes, dst_mac: bytes) -> None:
    """RFC 2131 4.1: clients send to 255.255.255.255 or to their server, with or without address."""
    frame = query(src=src, dst=dst, dst_mac=dst_mac)
    lan.send_frame(frame)
    assert lan.stack.punted() == [frame[VNET_HLEN:]]
    assert lan.stack.punted() == []
    lan.at_rest()


def test_checksum_that_the_link_has_yet_to_make_is_no_error(lan: Lan) -> None:
    vnet = Vnet(VNET_NEEDS_CSUM, 0, 0, 0, ETH_HLEN + IP_HLEN, 6)
    lan.send_frame(query(vnet=vnet))
    assert len(lan.stack.punted()) == 1


def test_no_checksum_is_no_error(lan: Lan) -> None:
    """RFC 768: zero says that none was made."""
    frame = bytearray(query())
    struct.pack_into("!H", frame, VNET_HLEN + ETH_HLEN + IP_HLEN + 6, 0)
    lan.send_frame(bytes(frame))
    assert len(lan.stack.punted()) == 1


@pytest.mark.parametrize("src", [DNS, GATEWAY, bytes((127, 0, 0, 1)), EVERYBODY, SUBNET])
def test_sender_that_nobody_can_be(lan: Lan, src: bytes) -> None:
    lan.send_frame(query(src=src))
    lan.dropped(Drop.DROP_IP4_BAD_SOURCE)
    assert lan.stack.punted() == []


def test_nobody_sends_nothing_else(lan: Lan) -> None:
    lan.send_frame(query(dport=68))
    lan.dropped(Drop.DROP_IP4_BAD_SOURCE)
    assert lan.stack.punted() == []


def test_group_frame_with_our_address(lan: Lan) -> None:
    """RFC 1122 3.3.6."""
    lan.send_frame(query(src=GUEST, dst=GATEWAY))
    lan.dropped(Drop.DROP_IP4_BAD_DESTINATION)
    assert lan.stack.punted() == []


def test_other_servers_are_the_worlds(lan: Lan) -> None:
    """A relay agent in the guest may have a server out there."""
    lan.send_frame(query(src=GUEST, dst=WORLD, dst_mac=GATEWAY_MAC))
    assert lan.stack.punted() == []
    assert lan.host.newest.sent[0].addr == WORLD


def test_datagram_too_short_for_udp_is_no_dhcp(lan: Lan) -> None:
    lan.send_frame(ip_frame(EVERYBODY, UDP, b"\0D\0C", src=GUEST, dst_mac=BROADCAST_MAC))
    lan.dropped(Drop.DROP_IP4_BAD_DESTINATION)


@pytest.mark.parametrize("length", [0, 7, 100])
def test_length_that_does_not_fit(lan: Lan, length: int) -> None:
    datagram = udp_datagram(SERVER_PORT, b"0123456789", CLIENT_PORT)
    datagram.ulen = length
    lan.send_frame(ip_frame(EVERYBODY, UDP, datagram, src=NOBODY, dst_mac=BROADCAST_MAC))
    lan.dropped(Drop.DROP_UDP_MALFORMED)


def test_train_is_no_dhcp(lan: Lan) -> None:
    vnet = Vnet(VNET_NEEDS_CSUM, 5, ETH_HLEN + IP_HLEN + 8, 4, ETH_HLEN + IP_HLEN, 6)
    lan.send_frame(query(vnet=vnet))
    lan.dropped(Drop.DROP_UDP_MALFORMED)


def test_checksum_that_is_wrong(lan: Lan) -> None:
    frame = bytearray(query())
    frame[-1] ^= 1
    lan.send_frame(bytes(frame))
    lan.dropped(Drop.DROP_UDP_BAD_CHECKSUM)


def test_piece_is_no_dhcp(lan: Lan) -> None:
    """No frame holds the whole, so there is nothing to hand up."""
    datagram = udp_datagram(SERVER_PORT, bytes(24), CLIENT_PORT)
    lan.send_frame(ip_frame(SUBNET, UDP, datagram, src=GUEST, dst_mac=BROADCAST_MAC, mf=1))
    lan.dropped(Drop.DROP_IP4_BAD_DESTINATION)
    assert lan.stack.punted() == []


# ---- IPv6

ALL_DHCP6_SERVERS = bytes.fromhex("ff020000000000000000000000010002")
ALL_ROUTERS = bytes.fromhex("ff020000000000000000000000000002")
LINK_LOCAL = bytes.fromhex("fe80000000000000000000fffe000001")


def query6(dst: bytes = ALL_DHCP6_SERVERS, dport: int = 547, src: bytes = LINK_LOCAL) -> bytes:
    """A frame as a DHCPv6 client sends it."""
    datagram = udp_datagram(dport, b"a DHCPv6 message", 546)
    mac = b"\x33\x33" + dst[12:] if dst[0] == 0xFF else GATEWAY_MAC
    return ip_frame(dst, UDP, datagram, src=src, dst_mac=mac)


def solicitation(data: bytes = bytes.fromhex("8500000000000000"), hops: int = 255) -> bytes:
    """A frame with a router solicitation."""
    mac = b"\x33\x33" + ALL_ROUTERS[12:]
    return ip_frame(ALL_ROUTERS, IP_ICMP6, data, src=LINK_LOCAL, dst_mac=mac, ttl=hops)


@pytest.mark.parametrize("frame", [query6(), solicitation()], ids=["DHCPv6", "solicitation"])
def test_ipv6_is_handed_up_whole(lan: Lan, frame: bytes) -> None:
    lan.send_frame(frame)
    assert lan.stack.punted() == [frame[VNET_HLEN:]]


def test_dhcp6_to_others_is_not_ours(lan: Lan) -> None:
    """RFC 8415 7.1: clients speak to ff02::1:2."""
    lan.send_frame(query6(ALL_ROUTERS))
    lan.send_frame(query6(dport=546))
    lan.dropped(Drop.DROP_IP6_BAD_DESTINATION, Drop.DROP_IP6_BAD_DESTINATION)
    lan.send_frame(query6(GATEWAY6))
    assert lan.stack.punted() == []


@pytest.mark.parametrize("checksum", [0, 1])
def test_dhcp6_without_the_right_checksum(lan: Lan, checksum: int) -> None:
    """RFC 8200 8.1: in IPv6 there is always one."""
    frame = bytearray(query6())
    struct.pack_into("!H", frame, VNET_HLEN + ETH_HLEN + IP6_HLEN + 6, checksum)
    lan.send_frame(bytes(frame))
    lan.dropped(Drop.DROP_UDP_BAD_CHECKSUM)


def test_dhcp6_from_nobody(lan: Lan) -> None:
    lan.send_frame(query6(src=bytes(16)))
    lan.dropped(Drop.DROP_IP6_BAD_SOURCE)


def test_solicitation_that_is_none(lan: Lan) -> None:
    lan.send_frame(solicitation(hops=254))
    lan.send_frame(solicitation(bytes.fromhex("85010000 00000000")))
    lan.dropped(Drop.DROP_NDP_MALFORMED, Drop.DROP_NDP_MALFORMED)


def test_network_without_ipv6_hands_none_up(make_lan: Callable[..., Lan]) -> None:
    lan = make_lan(network6=None)
    lan.send_frame(query6())
    lan.send_frame(solicitation())
    lan.dropped(Drop.DROP_IP6_DISABLED, Drop.DROP_IP6_DISABLED)


# ---- how much


def test_longest_frame(lan: Lan) -> None:
    longest = bytes(MAX_BYTES - ETH_HLEN - IP_HLEN - 8)
    lan.send_frame(query(longest))
    assert [len(frame) for frame in lan.stack.punted()] == [MAX_BYTES]
    lan.send_frame(query(longest + b"!"))
    lan.dropped(Drop.DROP_PUNT_TOO_LONG)
    assert lan.stack.punted() == []


def test_as_many_wait_as_there_is_room_for(lan: Lan) -> None:
    for number in range(RING_FRAMES + 2):
        lan.send_frame(query(bytes([number])))
    lan.dropped(Drop.DROP_PUNT_FULL, Drop.DROP_PUNT_FULL)
    waiting = lan.stack.punted()
    assert [frame[-1] for frame in waiting] == list(range(RING_FRAMES))
    lan.send_frame(query())
    assert len(lan.stack.punted()) == 1


def test_no_more_in_a_while_than_is_allowed(lan: Lan) -> None:
    for _ in range(BURST):
        lan.send_frame(query())
        assert len(lan.stack.punted()) == 1
    lan.send_frame(query())
    lan.dropped(Drop.DROP_PUNT_LIMITED)
    lan.advance(PERIOD_S)
    lan.send_frame(query())
    lan.send_frame(query())
    lan.dropped(Drop.DROP_PUNT_LIMITED)
    assert len(lan.stack.punted()) == 1


# ---- the way back


def test_answer_goes_out_as_it_is(lan: Lan) -> None:
    datagram = build_ip(GATEWAY, GUEST, UDP, udp_datagram(CLIENT_PORT, b"offer", SERVER_PORT))
    frame = GUEST_MAC + GATEWAY_MAC + struct.pack("!H", ETH_IP) + datagram
    lan.stack.send_frame(frame)
    lan.expect_udp(GATEWAY, SERVER_PORT, b"offer", CLIENT_PORT)
    assert (lan.stat("frames_to_guest"), lan.stat("bytes_to_guest")) == (1, len(frame))


def test_answer_that_the_link_refuses_is_counted(lan: Lan) -> None:
    lan.host.link_error = 5
    lan.stack.send_frame(bytes(60))
    assert (lan.stat("link_send_failed"), lan.stat("frames_to_guest")) == (1, 0)


@pytest.mark.parametrize("size", [0, ETH_HLEN - 1, ETH_HLEN + 65536])
def test_answer_that_is_no_frame(lan: Lan, size: int) -> None:
    with pytest.raises(ValueError, match="Ethernet header"):
        lan.stack.send_frame(bytes(size))


def test_each_stack_has_its_own(make_lan: Callable[..., Lan]) -> None:
    one, other = make_lan(), make_lan()
    one.send_frame(query())
    assert other.stack.punted() == []
    assert len(one.stack.punted()) == 1
