"""ARP (RFC 826) and address conflict detection (RFC 5227)."""

from __future__ import annotations

import dataclasses

import dpkt
import pytest

from harness.lan import BROADCAST_MAC, Lan
from harness.net import DNS, GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, WORLD
from slirp.core.stats import Drop

OTHER = bytes((10, 0, 2, 15))
OTHER_MAC = bytes.fromhex("020000000002")
NOBODY = bytes(4)
REPLY = dpkt.arp.ARP_OP_REPLY


@pytest.mark.parametrize("target", [GATEWAY, DNS])
def test_who_has_ours_is_answered(lan: Lan, target: bytes) -> None:
    """RFC 826, packet reception: sender and target change places, to the asker alone."""
    lan.arp(target)
    frame = lan.next()
    assert frame.dst_mac == GUEST_MAC
    arp = frame.arp
    assert (arp.hrd, arp.pro, arp.hln, arp.pln, arp.op) == (1, 0x0800, 6, 4, REPLY)
    assert (arp.sha, arp.spa) == (GATEWAY_MAC, target)
    assert (arp.tha, arp.tpa) == (GUEST_MAC, GUEST)


def test_asked_at_our_own_address(lan: Lan) -> None:
    """A unicast request: how a kernel confirms a neighbour that it knows (RFC 1122 2.3.2.1)."""
    lan.arp(GATEWAY, dst_mac=GATEWAY_MAC)
    assert lan.next().arp.spa == GATEWAY


@pytest.mark.parametrize("target", [OTHER, WORLD, bytes((10, 0, 2, 255)), bytes((10, 0, 2, 0))])
def test_who_has_anything_else_is_not(lan: Lan, target: bytes) -> None:
    """Else the guest's own duplicate detection would find us."""
    lan.arp(target)
    lan.dropped(Drop.DROP_ARP_NOT_FOR_US)


def test_probe_for_an_address_of_its_own_meets_no_conflict(lan: Lan) -> None:
    """RFC 5227 2.1.1: no sender address; whoever answered would own the address."""
    lan.arp(GUEST, sender=NOBODY)
    lan.dropped(Drop.DROP_ARP_NOT_FOR_US)


@pytest.mark.parametrize("target", [GATEWAY, DNS])
def test_probe_for_ours_meets_a_conflict(lan: Lan, target: bytes) -> None:
    """RFC 5227 2.1.1: the reply tells the prober that the address is taken."""
    lan.arp(target, sender=NOBODY)
    arp = lan.next().arp
    assert (arp.op, arp.sha, arp.spa, arp.tha) == (REPLY, GATEWAY_MAC, target, GUEST_MAC)


def test_announcement_of_its_own_is_taken_note_of(lan: Lan) -> None:
    """RFC 5227 2.3: sender and target are the same."""
    lan.arp(GUEST)
    lan.expect_nothing()


@pytest.mark.parametrize("operation", [1, REPLY])
def test_nobody_takes_ours_away(lan: Lan, operation: int) -> None:
    """RFC 5227 2.4: an announcement of our address is not believed; a claim is answered by ours."""
    lan.arp(GATEWAY, sender=GATEWAY, operation=operation, mac=OTHER_MAC)
    if operation == 1:
        frame = lan.next()
        assert frame.dst_mac == OTHER_MAC
        assert (frame.arp.sha, frame.arp.spa) == (GATEWAY_MAC, GATEWAY)
    lan.ping(GATEWAY)
    lan.expect_echo_reply(GATEWAY)


def test_reply_is_not_answered(lan: Lan) -> None:
    """RFC 826: only requests are."""
    lan.arp(GATEWAY, operation=REPLY, dst_mac=GATEWAY_MAC)
    lan.expect_nothing()


def forwarded(lan: Lan, guest: bytes = OTHER) -> bytes:
    """Where a datagram of a forward's client for `guest` is sent."""
    lan.forward(53, guest).datagram(WORLD, 4000, b"hello")
    frame = lan.next()
    assert frame.ip.dst == guest
    return frame.dst_mac


