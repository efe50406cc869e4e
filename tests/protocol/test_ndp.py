"""Neighbour discovery (RFC 4861) and duplicate address detection (RFC 4862)."""

from __future__ import annotations

import struct

import pytest

from harness.ip import IP_ICMP6, build_ip
from harness.lan import ALL_NODES6, ETH_IP6, Frame, Lan
from harness.net import (
    DNS6,
    GATEWAY6,
    GATEWAY_MAC,
    GUEST6,
    GUEST_MAC,
    LINK_LOCAL6,
    NETWORK6,
    WORLD6,
)
from slirp.core.stats import Drop

OURS = [GATEWAY6, DNS6, LINK_LOCAL6]
SOLICITATION, ADVERTISEMENT = 135, 136
SOURCE_MAC, TARGET_MAC = 1, 2
UNSPECIFIED = bytes(16)
OTHER_MAC = bytes.fromhex("020000000077")


def solicited_node(target: bytes) -> bytes:
    """RFC 4291 2.7.1."""
    return bytes.fromhex("ff02") + bytes(9) + b"\x01\xff" + target[13:]


def mac_option(kind: int, mac: bytes = GUEST_MAC) -> bytes:
    return bytes([kind, 1]) + mac


def message(
    target: bytes, options: bytes, kind: int = SOLICITATION, flags: int = 0, code: int = 0
) -> bytes:
    return struct.pack("!BBHI", kind, code, 0, flags << 24) + target + options


def send(
    lan: Lan,
    target: bytes,
    *,
    src: bytes = GUEST6,
    dst: bytes = b"",
    hops: int = 255,
    **rest: object,
) -> None:
    """A solicitation of the guest's, or what `rest` makes of it."""
    options = rest.pop("options", mac_option(SOURCE_MAC))
    data = message(target, options, **rest)  # type: ignore[arg-type]
    dst = dst or solicited_node(target)
    datagram = build_ip(src, dst, IP_ICMP6, data, ttl=hops)
    mac = b"\x33\x33" + dst[12:] if dst[0] == 0xFF else GATEWAY_MAC
    lan.send_frame(bytes(12) + mac + GUEST_MAC + struct.pack("!H", ETH_IP6) + datagram)


def expect_advertisement(lan: Lan, target: bytes, to: bytes = GUEST6) -> Frame:
    """RFC 4861 7.2.4."""
    frame = lan.next()
    assert (frame.ip.src, frame.ip.dst, frame.ip.hlim) == (target, to, 255)
    kind, code, flags, about = frame.icmp6[0], frame.icmp6[1], frame.icmp6[4], frame.icmp6[8:24]
    assert (kind, code, about) == (ADVERTISEMENT, 0, target)
    assert flags == (0xA0 if to == ALL_NODES6 else 0xE0)
    assert frame.icmp6[24:] == mac_option(TARGET_MAC, GATEWAY_MAC)
    return frame


@pytest.mark.parametrize("ours", OURS)
def test_who_has(lan: Lan, ours: bytes) -> None:
    send(lan, ours)
    assert expect_advertisement(lan, ours).dst_mac == GUEST_MAC


@pytest.mark.parametrize("ours", OURS)
def test_are_you_still_there(lan: Lan, ours: bytes) -> None:
    """RFC 4861 7.3: a unicast probe, which may come without the asker's address."""
    send(lan, ours, dst=ours, options=b"")
    expect_advertisement(lan, ours)


@pytest.mark.parametrize("target", [NETWORK6[:15] + b"\x55", GUEST6, WORLD6])
def test_who_has_what_is_not_ours(lan: Lan, target: bytes) -> None:
    """So that the guest finds its own address free (RFC 4862 5.4)."""
    send(lan, target)
    send(lan, target, src=UNSPECIFIED, options=b"")
    lan.dropped(Drop.DROP_NDP_NOT_FOR_US, Drop.DROP_NDP_NOT_FOR_US)


@pytest.mark.parametrize("ours", OURS)
def test_somebody_tries_our_address(lan: Lan, ours: bytes) -> None:
    """RFC 4862 5.4.3: the duplicate is told to all nodes."""
    send(lan, ours, src=UNSPECIFIED, options=b"")
    assert expect_advertisement(lan, ours, ALL_NODES6).dst_mac == b"\x33\x33\0\0\0\1"


