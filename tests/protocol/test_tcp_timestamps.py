"""Time-stamps: RFC 7323 3 to 5. RTTM has its place in test_tcp_rto.py."""

from __future__ import annotations

from itertools import pairwise

import pytest

from harness.pkt import stream
from harness.tcp import Connection, Tcp
from slirp.core.stats import Drop

WRAP = 1 << 32
DAY_S = 24 * 3600.0


def stamped(tcp: Tcp, ts_val: int = 1000) -> Connection:
    """A connection with time-stamps; the guest's last was `ts_val`, 1 byte is acknowledged."""
    g = tcp.syn_received(options=f"mss 1460,sackOK,TS val {ts_val} ecr 0,wscale 7")
    g.send(f"P. 1:2(1) ack 1 <TS val {ts_val} ecr 0>")
    g.expect(f". 1:1(0) ack 2 <TS val {g.ts_recent} ecr {ts_val}>")
    return g


def echoed(tcp: Tcp, g: Connection) -> int:
    """The TSecr of whatever comes next."""
    tcp.advance(0.1)
    ts = g.drain()[-1].ts
    assert ts is not None
    return ts[1]


def test_paws_old_segment_is_dropped_and_acknowledged(tcp: Tcp) -> None:
    """RFC 7323 5.3 R1: an earlier time-stamp: not acceptable, answered by an ACK."""
    g = stamped(tcp, 1000)
    g.send("P. 2:12(10) ack 1 <TS val 999 ecr 0>")
    g.expect(". 1:1(0) ack 2")
    g.dropped(Drop.DROP_TCP_PAWS)
    assert g.socket.received == stream(0, 1)


def test_paws_same_tick_is_taken(tcp: Tcp) -> None:
    """RFC 7323 5.3 R1: only SEG.TSval < TS.Recent is old."""
    g = stamped(tcp, 1000)
    g.send("P. 2:12(10) ack 1 <TS val 1000 ecr 0>")
    assert g.socket.received == stream(0, 11)
    assert echoed(tcp, g) == 1000


def test_paws_goes_round(tcp: Tcp) -> None:
    """RFC 7323 5.3: unsigned numbers, modulo 2^32."""
    g = stamped(tcp, WRAP - 1)
    g.send("P. 2:12(10) ack 1 <TS val 0 ecr 0>")
    assert g.socket.received == stream(0, 11)
    assert echoed(tcp, g) == 0
    g.send(f"P. 12:22(10) ack 1 <TS val {WRAP - 1} ecr 0>")
    g.drain()
    g.dropped(Drop.DROP_TCP_PAWS)


def test_paws_does_not_judge_resets(tcp: Tcp) -> None:
    """RFC 7323 5.2: RST is not subject to PAWS; nor need it have the option."""
    for options in ("<TS val 1 ecr 0>", "<no TS>"):
        g = stamped(tcp, 1000)
        g.send(f"R 2:2(0) {options}")
        assert g.socket.ended == "reset"


def test_segment_without_time_stamps_is_dropped(tcp: Tcp) -> None:
    """RFC 7323 3.2: once agreed upon, a segment without is dropped, silently."""
    g = stamped(tcp)
    g.send("P. 2:12(10) ack 1 <no TS>")
    g.expect_nothing()
    g.dropped(Drop.DROP_TCP_PAWS)


def test_paws_after_24_days_idle_is_no_judge(tcp: Tcp) -> None:
    """RFC 7323 5.5: TS.Recent is invalid then; the guest's clock may have gone half round."""
    g = stamped(tcp, 1000)
    for _ in range(24 * 12):
        tcp.advance(7200.0 - 1)
        assert not g.socket.received[1:]
        g.send("P. 2:12(10) ack 1 <TS val 999 ecr 0>")
    tcp.dropped_only(Drop.DROP_TCP_PAWS)
    tcp.advance(300.0)
    g.send("P. 2:12(10) ack 1 <TS val 999 ecr 0>")
    assert g.socket.received == stream(0, 11)
    assert echoed(tcp, g) == 999


