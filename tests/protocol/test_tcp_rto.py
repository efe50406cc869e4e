"""Round-trip times and the retransmission timer: RFC 6298, Karn's rule, RFC 7323 4 (RTTM), R2."""

from __future__ import annotations

import pytest

from harness.pkt import stream
from harness.tcp import Connection, Tcp

RTO_MIN_S = 0.2  # TCP_RTO_MIN_US: tcp.pxd says why not 1 s
RETRIES_MAX = 10  # TCP_RETRIES_MAX


def srtt_us(g: Connection) -> int:
    """The stack's smoothed round-trip time."""
    assert g.flow is not None
    return int(str(g.flow["srtt_us"]))


def exchange(g: Connection, at: int, rtt_s: float) -> None:
    """One byte to the guest, acknowledged after that time."""
    g.feed(stream(at - 1, 1))
    g.expect(f"P. {at}:{at + 1}(1)")
    g.net.advance(rtt_s)
    g.send(f". 1:1(0) ack {at + 1}")


def rto_s(g: Connection, at: int) -> float:
    """How long a byte waits for its first retransmission."""
    sent_us = g.net.clock.now_us
    g.feed(stream(at - 1, 1))
    g.expect(f"P. {at}:{at + 1}(1)")
    assert g.net.clock.run_until(lambda: bool(g.inbox), 120)
    g.expect(f"P. {at}:{at + 1}(1)")
    return (g.net.clock.now_us - sent_us) / 1e6


def test_rtt_is_that_of_the_segment(tcp: Tcp) -> None:
    """RFC 6298 2.2, 2.3: from sending to acknowledgement, however long the idle time between."""
    g = tcp.syn_received()
    tcp.advance(0.1)
    g.send(". 1:1(0) ack 1")
    for at in range(1, 41):
        exchange(g, at, 0.1)
        tcp.advance(30.0)
    assert srtt_us(g) == pytest.approx(100_000, rel=0.01)


def test_rtt_is_smoothed(tcp: Tcp) -> None:
    """RFC 6298 2.3: SRTT moves by an eighth."""
    g = tcp.syn_received()
    tcp.advance(0.1)
    g.send(". 1:1(0) ack 1")
    exchange(g, 1, 0.18)
    assert srtt_us(g) == pytest.approx(110_000, rel=0.001)


def test_rto_from_estimate(tcp: Tcp) -> None:
    """RFC 6298 2.2: SRTT + 4 * RTTVAR, after one sample of R: R + 4 * R / 2."""
    g = tcp.syn_received()
    tcp.advance(0.5)
    g.send(". 1:1(0) ack 1")
    assert rto_s(g, 1) == pytest.approx(1.5, abs=0.01)


def test_rto_has_a_floor(tcp: Tcp) -> None:
    """RFC 6298 2.4 with the floor of tcp.pxd: never below, however quick the guest."""
    g = tcp.established()
    for at in range(1, 20):
        exchange(g, at, 0.001)
    assert rto_s(g, 20) == pytest.approx(RTO_MIN_S, abs=0.01)


def test_rto_after_a_syn_that_was_repeated(tcp: Tcp) -> None:
    """RFC 6298 5.7: without a sample, 3 s when the text begins."""
    g = tcp.syn_received()
    tcp.advance(1.0)
    g.expect("S. 0:0(0) ack 1")
    g.send(". 1:1(0) ack 1")
    assert rto_s(g, 1) == pytest.approx(3.0, abs=0.01)
    g.send(". 1:1(0) ack 2")


def test_rttm_times_a_repeated_syn(tcp: Tcp) -> None:
    """RFC 7323 4.1: with time-stamps there is a sample even then."""
    g = tcp.syn_received(options="mss 1460,TS val 1 ecr 0")
    tcp.advance(1.1)
    g.expect("S. 0:0(0) ack 1")
    g.send(f". 1:1(0) ack 1 <TS val 2 ecr {g.ts_recent}>")
    assert srtt_us(g) == pytest.approx(100_000, rel=0.05)


def test_rto_doubles(tcp: Tcp) -> None:
    """RFC 6298 5.5, 5.6: each time-out doubles the next, up to 60 s."""
    g = tcp.established()
    g.feed(b"a")
    g.expect("P. 1:2(1)")
    waits = []
    last_us = tcp.clock.now_us
    for _ in range(RETRIES_MAX):
        assert tcp.clock.run_until(lambda: bool(g.inbox), 120)
        g.expect("P. 1:2(1)")
        waits.append((tcp.clock.now_us - last_us) / 1e6)
        last_us = tcp.clock.now_us
    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60], rel=0.02)
    assert tcp.stat("tcp_retransmits") == tcp.stat("tcp_timeouts") == RETRIES_MAX
    g.send(". 1:1(0) ack 2")


def test_rto_gives_up_after_r2(tcp: Tcp) -> None:
    """RFC 1122 4.2.3.5: not before 100 s; then both sides learn of it."""
    g = tcp.established()
    g.feed(b"a")
    tcp.advance(100.0)
    assert g.state == "ESTABLISHED"
    tcp.advance(300.0)
    segments = g.drain()
    assert len(segments) == 1 + RETRIES_MAX + 1
    assert segments[-1].has("R.")
    assert g.socket.ended == "reset"
    assert tcp.stat("tcp_aborted") == 1
    tcp.at_rest()


