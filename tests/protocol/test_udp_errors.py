"""What goes wrong with a datagram of the guest's, and how the guest hears of it."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import Any

import dpkt
import pytest

from harness.lan import PORT, Lan
from harness.net import GATEWAY, GUEST, WORLD
from slirp.core.hostfake import EVENT_ERROR, OPTION_DONT_FRAGMENT
from slirp.core.stats import Drop

UDP = dpkt.ip.IP_PROTO_UDP
OTHER_WORLD = bytes((198, 51, 100, 7))
ROUTER = bytes((203, 0, 113, 1))
LOOPBACK = bytes((127, 0, 0, 1))

# ---- what the host refuses


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE])
def test_no_socket_left(lan: Lan, error: int) -> None:
    """Our trouble, not the destination's: nothing is said, nothing stays."""
    lan.host.open_error = error
    lan.udp(WORLD, 53)
    lan.dropped(Drop.DROP_FLOWS_FULL)
    lan.at_rest()


@pytest.mark.parametrize(
    ("error", "code"),
    [(errno.ENETUNREACH, 0), (errno.EHOSTUNREACH, 1), (errno.EACCES, 13), (errno.EPERM, 13)],
)
def test_cannot_be_sent(lan: Lan, error: int, code: int) -> None:
    """RFC 1812 5.2.7.1, of the guest's own datagram."""
    lan.mapped().error = error
    lan.udp(WORLD, 4242, b"second")
    quote = lan.expect_icmp_error(code)
    assert (quote.dst, quote.data.sport, quote.data.dport) == (WORLD, PORT, 4242)
    assert quote.data.data == b"second"
    lan.dropped(Drop.DROP_UDP_HOST_REFUSED)


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EINVAL, errno.ENOBUFS])
def test_cannot_be_sent_and_no_router_would_say_why(lan: Lan, error: int) -> None:
    lan.mapped().error = error
    lan.udp(WORLD, 53)
    lan.dropped(Drop.DROP_UDP_HOST_REFUSED)


def test_error_left_by_an_earlier_datagram_does_not_cost_this_one(lan: Lan) -> None:
    """ip(7), IP_RECVERR: a pending error is reported by the next call, once."""
    socket = lan.mapped()
    socket.refusals.append(errno.ECONNREFUSED)
    lan.udp(WORLD, 53, b"second")
    assert [sent.data for sent in socket.sent] == [b"query", b"second"]


def check_quote(
    quote: Any, dst: bytes, dport: int, length: int = 8 + len(b"query"), sport: int = PORT
) -> None:
    """RFC 792: the header of the datagram and its first eight bytes."""
    assert (quote.src, quote.dst, quote.p) == (GUEST, dst, UDP)
    assert struct.unpack("!HHH", bytes(quote.data)[:6]) == (sport, dport, length)


@pytest.mark.parametrize(
    ("icmp_type", "code"),
    [*((3, code) for code in range(16) if code != 4), (11, 0), (11, 1)],
)
def test_icmp_error_is_passed_on(lan: Lan, icmp_type: int, code: int) -> None:
    """RFC 1122 4.1.3.3: the application hears of it; about the destination that it was for."""
    socket = lan.mapped()
    lan.mapped(OTHER_WORLD, 33434)
    socket.report(errno.EHOSTUNREACH, icmp_type, code, OTHER_WORLD, 33434, ROUTER, 0)
    quote = lan.expect_icmp_error(code, src=ROUTER, icmp_type=icmp_type)
    check_quote(quote, OTHER_WORLD, 33434)


