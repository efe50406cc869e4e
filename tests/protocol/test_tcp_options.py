"""What a SYN settles: MSS (RFC 6691), window scale and time-stamps (RFC 7323), SACK (RFC 2018), and
the initial sequence number (RFC 6528).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.pkt import stream
from harness.tcp import Tcp

# ---- options


@pytest.mark.parametrize("mtu", [576, 1500, 9000, 65520])
def test_mss_is_the_mtu_less_headers(make_tcp: Callable[..., Tcp], mtu: int) -> None:
    """RFC 6691 2: the MSS option counts neither IP's nor TCP's options."""
    g = make_tcp(mtu=mtu).connecting(options="mss 1460,TS val 1 ecr 0")
    g.socket.connected()
    g.expect(f"S. 0:0(0) ack 1 <mss {mtu - 40}>")


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ("mss 1460", 1460),
        ("mss 1460,TS val 5 ecr 0", 1448),
        ("mss 64", 64),
        ("mss 1000", 1000),
        ("mss 65495", 1460),
        ("mss 1", 48),
        ("mss 0", 536),
        ("", 536),
    ],
)
def test_guest_mss_is_kept(tcp: Tcp, options: str, limit: int) -> None:
    """RFC 9293 3.7.1: no more text than MSS less options; 536 without the option; 48 at least."""
    g = tcp.established(options=options)
    g.feed(stream(0, 4000))
    at = 0
    for segment in g.drain():
        assert len(segment.text) == min(limit, 4000 - at)
        at += len(segment.text)
    assert at == 4000


@pytest.mark.parametrize(
    ("offered", "answered", "absent"),
    [
        ("mss 1460", "mss 1460", "no sackOK,no wscale,no TS"),
        ("mss 1460,sackOK", "sackOK", "no wscale,no TS"),
        ("mss 1460,TS val 9 ecr 0", "mss 1460", "no sackOK,no wscale"),
        ("mss 1460,wscale 0", "mss 1460,wscale 5", "no sackOK,no TS"),
        ("mss 1460,sackOK,TS val 9 ecr 0,wscale 14", "sackOK,wscale 5", "no gso"),
    ],
)
def test_options_are_those_offered(tcp: Tcp, offered: str, answered: str, absent: str) -> None:
    """RFC 7323 1.3, RFC 2018 2: an option on the SYN-ACK answers one on the SYN."""
    g = tcp.connecting(options=offered)
    g.socket.connected()
    segment = g.expect(f"S. 0:0(0) ack 1 <{answered},{absent}>")
    assert (segment.ts is not None) == ("TS" in offered)
    if segment.ts is not None:
        assert segment.ts[1] == 9, "RFC 7323 3.2: TSecr is the SYN's TSval"


def test_window_scale_offers_the_buffer(make_tcp: Callable[..., Tcp]) -> None:
    """RFC 7323 2.3: the shift is just enough for the buffer, never over 14."""
    for buffer_bytes, shift in ((65535, 0), (65536, 1), (1 << 20, 5), (4 << 20, 7), (1 << 30, 14)):
        tcp = make_tcp(tcp_buffer_bytes=buffer_bytes)
        g = tcp.connecting(options="wscale 7")
        g.socket.connected()
        segment = g.expect("S. 0:0(0) ack 1")
        assert (segment.wscale or 0) == shift, "a shift of 0 may be left out or said"


def test_window_of_a_syn_is_not_scaled(tcp: Tcp) -> None:
    """RFC 7323 2.2: neither ours nor the guest's."""
    g = tcp.peer()
    g.send("S 0:0(0) win 10 <mss 1460,wscale 7>")
    g.socket = tcp.host.newest
    g.socket.connected()
    assert g.expect("S. 0:0(0) ack 1").win == 65535
    g.send(". 1:1(0) ack 1 win 10")
    g.feed(stream(0, 2000))
    assert sum(len(segment.text) for segment in g.drain()) == 1280