def test_unknown_guest_is_sought_at_the_taps_own_address(lan: Lan) -> None:
    assert forwarded(lan) == GUEST_MAC


@pytest.mark.parametrize("operation", [1, REPLY])
def test_who_speaks_is_remembered(lan: Lan, operation: int) -> None:
    """RFC 826: the sender's addresses are merged into the table, whatever it wants."""
    lan.arp(GATEWAY, sender=OTHER, mac=OTHER_MAC, operation=operation)
    lan.inbox.clear()
    assert forwarded(lan) == OTHER_MAC


def test_who_sends_datagrams_is_remembered(lan: Lan) -> None:
    lan.ping(GATEWAY, src=OTHER, src_mac=OTHER_MAC)
    assert lan.next().dst_mac == OTHER_MAC
    assert forwarded(lan) == OTHER_MAC


def test_who_moves_is_found_again(lan: Lan) -> None:
    lan.arp(OTHER, sender=OTHER, mac=OTHER_MAC)
    lan.arp(OTHER, sender=OTHER, mac=GUEST_MAC)
    assert forwarded(lan) == GUEST_MAC


@pytest.mark.parametrize("sender", [NOBODY, WORLD, GATEWAY])
def test_who_is_not_of_this_network_is_not_remembered(lan: Lan, sender: bytes) -> None:
    lan.arp(DNS, sender=sender, mac=OTHER_MAC)
    lan.inbox.clear()
    lan.arp(OTHER, sender=OTHER, mac=OTHER_MAC)
    lan.arp(OTHER, sender=sender, mac=GUEST_MAC)
    lan.dropped(Drop.DROP_ARP_NOT_FOR_US)
    assert forwarded(lan) == OTHER_MAC


@dataclasses.dataclass(frozen=True)
class Mistake:
    """A field of a request, set wrong."""

    at: int
    value: bytes


@pytest.mark.parametrize(
    "mistake",
    [
        Mistake(0, b"\x00\x06"),  # hardware: IEEE 802
        Mistake(2, b"\x86\xdd"),  # protocol: IPv6
        Mistake(4, b"\x08"),
        Mistake(5, b"\x10"),
        Mistake(6, b"\x00\x00"),  # operation
        Mistake(6, b"\x00\x03"),  # RARP
        Mistake(8, b"\xff"),  # nobody's hardware address is a group's
    ],
)
def test_malformed(lan: Lan, mistake: Mistake) -> None:
    arp = bytearray(bytes(dpkt.arp.ARP(op=1, sha=GUEST_MAC, spa=GUEST, tpa=GATEWAY)))
    arp[mistake.at : mistake.at + len(mistake.value)] = mistake.value
    lan.send_frame(bytes(12) + BROADCAST_MAC + GUEST_MAC + b"\x08\x06" + bytes(arp))
    lan.dropped(Drop.DROP_ARP_MALFORMED)


@pytest.mark.parametrize("n", [0, 1, 27])
def test_truncated(lan: Lan, n: int) -> None:
    arp = bytes(dpkt.arp.ARP(op=1, sha=GUEST_MAC, spa=GUEST, tpa=GATEWAY))[:n]
    lan.send_frame(bytes(12) + BROADCAST_MAC + GUEST_MAC + b"\x08\x06" + arp)
    lan.dropped(Drop.DROP_ARP_MALFORMED)


def test_without_ethernets_padding(lan: Lan) -> None:
    lan.arp(GATEWAY, trailer=b"")
    assert lan.next().arp.spa == GATEWAY


def test_reply_that_the_link_refuses_is_counted(lan: Lan) -> None:
    lan.host.link_error = 5
    lan.arp(GATEWAY)
    assert lan.stat("link_send_failed") == 1
    assert lan.stat("frames_to_guest") == 0
