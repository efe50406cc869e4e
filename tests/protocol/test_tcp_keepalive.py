"""Keep-alive towards the guest: RFC 9293 3.8.4, RFC 1122 4.2.3.6."""

from __future__ import annotations

import pytest

from harness.tcp import BUILDERS, Connection, Tcp
from slirp.core.stats import Drop

IDLE_S = 7200.0  # TCP_KEEPALIVE_IDLE_S
INTERVAL_S = 75.0  # TCP_KEEPALIVE_INTERVAL_US
PROBES = 9  # TCP_KEEPALIVE_PROBES


def answer(g: Connection) -> None:
    """The guest's kernel answers a probe."""
    g.send(". 1:1(0) ack 1")


def test_keepalive_not_before_two_hours(tcp: Tcp) -> None:
    """RFC 1122 4.2.3.6: the interval is two hours at least."""
    g = tcp.established()
    tcp.advance(IDLE_S - 1)
    g.expect_nothing()
    tcp.advance(2.0)
    g.expect(". 0:0(0) ack 1")
    answer(g)


def test_keepalive_answered_starts_anew(tcp: Tcp) -> None:
    """RFC 1122 4.2.3.6: a probe carries an old number and no text, so that even old TCPs answer."""
    g = tcp.established()
    for _ in range(5):
        tcp.advance(IDLE_S + 1)
        g.expect(". 0:0(0) ack 1")
        answer(g)
    tcp.advance(IDLE_S - 2)
    g.expect_nothing()
    assert g.state == "ESTABLISHED"


def test_keepalive_one_lost_probe_is_no_death(tcp: Tcp) -> None:
    """RFC 1122 4.2.3.6: no answer to one probe must not be taken for a dead connection."""
    g = tcp.established()
    tcp.advance(IDLE_S + 1)
    for _ in range(PROBES - 1):
        g.expect(". 0:0(0) ack 1")
        tcp.advance(INTERVAL_S)
    g.drain()
    answer(g)
    tcp.advance(IDLE_S - 2)
    g.expect_nothing()
    assert g.state == "ESTABLISHED"


@pytest.mark.parametrize("state", ["ESTABLISHED", "FIN-WAIT-2", "CLOSE-WAIT"])
def test_keepalive_nobody_answers(tcp: Tcp, state: str) -> None:
    """tcp.pxd: guest gone: both sides end with a reset."""
    g = BUILDERS[state](tcp)
    tcp.advance(IDLE_S + (PROBES + 1) * INTERVAL_S)
    segments = g.drain()
    assert len(segments) == PROBES + 1
    assert segments[-1].has("R.")
    assert g.socket.ended == "reset"
    assert tcp.stat("tcp_aborted") == 1
    tcp.at_rest()


def test_keepalive_any_segment_is_life(tcp: Tcp) -> None:
    """RFC 1122 4.2.3.6: only an idle connection is probed; what is dropped is life too."""
    g = tcp.established()
    for segment in (". 1:1(0) ack 1", ". 1:1(0) ack 1", "P 1:2(1)", "P 1:2(1)"):
        tcp.advance(IDLE_S - 10)
        g.send(segment)
    g.dropped(*[Drop.DROP_TCP_NO_ACK] * 2)
    tcp.advance(IDLE_S - 10)
    g.expect_nothing()


def test_keepalive_of_the_guests_own_is_answered(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 first: a segment below the window, without text or with one byte: ACK."""
    g = tcp.established()
    g.send("P. 1:11(10) ack 1")
    g.expect(". 1:1(0) ack 11")
    for probe in (". 10:10(0) ack 1", ". 10:11(1) ack 1"):
        g.send(probe)
        g.expect(". 1:1(0) ack 11")
        g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)


def test_keepalive_of_a_guest_that_lost_all(tcp: Tcp) -> None:
    """RFC 9293 3.5.2: a guest that knows no such connection answers with RST: so it ends."""
    g = tcp.established()
    tcp.advance(IDLE_S + 1)
    g.expect(". 0:0(0) ack 1")
    g.send("R 1:1(0)")
    assert g.socket.ended == "reset"
    tcp.at_rest()
