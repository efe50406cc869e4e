"""Where a guest is that has not spoken yet: asked for when something is for it (RFC 826, RFC 4861
7.2), on a link that does not tell (User Mode Linux, an open TAP of somebody else's).
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import dpkt
import pytest

from harness.ip import IP_ICMP6, build_ip
from harness.lan import BROADCAST_MAC, ETH_ARP, ETH_IP6, Frame, Lan
from harness.net import (
    GATEWAY,
    GATEWAY6,
    GATEWAY_MAC,
    GUEST,
    GUEST6,
    GUEST_MAC,
    LINK_LOCAL6,
    WORLD,
    WORLD6,
)

UNKNOWN = bytes(6)
OTHERS = [bytes((10, 0, 2, 200 + n)) for n in range(20)]
SOLICITATION, ADVERTISEMENT = 135, 136


@pytest.fixture
def lan(make_lan: Callable[..., Lan]) -> Lan:
    return make_lan(guest_mac=UNKNOWN)


def connect(lan: Lan, guest: bytes = GUEST) -> None:
    """A client of a forwarded port."""
    listener = lan.host.listener()
    lan.stack.add_forward("tcp", listener, guest, 80)
    lan.host.client(listener, WORLD if len(guest) == 4 else WORLD6, 4000)


def asked(frame: Frame) -> bytes:
    """The address that an ARP request of ours is about."""
    assert (frame.ethertype, frame.dst_mac) == (ETH_ARP, BROADCAST_MAC)
    arp = frame.arp
    assert (arp.op, arp.sha, arp.spa, arp.tha) == (1, GATEWAY_MAC, GATEWAY, bytes(6))
    return bytes(arp.tpa)


def test_client_of_a_forward_finds_the_guest(lan: Lan) -> None:
    """The SYN's retransmission finds it when it has answered."""
    connect(lan)
    assert asked(lan.next()) == GUEST
    lan.expect_nothing()
    lan.arp(GATEWAY, operation=dpkt.arp.ARP_OP_REPLY, dst_mac=GATEWAY_MAC)
    lan.advance(1.1)
    syn = lan.next()
    assert (syn.dst_mac, syn.ip.data.flags, syn.ip.data.dport) == (GUEST_MAC, 2, 80)
    assert lan.stat("neigh_unknown") == lan.stat("neigh_asked") == 1


def test_the_same_in_ipv6(lan: Lan) -> None:
    connect(lan, GUEST6)
    ask = lan.next()
    group = bytes.fromhex("ff02") + bytes(9) + b"\x01\xff" + GUEST6[13:]
    assert ask.dst_mac == b"\x33\x33" + group[12:]
    assert (ask.ip.src, ask.ip.dst, ask.ip.hlim) == (GATEWAY6, group, 255)
    assert (ask.icmp6[0], ask.icmp6[8:24]) == (SOLICITATION, GUEST6)
    assert ask.icmp6[24:] == b"\x01\x01" + GATEWAY_MAC
    answer = struct.pack("!BBHI", ADVERTISEMENT, 0, 0, 0x60000000) + GUEST6 + b"\2\1" + GUEST_MAC
    datagram = build_ip(GUEST6, GATEWAY6, IP_ICMP6, answer, ttl=255)
    lan.send_frame(bytes(12) + GATEWAY_MAC + GUEST_MAC + struct.pack("!H", ETH_IP6) + datagram)
    lan.advance(1.1)
    syn = lan.next()
    assert (syn.dst_mac, syn.ip.dst, syn.ip.data.dport) == (GUEST_MAC, GUEST6, 80)


def test_link_local_guest_is_asked_from_the_link(lan: Lan) -> None:
    guest = LINK_LOCAL6[:15] + b"\x77"
    connect(lan, guest)
    ask = lan.next()
    assert (ask.ip.src, ask.icmp6[8:24]) == (LINK_LOCAL6, guest)


def test_datagram_finds_the_guest_the_next_time(lan: Lan) -> None:
    socket = lan.forward(53)
    socket.datagram(WORLD, 4000, b"lost")
    assert asked(lan.next()) == GUEST
    lan.arp(GATEWAY, operation=dpkt.arp.ARP_OP_REPLY, dst_mac=GATEWAY_MAC)
    socket.datagram(WORLD, 4000, b"comes")
    frame = lan.next()
    assert (frame.dst_mac, frame.udp.data) == (GUEST_MAC, b"comes")


def test_who_is_silent_is_asked_once_a_second(lan: Lan) -> None:
    """RFC 1122 2.3.2.1; what could not be sent is counted, each time."""
    socket = lan.forward(53)
    for _ in range(25):
        socket.datagram(WORLD, 4000, b"x")
        lan.advance(0.1)
    assert [asked(frame) for frame in lan.inbox] == [GUEST] * 3
    lan.inbox.clear()
    assert (lan.stat("neigh_unknown"), lan.stat("neigh_asked")) == (25, 3)


def test_only_so_many_are_asked_for_at_a_time(lan: Lan) -> None:
    for guest in OTHERS:
        lan.forward(53, guest).datagram(WORLD, 4000, b"x")
    assert [asked(frame) for frame in lan.inbox] == OTHERS[:8]
    lan.inbox.clear()
    lan.advance(1)
    lan.host.newest.datagram(WORLD, 4000, b"x")
    assert asked(lan.next()) == OTHERS[-1]


def test_whose_place_is_known_is_not_asked_for(lan: Lan) -> None:
    """Whatever the guest has sent tells."""
    lan.udp(WORLD, 53)
    connect(lan)
    assert lan.next().dst_mac == GUEST_MAC
    assert lan.stat("neigh_asked") == 0