def test_quote_is_what_the_guest_sent(lan: Lan) -> None:
    """Down to life, identification and checksum, by which some traceroutes tell their probes."""
    lan.mapped()
    lan.udp(WORLD, 33435, b"probe", ttl=3, id=4711, tos=0x48, df=1)
    lan.host.newest.report(errno.EHOSTUNREACH, 11, 0, WORLD, 33435, ROUTER, 0)
    quote = lan.expect_icmp_error(0, src=ROUTER, icmp_type=11)
    assert (quote.ttl, quote.id, quote.tos, quote.df, quote.len) == (3, 4711, 0x48, 1, 33)
    check_quote(quote, WORLD, 33435)
    assert quote.data.sum


def test_quote_of_a_datagram_with_options_has_none(lan: Lan) -> None:
    lan.udp(WORLD, 33435, b"probe", opts=b"\x01\x01\x01\x00", id=4711)
    lan.host.newest.report(errno.EHOSTUNREACH, 11, 0, WORLD, 33435, ROUTER, 0)
    quote = lan.expect_icmp_error(0, src=ROUTER, icmp_type=11)
    assert (quote.hl, quote.id, quote.len) == (5, 4711, 33)
    check_quote(quote, WORLD, 33435)


def test_quote_of_a_datagram_long_past(lan: Lan) -> None:
    """Only of the last one more is known than where it went."""
    socket = lan.mapped(WORLD, 33435)
    lan.udp(WORLD, 33436)
    socket.report(errno.EHOSTUNREACH, 11, 0, WORLD, 33435, ROUTER, 0)
    check_quote(lan.expect_icmp_error(0, src=ROUTER, icmp_type=11), WORLD, 33435, length=8)


# ---- what may not be cut


def test_wish_not_to_be_cut_is_passed_on(lan: Lan) -> None:
    """Said to the socket when it changes."""
    for df in (1, 1, 0, 0, 1):
        lan.udp(WORLD, 53, df=df)
    wishes = [call[1:] for call in lan.host.called("set_option")]
    assert wishes == [(OPTION_DONT_FRAGMENT, value) for value in (1, 0, 1)]


def test_so_is_that_of_an_answer_to_a_client(lan: Lan) -> None:
    """Of all clients on the forward's one socket."""
    socket = lan.forward(7000)
    for port in (4000, 4001):
        socket.datagram(WORLD, port, b"?")
        lan.next()
    for port, df in ((4000, 1), (4001, 1), (4000, 0), (4001, 0), (4000, 1)):
        lan.udp(WORLD, port, b"!", sport=7000, df=df)
    wishes = [call[1:] for call in lan.host.called("set_option")]
    assert wishes == [(OPTION_DONT_FRAGMENT, value) for value in (1, 0, 1)]
    assert [sent.port for sent in socket.sent] == [4000, 4001, 4000, 4001, 4000]


def test_answer_to_a_client_that_is_too_big(lan: Lan) -> None:
    """The host's kernel says so at once, and in the socket's error queue of what the path has."""
    socket = lan.forward(7000)
    socket.datagram(WORLD, 4000, b"?")
    lan.next()
    socket.refusals.extend([errno.EMSGSIZE] * 2)
    lan.udp(WORLD, 4000, bytes(1400), sport=7000, df=1)
    lan.dropped(Drop.DROP_UDP_TOO_BIG)
    socket.report(errno.EMSGSIZE, 0, 0, WORLD, 4000, b"", 1300)
    frame = lan.inbox[0]
    lan.expect_icmp_error(4)
    assert int.from_bytes(bytes(frame.icmp)[6:8], "big") == 1300


@pytest.mark.parametrize("error", [errno.ECONNREFUSED, errno.EMSGSIZE])
def test_another_clients_error_loses_no_answer(lan: Lan, error: int) -> None:
    """sendmsg(2) gives what an earlier datagram met; the next call sends."""
    socket = lan.forward(7000)
    socket.datagram(WORLD, 4000, b"?")
    lan.next()
    socket.refusals.append(error)
    lan.udp(WORLD, 4000, b"!", sport=7000)
    assert [sent.data for sent in socket.sent] == [b"!"]


