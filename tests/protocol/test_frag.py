"""Fragments, both ways, both families (RFC 791 3.2, 815, 1858, 5722, 6946, 7112, 8200 4.5)."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable

import dpkt
import pytest

from harness.ip import (
    IP6_HLEN,
    IP_FRAGMENT,
    IP_HLEN,
    IP_ICMP6,
    Vnet,
    build_frame,
    build_ip,
    cut,
    fragment,
)
from harness.lan import Lan, echo, echo6, udp_datagram
from harness.net import GATEWAY, GATEWAY6, GATEWAY_MAC, GUEST_MAC, WORLD, WORLD6, guest_of
from harness.tcp import Tcp
from slirp.core.stats import Drop

ICMP, UDP, TCP = dpkt.ip.IP_PROTO_ICMP, dpkt.ip.IP_PROTO_UDP, dpkt.ip.IP_PROTO_TCP
GATEWAYS = [GATEWAY, GATEWAY6]
WORLDS = [WORLD, WORLD6]
DATA = bytes(range(256)) * 8
PLACES = 64  # datagrams in pieces at a time
SECONDS = {4: 30.0, 16: 60.0}  # that the rest may take


def echo_datagram(dst: bytes, data: bytes = DATA) -> bytes:
    """An echo request of the guest's."""
    if len(dst) == 16:
        return build_ip(guest_of(dst), dst, IP_ICMP6, echo6(data=data))
    return build_ip(guest_of(dst), dst, ICMP, echo(data=data), df=0)


def send(lan: Lan, *datagrams: bytes) -> None:
    """The guest sends pieces."""
    for datagram in datagrams:
        lan.send_frame(build_frame(GUEST_MAC, GATEWAY_MAC, datagram))


def header_of(datagram: bytes) -> bytes:
    return datagram[: IP6_HLEN if datagram[0] >> 4 == 6 else IP_HLEN]


# ---- from the guest


@pytest.mark.parametrize("dst", GATEWAYS)
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_pieces_in_any_order(lan: Lan, dst: bytes, order: tuple[int, ...]) -> None:
    """RFC 815."""
    pieces = cut(echo_datagram(dst, DATA[:1500]), 504)
    for number in order:
        lan.expect_nothing()
        send(lan, pieces[number])
    lan.expect_echo_reply(dst, data=DATA[:1500])
    assert lan.stat("frags_reassembled") == 1
    lan.at_rest()


@pytest.mark.parametrize("dst", WORLDS)
@pytest.mark.parametrize("size", [65507, 60000, 9000, 1473])
def test_large_datagram_of_the_guest(lan: Lan, dst: bytes, size: int) -> None:
    data = (DATA * 40)[:size]
    udp = udp_datagram(53, data)
    fields = {} if len(dst) == 16 else {"df": 0}
    send(lan, *cut(build_ip(guest_of(dst), dst, UDP, udp, **fields), 1448))
    assert lan.host.newest.sent[0].data == data


@pytest.mark.parametrize("dst", GATEWAYS)
def test_pieces_of_several_datagrams(lan: Lan, dst: bytes) -> None:
    """They are told apart by identification."""
    first, second = (
        cut(echo_datagram(dst, data * 600), 400, ident) for ident, data in ((1, b"ab"), (2, b"cd"))
    )
    for pair in zip(first, second, strict=True):
        send(lan, *pair)
    lan.expect_echo_reply(dst, data=b"ab" * 600)
    lan.expect_echo_reply(dst, data=b"cd" * 600)


@pytest.mark.parametrize("dst", GATEWAYS)
def test_the_same_piece_again(lan: Lan, dst: bytes) -> None:
    """RFC 8200 4.5: an exact duplicate is no overlap."""
    pieces = cut(echo_datagram(dst), 1024)
    send(lan, pieces[0], pieces[0], pieces[0])
    lan.dropped(Drop.DROP_FRAG_DUPLICATE, Drop.DROP_FRAG_DUPLICATE)
    send(lan, *pieces[1:])
    lan.expect_echo_reply(dst, data=DATA)


@pytest.mark.parametrize("dst", GATEWAYS)
@pytest.mark.parametrize(
    ("at", "length"), [(0, 8), (992, 40), (1000, 8), (1016, 16), (0, 1024), (8, 8)]
)
def test_overlap_ends_the_datagram(lan: Lan, dst: bytes, at: int, length: int) -> None:
    """RFC 5722 4: with all that is still to come of it; another datagram is another matter."""
    datagram = echo_datagram(dst)
    pieces = cut(datagram, 1024)
    send(lan, pieces[0], fragment(header_of(datagram), b"\xee" * length, at, True), *pieces[1:])
    lan.dropped(*[Drop.DROP_FRAG_OVERLAP] * len(pieces))
    send(lan, *cut(datagram, 1024, ident=8))
    lan.expect_echo_reply(dst, data=DATA)
    lan.advance(SECONDS[len(dst)] + 0.1)
    lan.at_rest()