@pytest.mark.parametrize(
    "bad",
    [
        {"hops": 254},
        {"code": 1},
        {"options": b"\x01\x00" + bytes(6)},
        {"options": b"\x01\x02" + bytes(6)},
        {"options": b"\x01"},
        {"src": UNSPECIFIED},
        {"src": UNSPECIFIED, "options": b"", "dst": GATEWAY6},
    ],
)
def test_solicitations_that_are_none(lan: Lan, bad: dict[str, object]) -> None:
    """RFC 4861 7.1.1."""
    send(lan, GATEWAY6, **bad)  # type: ignore[arg-type]
    lan.dropped(Drop.DROP_NDP_MALFORMED)


def test_solicitation_of_a_group(lan: Lan) -> None:
    send(lan, ALL_NODES6, dst=GATEWAY6)
    lan.dropped(Drop.DROP_NDP_MALFORMED)


def test_solicitation_cut_short(lan: Lan) -> None:
    for n in (8, 23):
        datagram = build_ip(GUEST6, GATEWAY6, IP_ICMP6, message(GATEWAY6, b"")[:n], ttl=255)
        lan.send_frame(bytes(12) + GATEWAY_MAC + GUEST_MAC + b"\x86\xdd" + datagram)
        lan.dropped(Drop.DROP_NDP_MALFORMED)


def test_solicitation_sent_elsewhere(lan: Lan) -> None:
    send(lan, GATEWAY6, dst=solicited_node(GUEST6))
    lan.dropped(Drop.DROP_NDP_NOT_FOR_US)


@pytest.mark.parametrize("kind", [134, 137])
def test_nobody_routes_us(lan: Lan, kind: int) -> None:
    """Advertisements of other routers and redirects are not for a router."""
    send(lan, GATEWAY6, dst=GATEWAY6, kind=kind)
    lan.dropped(Drop.DROP_NDP_NOT_FOR_US)


def client_arrives(lan: Lan, guest: bytes) -> Frame:
    """What a client of a port forwarded to `guest` makes us send."""
    listener = lan.host.listener()
    forward = lan.stack.add_forward("tcp", listener, guest, 80)
    lan.host.client(listener, WORLD6, 40000)
    frame = lan.next()
    lan.stack.remove_forward(forward)
    return frame


@pytest.mark.parametrize(
    ("kind", "option"), [(SOLICITATION, SOURCE_MAC), (ADVERTISEMENT, TARGET_MAC)]
)
def test_what_a_guest_says_of_itself_is_learned(lan: Lan, kind: int, option: int) -> None:
    other = NETWORK6[:15] + b"\x77"
    if kind == SOLICITATION:
        send(lan, GATEWAY6, src=other, options=mac_option(option, OTHER_MAC))
        lan.next()
    else:
        send(lan, other, src=other, dst=GATEWAY6, kind=kind, options=mac_option(option, OTHER_MAC))
    assert client_arrives(lan, other).dst_mac == OTHER_MAC
    assert client_arrives(lan, GUEST6).dst_mac == GUEST_MAC


@pytest.mark.parametrize("ours", OURS)
def test_nobody_takes_our_address(lan: Lan, ours: bytes) -> None:
    send(lan, ours, dst=ours, kind=ADVERTISEMENT, options=mac_option(TARGET_MAC, OTHER_MAC))
    send(lan, GATEWAY6)
    expect_advertisement(lan, GATEWAY6)


@pytest.mark.parametrize(
    "bad", [{"flags": 0x40, "dst": ALL_NODES6}, {"options": b"\x02\x00" + bytes(6)}]
)
def test_advertisements_that_are_none(lan: Lan, bad: dict[str, object]) -> None:
    """RFC 4861 7.1.2."""
    send(lan, GUEST6, kind=ADVERTISEMENT, **{"dst": GATEWAY6} | bad)  # type: ignore[arg-type]
    lan.dropped(Drop.DROP_NDP_MALFORMED)
