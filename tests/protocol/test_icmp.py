"""ICMP echo (RFC 792, 1122 3.2.2.6): our addresses answer, ping sockets reach the world."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any

import dpkt
import pytest

from harness.host import Datagram, HostSocket
from harness.lan import Lan, echo
from harness.net import DNS, GATEWAY, GUEST, WORLD
from slirp.core.hostfake import EVENT_ERROR, EVENT_READABLE, OPTION_DONT_FRAGMENT
from slirp.core.stats import Drop

ICMP = dpkt.ip.IP_PROTO_ICMP
ROUTER = bytes((198, 51, 100, 1))
OTHER_WORLD = bytes((192, 0, 2, 81))
TIME_EXCEEDED = 11


def pinged(lan: Lan, dst: bytes = WORLD, ident: int = 7, seq: int = 1, **fields: int) -> HostSocket:
    """The host's socket of an echo request that has gone out."""
    lan.ping(dst, ident, seq, **fields)
    return lan.host.newest


def answer(socket: HostSocket, src: bytes = WORLD, seq: int = 1, data: bytes = b"ping") -> None:
    """The reply comes, under the identifier that the host's kernel gave."""
    socket.datagram(src, 0, echo(0xBEEF, seq, data, dpkt.icmp.ICMP_ECHOREPLY), ttl=55)


# ---- echo to us


@pytest.mark.parametrize("dst", [GATEWAY, DNS])
@pytest.mark.parametrize("size", [0, 1, 56, 57, 1472, 9000, 65507])
def test_our_addresses_answer(lan: Lan, dst: bytes, size: int) -> None:
    """RFC 1122 3.2.2.6: identifier, sequence number and data come back as they are."""
    data = bytes(n & 0xFF for n in range(size))
    lan.ping(dst, 0xFFFF, 0x8000, data)
    lan.expect_echo_reply(dst, 0xFFFF, 0x8000, data)
    assert not lan.host.calls


@pytest.mark.parametrize("n", range(8))
def test_shorter_than_its_header(lan: Lan, n: int) -> None:
    lan.send(GATEWAY, ICMP, echo()[:n])
    lan.dropped(Drop.DROP_ICMP_MALFORMED)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 7, 8, 11])
def test_checksum(lan: Lan, at: int) -> None:
    """RFC 1122 3.2.2: verified, over the whole message."""
    damaged = bytearray(echo())
    damaged[at] ^= 0x10
    lan.send(GATEWAY, ICMP, bytes(damaged))
    lan.dropped(Drop.DROP_ICMP_BAD_CHECKSUM)


@pytest.mark.parametrize("icmp_type", [0, 3, 4, 5, 9, 10, 11, 12, 13, 15, 17, 30, 255])
def test_other_messages_are_silently_discarded(lan: Lan, icmp_type: int) -> None:
    """RFC 1122 3.2.2: unknown types; a redirect (5) is nothing that a guest may tell a router."""
    lan.send(GATEWAY, ICMP, echo(icmp_type=icmp_type))
    lan.send(WORLD, ICMP, echo(icmp_type=icmp_type))
    lan.dropped(*[Drop.DROP_ICMP_TYPE_UNKNOWN] * 2)


def test_echo_with_a_code_is_no_echo(lan: Lan) -> None:
    message = bytes(dpkt.icmp.ICMP(type=8, code=1, data=bytes(4)))
    lan.send(GATEWAY, ICMP, message)
    lan.dropped(Drop.DROP_ICMP_TYPE_UNKNOWN)


# ---- echo to the world


def test_request_goes_out_by_a_ping_socket(lan: Lan) -> None:
    lan.ping(WORLD, data=b"some data", ttl=33)
    assert lan.host.called("ping_open") == [(True,)]
    sent = lan.host.newest.sent[0]
    assert (sent.addr, sent.data, sent.ttl) == (WORLD, echo(data=b"some data"), 32)


def test_too_big_for_the_path(lan: Lan) -> None:
    """`ping -M do`: RFC 1191 4."""
    socket = pinged(lan, df=1)
    assert socket.options == {OPTION_DONT_FRAGMENT: 1}
    socket.refusals.append(errno.EMSGSIZE)
    socket.errors.append((errno.EMSGSIZE, 0, 0, WORLD, 0, b"", 1280))
    lan.ping(WORLD, seq=2, data=bytes(1400), df=1)
    frame = lan.inbox[0]
    check_quote(lan.expect_icmp_error(4), seq=2)
    assert struct.unpack_from("!HH", frame.payload, 24) == (0, 1280)
    lan.dropped(Drop.DROP_ICMP_TOO_BIG)


def test_class_goes_both_ways(lan: Lan) -> None:
    socket = pinged(lan, tos=0xB9)
    assert socket.sent[0].tos == 0xB9
    socket.datagram(WORLD, 0, echo(1, 1, b"ping", 0), tos=0x28)
    assert lan.expect_echo_reply(WORLD).ip.tos == 0x28
    lan.ping(GATEWAY, tos=0x48)
    assert lan.expect_echo_reply(GATEWAY).ip.tos == 0x48