@pytest.mark.parametrize("dst", GATEWAYS)
def test_two_ends(lan: Lan, dst: bytes) -> None:
    datagram = echo_datagram(dst)
    header = header_of(datagram)
    for pieces in (
        [fragment(header, bytes(16), 64, False, 1), fragment(header, bytes(16), 96, False, 1)],
        [fragment(header, bytes(16), 64, False, 2), fragment(header, bytes(16), 96, True, 2)],
        [fragment(header, bytes(16), 96, True, 3), fragment(header, bytes(16), 64, False, 3)],
    ):
        send(lan, *pieces)
        lan.dropped(Drop.DROP_FRAG_OVERLAP)


@pytest.mark.parametrize("dst", GATEWAYS)
def test_the_rest_does_not_come(lan: Lan, dst: bytes) -> None:
    """RFC 792, RFC 8200 4.5: time exceeded in reassembly, about the first piece."""
    pieces = cut(echo_datagram(dst), 1024)
    send(lan, pieces[0])
    lan.advance(SECONDS[len(dst)] - 0.1)
    lan.expect_nothing()
    lan.advance(0.2)
    if len(dst) == 16:
        _, quote = lan.expect_icmp6_error(3, 1, src=dst)
        assert (quote.offset, quote.more) == (0, True)
    else:
        assert lan.expect_icmp_error(1, icmp_type=11).mf
    assert lan.stat("frags_timed_out") == 1
    lan.at_rest()


@pytest.mark.parametrize("dst", GATEWAYS)
def test_the_first_does_not_come(lan: Lan, dst: bytes) -> None:
    """RFC 792: without the first piece nothing is said."""
    send(lan, cut(echo_datagram(dst), 1024)[1])
    lan.advance(SECONDS[len(dst)] + 0.1)
    lan.expect_nothing()
    lan.at_rest()


@pytest.mark.parametrize("dst", GATEWAYS)
def test_places_are_bounded(lan: Lan, dst: bytes) -> None:
    """The oldest gives way, and its rest makes no datagram any more."""
    datagram = echo_datagram(dst)
    for ident in range(PLACES + 1):
        send(lan, cut(datagram, 1024, ident)[0])
        lan.advance(0.001)
    assert lan.stat("reassemblies") == PLACES
    assert lan.stat("frags_evicted") == 1
    send(lan, *cut(datagram, 1024, PLACES)[1:])
    lan.expect_echo_reply(dst, data=DATA)
    send(lan, *cut(datagram, 1024, 0)[1:])
    lan.expect_nothing()
    lan.advance(SECONDS[len(dst)] + 0.1)
    lan.inbox.clear()
    lan.at_rest()


@pytest.mark.parametrize("dst", GATEWAYS)
def test_memory_is_bounded(lan: Lan, dst: bytes) -> None:
    """A megabyte: of datagrams of 64 KiB each fifteen or less."""
    datagram = echo_datagram(dst)
    for ident in range(PLACES):
        send(lan, fragment(header_of(datagram), bytes(8), 60000, True, ident))
    assert lan.stat("reassemblies") <= 16
    lan.advance(SECONDS[len(dst)] + 0.1)
    lan.at_rest()


@pytest.mark.parametrize("dst", GATEWAYS)
def test_pieces_are_bounded(lan: Lan, dst: bytes) -> None:
    header = header_of(echo_datagram(dst))
    for number in range(129):
        send(lan, fragment(header, bytes(8), 64 + 16 * number, True))
    lan.dropped(Drop.DROP_FRAG_FULL)
    lan.advance(SECONDS[len(dst)] + 0.1)


@pytest.mark.parametrize("dst", GATEWAYS)
def test_piece_of_nothing(lan: Lan, dst: bytes) -> None:
    send(lan, fragment(header_of(echo_datagram(dst)), b"", 64, False))
    lan.dropped(Drop.DROP_FRAG_MALFORMED)


def test_piece_that_is_no_multiple_of_eight(lan: Lan) -> None:
    send(lan, fragment(header_of(echo_datagram(GATEWAY)), bytes(9), 64, True))
    lan.dropped(Drop.DROP_FRAG_MALFORMED)
    send(lan, fragment(header_of(echo_datagram(GATEWAY6)), bytes(9), 64, True))
    lan.dropped(Drop.DROP_FRAG_MALFORMED)
    assert lan.expect_icmp6_error(4, 0, src=GATEWAY6)[0] == 4, "RFC 8200 4.5: the payload length"


def test_piece_beyond_the_largest_datagram(lan: Lan) -> None:
    """The ping of death."""
    send(lan, fragment(header_of(echo_datagram(GATEWAY)), bytes(600), 65528 - 64, False))
    lan.dropped(Drop.DROP_FRAG_MALFORMED)
    send(lan, fragment(header_of(echo_datagram(GATEWAY6)), bytes(600), 65528 - 64, False))
    lan.dropped(Drop.DROP_FRAG_MALFORMED)
    assert lan.expect_icmp6_error(4, 0, src=GATEWAY6)[0] == IP6_HLEN + 2, "the fragment offset"