def test_unagreed_time_stamps_are_ignored(tcp: Tcp) -> None:
    """RFC 7323 3.2: not on both SYNs: the option on a segment means nothing."""
    g = tcp.established(options="mss 1460")
    for ts_val in (1000, 1):
        at = 1 + len(g.socket.received)
        g.send(f"P. {at}:{at + 10}(10) ack 1 <TS val {ts_val} ecr 0>")
    assert g.socket.received == stream(0, 20)
    tcp.advance(0.1)
    g.drain()


def test_echo_of_delayed_acks_is_the_first(tcp: Tcp) -> None:
    """RFC 7323 4.3: two segments, one ACK: TSecr is the earlier one's, so that the delay counts."""
    g = stamped(tcp, 1000)
    g.send("P. 2:12(10) ack 1 <TS val 1010 ecr 0>")
    g.send("P. 12:22(10) ack 1 <TS val 1020 ecr 0>")
    assert echoed(tcp, g) == 1010


def test_echo_behind_a_gap_is_the_last_in_order(tcp: Tcp) -> None:
    """RFC 7323 4.3 (B): an out-of-order segment's time-stamp is not echoed."""
    g = stamped(tcp, 1000)
    g.send("P. 102:112(10) ack 1 <TS val 1050 ecr 0>")
    assert echoed(tcp, g) == 1000


def test_echo_of_a_filled_gap_is_the_filling_one(tcp: Tcp) -> None:
    """RFC 7323 4.3 (C): the segment that fills the hole decides."""
    g = stamped(tcp, 1000)
    g.send("P. 12:22(10) ack 1 <TS val 1050 ecr 0>")
    g.drain()
    g.send("P. 2:12(10) ack 1 <TS val 1060 ecr 0>")
    assert echoed(tcp, g) == 1060


def test_echo_does_not_go_back(tcp: Tcp) -> None:
    """RFC 7323 4.3 (2): only a time-stamp that is not earlier is taken."""
    g = stamped(tcp, 1000)
    g.send("P. 2:12(10) ack 1 <TS val 1010 ecr 0>")
    assert echoed(tcp, g) == 1010
    g.send("P. 2:12(10) ack 1 <TS val 1010 ecr 0>")
    assert echoed(tcp, g) == 1010
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)


def test_our_clock_is_one_of_milliseconds(tcp: Tcp) -> None:
    """RFC 7323 5.4: between 1 ms and 1 s a tick, and it does not tell how long we are up."""
    g = stamped(tcp)
    values = []
    for _ in range(3):
        g.feed(b"x")
        ts = g.drain()[-1].ts
        assert ts is not None
        values.append(ts[0])
        tcp.clock.now_us += 100_000
    assert [(b - a) % WRAP for a, b in pairwise(values)] == [100, 100]


def test_our_clocks_offset_differs(tcp: Tcp) -> None:
    """RFC 7323 5.4: each connection has its own, keyed: neither uptime nor neighbours show."""
    offsets = {stamped(tcp).ts_recent for _ in range(8)}
    assert len(offsets) == 8


@pytest.mark.parametrize("text", [1, 1448, 5000])
def test_text_leaves_room_for_the_option(tcp: Tcp, text: int) -> None:
    """RFC 7323 3.2, RFC 6691 3: 12 bytes less in each segment (Conduct counts them)."""
    g = stamped(tcp)
    g.feed(stream(0, text))
    segments = g.drain()
    assert b"".join(segment.text for segment in segments) == stream(0, text)
    assert max(len(segment.text) for segment in segments) == min(text, 1448)


def test_text_leaves_room_for_the_option_and_blocks(tcp: Tcp) -> None:
    """RFC 6691 3, RFC 2018 3: no more than the three blocks that fit are counted."""
    g = stamped(tcp)
    for at in range(100, 700, 100):
        g.send(f"P. {at}:{at + 10}(10) ack 1")
    g.drain()
    g.feed(stream(0, 3000))
    assert max(len(segment.text) for segment in g.drain()) == 1460 - 12 - 28


def test_syn_without_them_meets_a_forward(tcp: Tcp) -> None:
    """RFC 7323 3.2: our SYN offered them, the guest's answer did not: then there are none."""
    g = tcp.accepted(options="mss 1460")
    g.feed(b"x")
    g.expect("P. 1:2(1) ack 1 <no TS>")