def test_rto_progress_starts_r2_anew(tcp: Tcp) -> None:
    """RFC 1122 4.2.3.5: a guest that acknowledges now and then is alive."""
    g = tcp.established()
    g.feed(stream(0, 100))
    for at in range(1, 30):
        tcp.advance(60.0)
        g.send(f". 1:1(0) ack {at + 1}")
    assert g.state == "ESTABLISHED"
    g.send(". 1:1(0) ack 101")
    g.drain()


def test_rto_is_restarted_by_each_ack(tcp: Tcp) -> None:
    """RFC 6298 5.3: it measures from the last progress, not from when the segment was sent."""
    g = tcp.established()
    g.feed(stream(0, 3 * 1460))
    g.drain()
    for at in (1461, 2921):
        tcp.advance(RTO_MIN_S * 0.9)
        g.send(f". 1:1(0) ack {at}")
    tcp.advance(RTO_MIN_S * 0.9)
    g.expect_nothing()
    tcp.advance(2.0)
    assert g.drain()[0].seq == (g.our_isn + 2921) & 0xFFFFFFFF
    g.send(". 1:1(0) ack 4381")


def test_rto_is_off_when_all_is_acknowledged(tcp: Tcp) -> None:
    """RFC 6298 5.2: nothing outstanding, nothing to retransmit."""
    g = tcp.established()
    g.feed(stream(0, 1000))
    g.drain()
    g.send(". 1:1(0) ack 1001")
    tcp.advance(600.0)
    g.expect_nothing()


def test_karn_retransmitted_segments_are_not_timed(tcp: Tcp) -> None:
    """RFC 6298 3: whose acknowledgement it is, nobody knows: SRTT stays, and so does the RTO."""
    g = tcp.established()
    exchange(g, 1, 0.01)
    before = srtt_us(g)
    g.feed(b"b")
    g.expect("P. 2:3(1)")
    tcp.advance(5.0)
    assert g.drain()
    g.send(". 1:1(0) ack 3")
    assert srtt_us(g) == before


def test_karn_backed_off_rto_is_kept(tcp: Tcp) -> None:
    """RFC 6298 5.5 to 5.7: the backed-off value holds until a segment sent once is acknowledged."""
    g = tcp.established()
    g.feed(b"a")
    g.drain()
    tcp.advance(1.5)
    assert len(g.drain()) == 3, "at 0.2, 0.6 and 1.4 s: the RTO is 1.6 s now"
    g.send(". 1:1(0) ack 2")
    assert rto_s(g, 2) == pytest.approx(1.6, rel=0.02)
    g.send(". 1:1(0) ack 3")


def test_rttm_times_a_retransmission(tcp: Tcp) -> None:
    """RFC 7323 4.1: TSecr says which sending was acknowledged, so that this one is a sample."""
    g = tcp.established(options="mss 1460,sackOK,TS val 1 ecr 0,wscale 7")
    g.feed(b"a")
    g.expect("P. 1:2(1)")
    tcp.advance(1.5)
    last = g.drain()[-1]
    assert last.ts is not None
    g.send(f". 1:1(0) ack 2 <TS val {g.clock_ms()} ecr {last.ts[0]}>")
    assert rto_s(g, 2) == pytest.approx(RTO_MIN_S + 0.1, abs=0.15), "no longer backed off"
    g.send(". 1:1(0) ack 3")


def test_retransmission_is_what_was_sent(tcp: Tcp) -> None:
    """RFC 9293 3.8.1: the same bytes at the same numbers, however the queue is cut."""
    g = tcp.established()
    g.feed(stream(0, 10_000))
    assert b"".join(segment.text for segment in g.drain()) == stream(0, 10_000)
    g.send(". 1:1(0) ack 701")
    resent = bytearray(10_000)
    for acked in range(701, 10_001, 1300):
        tcp.advance(10.0)
        g.send(f". 1:1(0) ack {acked}")
    for segment in g.drain():
        at = ((segment.seq - g.our_isn) & 0xFFFFFFFF) - 1
        resent[at : at + len(segment.text)] = segment.text
    assert resent[700:] == stream(700, 9300)
    g.send(". 1:1(0) ack 10001")


def test_fin_is_retransmitted(tcp: Tcp) -> None:
    """RFC 9293 3.8.1: FIN takes a sequence number, and is repeated like any other."""
    g = tcp.fin_wait_1()
    for _ in range(3):
        assert tcp.clock.run_until(lambda: bool(g.inbox), 10)
        g.expect("F. 1:1(0) ack 1")
    g.send(". 1:1(0) ack 2")
    tcp.advance(60.0)
    assert g.state == "FIN-WAIT-2"


def test_text_and_fin_are_retransmitted(tcp: Tcp) -> None:
    """The same for a FIN that went with text: first the text, then the FIN."""
    g = tcp.established()
    g.socket.waiting.append(stream(0, 2000))
    g.socket.close()
    segments = g.drain()
    assert segments[-1].has("F")
    assert tcp.clock.run_until(lambda: bool(g.inbox), 10)
    g.expect("P. 1:1461(1460)")
    g.send(". 1:1(0) ack 1461")
    assert tcp.clock.run_until(lambda: bool(g.inbox), 10)
    got = g.drain()
    assert b"".join(segment.text for segment in got) == stream(1460, 540)
    g.send(". 1:1(0) ack 2002")
    assert g.state == "FIN-WAIT-2"