@pytest.mark.parametrize(("at", "length"), [(0, 8), (8, 16)])
def test_tiny_pieces_of_tcp(lan: Lan, at: int, length: int) -> None:
    """RFC 1858 3, 4."""
    header = build_ip(guest_of(WORLD), WORLD, TCP, b"", df=0)
    send(lan, fragment(header, bytes(length), at, True))
    lan.dropped(Drop.DROP_IP4_TINY_FRAGMENT)


def test_first_piece_without_the_upper_header(lan: Lan) -> None:
    """RFC 7112 5."""
    header = build_ip(guest_of(WORLD6), WORLD6, TCP, b"")
    send(lan, fragment(header, bytes(16), 0, True))
    lan.dropped(Drop.DROP_IP6_BAD_EXTENSION)
    assert lan.expect_icmp6_error(4, 3)[0] == 0


def test_atomic_fragment(lan: Lan) -> None:
    """RFC 6946 4: taken by itself, whatever else has its identification."""
    datagram = echo_datagram(GATEWAY6, b"whole")
    send(lan, cut(echo_datagram(GATEWAY6), 1024)[0])
    send(lan, fragment(header_of(datagram), datagram[IP6_HLEN:], 0, False))
    lan.expect_echo_reply(GATEWAY6, data=b"whole")
    send(lan, *cut(echo_datagram(GATEWAY6), 1024)[1:])
    lan.expect_echo_reply(GATEWAY6, data=DATA)


def test_fragment_within_a_fragment(lan: Lan) -> None:
    inner = struct.pack("!BxHI", IP_ICMP6, 1, 9) + bytes(64)
    header = header_of(build_ip(guest_of(GATEWAY6), GATEWAY6, IP_FRAGMENT, inner))
    send(lan, fragment(header, inner[:64], 0, True), fragment(header, inner[64:], 64, False))
    lan.dropped(Drop.DROP_FRAG_MALFORMED)
    lan.at_rest()


def test_extension_headers_behind_the_fragment(lan: Lan) -> None:
    """RFC 8200 4.1: what stands in the fragmentable part is looked at when it is whole."""
    message = build_ip(guest_of(GATEWAY6), GATEWAY6, IP_ICMP6, echo6(data=DATA))[IP6_HLEN:]
    options = struct.pack("!BBBB4x", IP_ICMP6, 0, 1, 4)
    datagram = build_ip(guest_of(GATEWAY6), GATEWAY6, 60, options + message)
    send(lan, *cut(datagram, 512))
    lan.expect_echo_reply(GATEWAY6, data=DATA)


def test_train_in_pieces(lan: Lan) -> None:
    """A piece is nothing for the link to cut or to finish."""
    piece = cut(build_ip(guest_of(WORLD), WORLD, UDP, udp_datagram(53, DATA), df=0), 1024)[0]
    for vnet in (Vnet(1, 5, 42, 100, 34, 6), Vnet(0, 5, 42, 100)):
        lan.send_frame(build_frame(GUEST_MAC, GATEWAY_MAC, piece, vnet))
        lan.dropped(Drop.DROP_VNET_MALFORMED)


# ---- to the guest


@pytest.mark.parametrize("dst", WORLDS)
@pytest.mark.parametrize("mtu", [1280, 1500, 9000])
@pytest.mark.parametrize("offload", [0, 1, 111])
def test_large_datagram_for_the_guest(
    make_lan: Callable[..., Lan], dst: bytes, mtu: int, offload: int
) -> None:
    """In pieces of the MTU, each with its checksum made (harness.ip.Reassembler looks)."""
    lan = make_lan(mtu=mtu, offload=offload)
    lan.udp(dst, 53)
    for size in (mtu - len(dst) - 28, 10000, 65507):
        data = (DATA * 40)[:size]
        lan.host.newest.datagram(dst, 53, data)
        assert lan.next().ip.data.data == data
    assert lan.stat("frags_sent") >= 65507 // mtu


def test_identifications_differ(lan: Lan) -> None:
    """RFC 6864 4.3, RFC 7739: and do not count up."""
    idents = []
    take = lan._whole._whole

    def note(frame: bytes, pieces: list[object]) -> bytes:
        idents.append(pieces[0].ident)  # type: ignore[attr-defined]
        return take(frame, pieces)  # type: ignore[arg-type]

    lan._whole._whole = note  # type: ignore[assignment]
    for _ in range(4):
        for gateway in GATEWAYS:
            lan.ping(gateway, data=bytes(1480)) if len(gateway) == 4 else send(
                lan, *cut(echo_datagram(gateway, bytes(1480)), 1024)
            )
            lan.next()
    assert len(set(idents)) == 8
    assert {b - a for a, b in itertools.pairwise(idents)}.isdisjoint({1, -1})


def test_tcp_is_never_in_pieces(tcp: Tcp) -> None:
    g = tcp.established()
    g.socket.feed(bytes(50000))
    assert sum(len(segment.text) for segment in g.drain()) == 50000
    assert tcp.stat("frags_sent") == 0