def test_reply_has_the_guests_identifier(lan: Lan) -> None:
    """The kernel has put its own on the wire; the TTL is what the reply had left."""
    answer(pinged(lan))
    assert lan.expect_echo_reply(WORLD).ip.ttl == 55


def test_reply_without_a_known_ttl(lan: Lan) -> None:
    pinged(lan).datagram(WORLD, 0, echo(1, 1, b"", 0))
    assert lan.next().ip.ttl == 64


def test_one_socket_for_an_exchange(lan: Lan) -> None:
    """One per identifier and destination: nobody gets another's replies."""
    first = pinged(lan)
    assert pinged(lan, seq=2) is first
    other_ident = pinged(lan, ident=8)
    other_dest = pinged(lan, dst=OTHER_WORLD)
    assert len({first.fd, other_ident.fd, other_dest.fd}) == 3
    answer(other_ident)
    lan.expect_echo_reply(WORLD, ident=8)
    answer(first, seq=2)
    lan.expect_echo_reply(WORLD, seq=2)
    answer(other_dest, src=OTHER_WORLD)
    lan.expect_echo_reply(OTHER_WORLD)


def test_replies_that_wait_come_together(lan: Lan) -> None:
    """Up to 32 for one event: the event is level-triggered, the rest is told again."""
    socket = pinged(lan)
    for seq in range(40):
        socket.datagrams.append(Datagram(WORLD, 0, echo(1, seq, b"", 0)))
    lan.stack.host_event(socket.ref, EVENT_READABLE, lan.clock.now_us)
    assert [frame.icmp.data.seq for frame in lan.inbox] == list(range(32))
    lan.stack.host_event(socket.ref, EVENT_READABLE, lan.clock.now_us)
    assert [frame.icmp.data.seq for frame in lan.inbox] == list(range(40))
    lan.inbox.clear()


@pytest.mark.parametrize("data", [b"", b"\x00", bytes(7), echo(1, 1, b"", 8), echo(1, 1, b"", 3)])
def test_what_is_no_reply_is_not_passed_on(lan: Lan, data: bytes) -> None:
    pinged(lan).datagram(WORLD, 0, data)
    assert lan.stat("host_rx_dropped") == 1


def test_host_without_ping_sockets(lan: Lan) -> None:
    """net.ipv4.ping_group_range excludes us: silence, and nothing is left behind."""
    lan.host.open_error = errno.EACCES
    lan.ping(WORLD)
    lan.dropped(Drop.DROP_ICMP_NO_PING_SOCKET)
    lan.at_rest()


@pytest.mark.parametrize(
    ("error", "code"),
    [(errno.ENETUNREACH, 0), (errno.EHOSTUNREACH, 1), (errno.EACCES, 13), (errno.EPERM, 13)],
)
def test_host_that_cannot_send(lan: Lan, error: int, code: int) -> None:
    """RFC 1812 5.2.7.1: as a router without a route says it."""
    socket = pinged(lan)
    socket.error = error
    lan.ping(WORLD, seq=2)
    quote = lan.expect_icmp_error(code)
    assert bytes(quote.data) == echo(seq=2)
    lan.dropped(Drop.DROP_ICMP_HOST_REFUSED)


def test_host_whose_buffer_is_full(lan: Lan) -> None:
    pinged(lan).error = errno.EAGAIN
    lan.ping(WORLD)
    lan.dropped(Drop.DROP_ICMP_HOST_REFUSED)


def test_error_left_by_an_earlier_request_does_not_cost_this_one(lan: Lan) -> None:
    """ip(7), IP_RECVERR: a pending error is reported by the next call, once."""
    socket = pinged(lan)
    socket.refusals.append(errno.EHOSTUNREACH)
    lan.ping(WORLD, seq=2)
    assert len(socket.sent) == 2


# ---- errors about echo


def check_quote(quote: Any, seq: int = 1) -> None:
    """The guest finds its own request by it (RFC 792: header and first eight bytes)."""
    assert (quote.src, quote.dst, quote.p) == (GUEST, WORLD, ICMP)
    head = struct.unpack_from("!BBxxHH", bytes(quote.data))
    assert head == (8, 0, 7, seq)


def test_time_exceeded_on_the_way(lan: Lan) -> None:
    """How the guest's traceroute works: the router that says so is who it was."""
    socket = pinged(lan, seq=3)
    socket.report(errno.EHOSTUNREACH, TIME_EXCEEDED, 0, WORLD, 0, ROUTER, 0)
    check_quote(lan.expect_icmp_error(0, src=ROUTER, icmp_type=TIME_EXCEEDED), seq=3)


def test_time_exceeded_for_an_earlier_request(lan: Lan) -> None:
    """A traceroute by ICMP has many out at once, under one identifier."""
    socket = pinged(lan, seq=3)
    lan.ping(WORLD, seq=4)
    socket.report(errno.EHOSTUNREACH, TIME_EXCEEDED, 0, WORLD, 0, ROUTER, 0, 3)
    check_quote(lan.expect_icmp_error(0, src=ROUTER, icmp_type=TIME_EXCEEDED), seq=3)