def test_window_scale_above_14_counts_as_14(tcp: Tcp) -> None:
    """RFC 7323 2.3: the connection uses 14."""
    g = tcp.established(options="mss 1460,wscale 15")
    g.send(". 1:1(0) ack 1 win 1")
    g.feed(stream(0, 20000))
    assert sum(len(segment.text) for segment in g.drain()) <= 1 << 14


@pytest.mark.parametrize(
    "options", [b"\x02\x04", b"\x02\x00\x00\x00", b"\x02\x01\x00\x00", b"\x08\x0a\x00\x00"]
)
def test_behind_an_illegal_length_nothing_is_an_option(tcp: Tcp, options: bytes) -> None:
    """RFC 9293 3.1 MUST-7: illegal option lengths harm nobody; the segment counts without them."""
    g = tcp.peer()
    g.send("S 0:0(0)", raw_options=b"\x01" * (-len(options) % 4) + options)
    g.socket = tcp.host.newest
    g.socket.connected()
    g.expect("S. 0:0(0) ack 1 <mss 1460>")
    g.send(". 1:1(0) ack 1")
    g.feed(stream(0, 600))
    assert [len(segment.text) for segment in g.drain()] == [536, 64]


@pytest.mark.parametrize(
    "options", [b"\xfd\x04\x12\x34", b"\x01\x01\x01\x01", b"\x00\x02\x02\x02", b"\x03\x04\x07\x01"]
)
def test_unknown_options_are_passed_over(tcp: Tcp, options: bytes) -> None:
    """RFC 9293 3.1 MUST-6: unknown kinds, NOPs, and all behind the end of the list."""
    g = tcp.peer()
    g.send("S 0:0(0) <mss 1000>", raw_options=options)
    tcp.host.newest.connected()
    g.expect("S. 0:0(0) ack 1 <mss 1460,no wscale>")


# ---- ISN: RFC 6528


def test_isn_differs_between_connections_and_stacks(make_tcp: Callable[..., Tcp]) -> None:
    """RFC 6528 3: F() is keyed with a secret that each stack draws for itself."""
    isns = set()
    for _ in range(2):
        tcp = make_tcp()
        for port in (1, 2, 3):
            isns.add(tcp.syn_received(tcp.peer(guest_port=port)).our_isn)
    assert len(isns) == 6


def test_isn_of_one_connection_is_a_clock(tcp: Tcp) -> None:
    """RFC 6528 3, RFC 9293 3.4.1: the same addresses and ports, 4 us later: one more."""
    g = tcp.syn_received()
    first = g.our_isn
    g.send("R 1:1(0)")
    tcp.advance(4.0)
    g = tcp.syn_received(g)
    assert (g.our_isn - first) & 0xFFFFFFFF == 1_000_000


# ---- flags on a SYN


@pytest.mark.parametrize(
    "flags",
    [
        "SEW",  # RFC 3168 6.1.1: ECN is asked for, and not granted
        "SP",
        "SU",
        "SF",  # RFC 9293 3.10.7.2: the FIN comes again when its turn is
    ],
)
def test_other_flags_on_a_syn_are_passed_over(tcp: Tcp, flags: str) -> None:
    """RFC 9293 3.10.7.2 third: it is a SYN; the answer is a plain SYN-ACK."""
    g = tcp.peer()
    g.send(f"{flags} 0:0(0) <mss 1460>")
    tcp.host.newest.connected()
    g.expect("S. 0:0(0) ack 1")


@pytest.mark.parametrize("flags", ["PE.", "PW.", "PEW."])
def test_ecn_flags_without_ecn_are_ignored(tcp: Tcp, flags: str) -> None:
    """RFC 3168 6.1.1: not agreed upon: ECE and CWR mean nothing."""
    g = tcp.established()
    g.send(f"{flags} 1:11(10) ack 1")
    g.expect(". 1:1(0) ack 11")
    assert g.socket.received == stream(0, 10)