def test_what_no_ethernet_carries_may_be_cut(make_lan: Callable[..., Lan]) -> None:
    """A guest with a wider MTU has DF in everything; nobody told it of a path."""
    lan = make_lan(mtu=65520)
    lan.udp(WORLD, 53, bytes(1500 - 28), df=1)
    assert lan.host.newest.options == {OPTION_DONT_FRAGMENT: 1}
    lan.udp(WORLD, 53, bytes(1501 - 28), df=1)
    assert lan.host.newest.options == {OPTION_DONT_FRAGMENT: 0}


def test_too_big_for_the_path(lan: Lan) -> None:
    """RFC 1191 4: the datagram is dropped, the guest is told the MTU, about that datagram."""
    socket = lan.mapped()
    socket.refusals.append(errno.EMSGSIZE)
    socket.errors += [
        (errno.ECONNREFUSED, 3, 3, WORLD, 53),
        (errno.EMSGSIZE, 0, 0, WORLD, 0, b"", 1280),
    ]
    lan.udp(WORLD, 4242, bytes(1400), df=1)
    check_quote(lan.expect_icmp_error(3), WORLD, 53, 8)  # what waited before it
    frame = lan.inbox[0]
    check_quote(lan.expect_icmp_error(4), WORLD, 4242, 1408)
    assert struct.unpack_from("!HH", frame.payload, 24) == (0, 1280)
    lan.dropped(Drop.DROP_UDP_TOO_BIG)
    assert len(socket.sent) == 1


def test_too_big_and_the_host_does_not_say_for_what(lan: Lan) -> None:
    lan.mapped().error = errno.EMSGSIZE
    lan.udp(WORLD, 53)
    lan.dropped(Drop.DROP_UDP_TOO_BIG)


def test_path_mtu_is_passed_on(lan: Lan) -> None:
    """RFC 1191 4."""
    lan.mapped().report(errno.EMSGSIZE, 3, 4, WORLD, 53, ROUTER, 1400)
    frame = lan.inbox[0]
    check_quote(lan.expect_icmp_error(4, src=ROUTER), WORLD, 53)
    assert struct.unpack_from("!HH", frame.payload, 24) == (0, 1400)


def test_local_path_mtu_is_passed_on(lan: Lan) -> None:
    lan.mapped().report(errno.EMSGSIZE, 0, 0, WORLD, 53, b"", 1400)
    lan.expect_icmp_error(4)


def test_refused_at_once_by_the_destination(lan: Lan) -> None:
    lan.mapped().report(errno.ECONNREFUSED, 3, 3, WORLD, 53, WORLD, 0)
    check_quote(lan.expect_icmp_error(3, src=WORLD), WORLD, 53)


@pytest.mark.parametrize("error", [(errno.EPROTO, 12, 0), (errno.ENOMEM, 0, 0)])
def test_errors_that_do_not_concern_the_guest(lan: Lan, error: tuple[int, int, int]) -> None:
    lan.mapped().report(*error, WORLD, 53)
    lan.expect_nothing()


def test_errors_of_one_event_are_bounded(lan: Lan) -> None:
    socket = lan.mapped()
    socket.errors += [(errno.ECONNREFUSED, 3, 3, WORLD, 53)] * 70
    lan.stack.host_event(socket.ref, EVENT_ERROR, lan.clock.now_us)
    assert len(lan.inbox) == 64
    lan.inbox.clear()


def test_client_that_is_gone(lan: Lan) -> None:
    """The error is about the guest's answer, and from the client as the guest knows it."""
    forward = lan.forward(53)
    forward.datagram(LOOPBACK, 4000, b"x")
    lan.next()
    lan.udp(GATEWAY, 4000, b"answer", sport=53)
    forward.report(errno.ECONNREFUSED, 3, 3, LOOPBACK, 4000, LOOPBACK, 0)
    check_quote(lan.expect_icmp_error(3, src=GATEWAY), GATEWAY, 4000, 8, sport=53)