@pytest.mark.parametrize("code", [0, 1, 2, 3, 5, 9, 10, 13])
def test_unreachable(lan: Lan, code: int) -> None:
    pinged(lan).report(errno.EHOSTUNREACH, 3, code, WORLD, 0, ROUTER, 0)
    check_quote(lan.expect_icmp_error(code, src=ROUTER))


def test_fragmentation_needed_tells_the_mtu(lan: Lan) -> None:
    """RFC 1191 4: the next-hop MTU in the low half of the second word."""
    pinged(lan).report(errno.EMSGSIZE, 3, 4, WORLD, 0, ROUTER, 1280)
    frame = lan.inbox[0]
    check_quote(lan.expect_icmp_error(4, src=ROUTER))
    assert struct.unpack_from("!HH", frame.payload, 24) == (0, 1280)


def test_offender_unknown_is_the_gateway(lan: Lan) -> None:
    pinged(lan).report(errno.EHOSTUNREACH, 3, 1, WORLD, 0)
    check_quote(lan.expect_icmp_error(1, src=GATEWAY))


def test_offender_on_the_hosts_loopback_is_the_gateway(lan: Lan) -> None:
    """A source of 127.0.0.1 would be a martian to the guest."""
    pinged(lan).report(errno.EHOSTUNREACH, 3, 1, WORLD, 0, bytes((127, 0, 0, 1)), 0)
    check_quote(lan.expect_icmp_error(1, src=GATEWAY))


@pytest.mark.parametrize(
    ("error", "code"), [(errno.EHOSTUNREACH, 1), (errno.ENETUNREACH, 0), (errno.ENETDOWN, 0)]
)
def test_local_error(lan: Lan, error: int, code: int) -> None:
    """The host knows by itself (ARP failed, no route): no ICMP message stands behind it."""
    pinged(lan).report(error, 0, 0, WORLD, 0)
    check_quote(lan.expect_icmp_error(code))


@pytest.mark.parametrize("error", [(errno.EPROTO, 12, 0), (errno.ENOBUFS, 0, 0)])
def test_errors_that_do_not_concern_the_guest(lan: Lan, error: tuple[int, int, int]) -> None:
    pinged(lan).report(*error, WORLD, 0)
    lan.expect_nothing()


def test_errors_and_replies_of_one_event(lan: Lan) -> None:
    socket = pinged(lan)
    socket.errors.append((errno.EHOSTUNREACH, 3, 1, WORLD, 0))
    socket.datagrams.append(Datagram(WORLD, 0, echo(1, 1, b"ping", 0)))
    lan.stack.host_event(socket.ref, EVENT_READABLE | EVENT_ERROR, lan.clock.now_us)
    lan.expect_icmp_error(1)
    lan.expect_echo_reply(WORLD)


# ---- life of an exchange


def test_idle_exchange_ends_after_30_seconds(lan: Lan) -> None:
    socket = pinged(lan)
    lan.advance(29.9)
    lan.ping(WORLD, seq=2)
    lan.advance(29.9)
    assert lan.host.open_sockets == [socket]
    lan.advance(0.2)
    assert socket.ended == "close"
    lan.at_rest()


def test_late_event_for_an_exchange_that_is_gone(lan: Lan) -> None:
    socket = pinged(lan)
    lan.advance(31)
    lan.stack.host_event(socket.ref, EVENT_READABLE, lan.clock.now_us)
    assert lan.stat("host_stale_events") == 1


def test_exchanges_are_bounded_and_the_oldest_gives_way(make_lan: Callable[..., Lan]) -> None:
    """1024; one that is in use is not the oldest."""
    lan = make_lan(max_flows=4096)
    for ident in range(1024):
        lan.ping(WORLD, ident)
    lan.ping(WORLD, 0, seq=2)
    first, second = list(lan.host.sockets.values())[:2]
    lan.ping(WORLD, 5000)
    assert (first.ended, second.ended) == ("", "close")
    assert len(lan.host.open_sockets) == lan.stat("flows") == 1024


def test_pings_push_nobody_else_out(lan: Lan) -> None:
    """At most a quarter of the flows is theirs, so that they fill no table."""
    for port in range(256):
        lan.udp(WORLD, 53, sport=1000 + port)
    for ident in range(1024):
        lan.ping(WORLD, ident)
    assert lan.stat("flows") == 256 + 256
    assert lan.stat("udp_evicted") == 0


def test_a_reply_that_no_datagram_can_hold_is_dropped(lan: Lan) -> None:
    """Behind an IPv4 header its total length would be over 65,535: the fuzzer's find."""
    socket = pinged(lan)
    answer(socket, data=bytes(65535 - 20 - 8 + 1))
    assert lan.stat("host_rx_dropped") == 1
    answer(socket, data=bytes(1472))
    lan.expect_echo_reply(WORLD, 7, 1, bytes(1472))
