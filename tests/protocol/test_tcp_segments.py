"""Every state x every kind of segment: RFC 9293 3.10.7.4 with RFC 5961, one row per kind.

In the rows, r is RCV.NXT, u SND.UNA, n SND.NXT of the state (relative, as in pkt.py), and a an
acceptable ACK that acknowledges nothing new where there is such a one. A row says what comes back,
as what the segment is dropped if it is, and which state follows; `same` for the one that was.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import pytest

from harness.pkt import stream
from harness.tcp import BUILDERS, Tcp
from slirp.core.stats import Drop


class Numbers(NamedTuple):
    """Where a state's sequence spaces are when its builder is done."""

    r: int
    u: int
    n: int
    a: int


NUMBERS = {
    "SYN-RECEIVED": Numbers(r=1, u=0, n=1, a=1),
    "ESTABLISHED": Numbers(r=1, u=1, n=1, a=1),
    "FIN-WAIT-1": Numbers(r=1, u=1, n=2, a=1),
    "FIN-WAIT-2": Numbers(r=1, u=2, n=2, a=2),
    "CLOSE-WAIT": Numbers(r=2, u=1, n=1, a=1),
    "CLOSING": Numbers(r=2, u=1, n=2, a=1),
    "LAST-ACK": Numbers(r=2, u=1, n=2, a=1),
    "TIME-WAIT": Numbers(r=2, u=2, n=2, a=2),
}
ALL = frozenset(NUMBERS)
OPENING = frozenset({"SYN-RECEIVED"})
SYNCHRONIZED = ALL - OPENING
RECEIVING = frozenset({"ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2"})  # text and FIN may still come
TEXT_OVER = SYNCHRONIZED - RECEIVING
RECYCLED = frozenset({"CLOSING", "LAST-ACK", "TIME-WAIT"})


class Outcome(NamedTuple):
    """What follows from a segment."""

    reply: str | None = None
    drop: Drop | None = None
    state: str | None = "same"


ACK = ". {n}:{n}(0) ack {r}"
CHALLENGED_SYN = Outcome(ACK, Drop.DROP_TCP_SYN_CHALLENGED)
UNACCEPTABLE = Outcome(ACK, Drop.DROP_TCP_OUT_OF_WINDOW)
RST_IGNORED = Outcome(None, Drop.DROP_TCP_RST_OUT_OF_WINDOW)
NOTHING = Outcome()
ESTABLISHES = Outcome(state="ESTABLISHED")
GONE = Outcome(state=None)
ACKED = Outcome(ACK)

Row = tuple[str, list[tuple[frozenset[str], Outcome]]]


def taken(ack: str) -> list[tuple[frozenset[str], Outcome]]:
    """Text that is delivered. The ACK is delayed, but where it is the first chance to open wide the
    window, which no SYN can say.
    """
    opens = Outcome(f". {{n}}:{{n}}(0) ack {{{ack}}}", state="ESTABLISHED")
    return [
        (TEXT_OVER, ACKED),
        (frozenset({"SYN-RECEIVED", "ESTABLISHED"}), opens),
        (RECEIVING, NOTHING),
    ]


ROWS: dict[str, Row] = {
    # First: sequence number; fourth: SYN (RFC 5961 4.2)
    "SYN in the window": (
        "S {r+10}:{r+10}(0)",
        [(RECYCLED, Outcome(state="SYN-RECEIVED")), (ALL, CHALLENGED_SYN)],
    ),
    "SYN left of the window": ("S {r-1000}:{r-1000}(0)", [(ALL, UNACCEPTABLE)]),
    "SYN-ACK in the window": ("S. {r+10}:{r+10}(0) ack {n}", [(ALL, CHALLENGED_SYN)]),
    "SYN-ACK of the handshake": ("S. 0:0(0) ack {n}", [(ALL, UNACCEPTABLE)]),
    # Second: RST (RFC 5961 3.2)
    "RST at RCV.NXT": ("R {r}:{r}(0)", [(ALL, GONE)]),
    "RST with ACK at RCV.NXT": ("R. {r}:{r}(0) ack {n}", [(ALL, GONE)]),
    "RST with SYN at RCV.NXT": ("SR {r}:{r}(0)", [(ALL, GONE)]),
    "RST in the window": ("R {r+1}:{r+1}(0)", [(ALL, Outcome(ACK, Drop.DROP_TCP_RST_CHALLENGED))]),
    "RST left of the window": ("R {r-1}:{r-1}(0)", [(ALL, RST_IGNORED)]),
    "RST beyond the window": ("R {r+2000000}:{r+2000000}(0)", [(ALL, RST_IGNORED)]),
    # Fifth: ACK (RFC 5961 5.2)
    "no ACK": ("P {r}:{r+10}(10)", [(ALL, Outcome(None, Drop.DROP_TCP_NO_ACK))]),
    "FIN without ACK": ("F {r}:{r}(0)", [(ALL, Outcome(None, Drop.DROP_TCP_NO_ACK))]),
    "ACK of nothing new": (
        ". {r}:{r}(0) ack {u}",
        [(OPENING, Outcome("R {u}:{u}(0)", Drop.DROP_TCP_ACK_TOO_OLD)), (SYNCHRONIZED, NOTHING)],
    ),
    "ACK of all": (
        ". {r}:{r}(0) ack {n}",
        [
            (OPENING, ESTABLISHES),
            (frozenset({"FIN-WAIT-1"}), Outcome(state="FIN-WAIT-2")),
            (frozenset({"CLOSING"}), Outcome(state="TIME-WAIT")),
            (frozenset({"LAST-ACK"}), GONE),
            (ALL, NOTHING),
        ],
    ),
    "ACK of old": (
        ". {r}:{r}(0) ack {u-1}",
        [
            (OPENING, Outcome("R {u-1}:{u-1}(0)", Drop.DROP_TCP_ACK_TOO_OLD)),
            (SYNCHRONIZED, NOTHING),
        ],
    ),
    "ACK older than any window": (
        ". {r}:{r}(0) ack {u-9000000}",
        [
            (OPENING, Outcome("R {u-9000000}:{u-9000000}(0)", Drop.DROP_TCP_ACK_TOO_OLD)),
            (SYNCHRONIZED, Outcome(ACK, Drop.DROP_TCP_ACK_TOO_OLD)),
        ],
    ),
    "ACK of what was not sent": (
        ". {r}:{r}(0) ack {n+1}",
        [
            (OPENING, Outcome("R {n+1}:{n+1}(0)", Drop.DROP_TCP_ACK_TOO_NEW)),
            (SYNCHRONIZED, Outcome(ACK, Drop.DROP_TCP_ACK_TOO_NEW)),
        ],
    ),
    # Sixth and seventh: URG, text
    "text at RCV.NXT": (
        "P. {r}:{r+10}(10) ack {a}",
        taken("r+10"),
    ),
    "urgent text": (
        "PU. {r}:{r+10}(10) ack {a} urg 5",
        taken("r+10"),
    ),
    "text with its beginning old": (
        "P. {r-5}:{r+5}(10) ack {a}",
        taken("r+5"),
    ),
    "text behind a gap": (
        "P. {r+100}:{r+110}(10) ack {a}",
        [
            (TEXT_OVER, ACKED),
            (OPENING, Outcome(ACK + " <sack {r+100}:{r+110}>", state="ESTABLISHED")),
            (RECEIVING, Outcome(ACK + " <sack {r+100}:{r+110}>")),
        ],
    ),
    "text that is old": ("P. {r-10}:{r}(10) ack {a}", [(ALL, UNACCEPTABLE)]),
    "text beyond the window": (
        "P. {r+2000000}:{r+2000010}(10) ack {a}",
        [(ALL, UNACCEPTABLE)],
    ),
    "keep-alive": (". {r-1}:{r-1}(0) ack {a}", [(ALL, UNACCEPTABLE)]),
    # Eighth: FIN
    "FIN": (
        "F. {r}:{r}(0) ack {a}",
        [
            (TEXT_OVER, ACKED),
            (OPENING, Outcome(". {n}:{n}(0) ack {r+1}", state="CLOSE-WAIT")),
            (frozenset({"ESTABLISHED"}), Outcome(". {n}:{n}(0) ack {r+1}", state="CLOSE-WAIT")),
            (frozenset({"FIN-WAIT-1"}), Outcome(". {n}:{n}(0) ack {r+1}", state="CLOSING")),
            (frozenset({"FIN-WAIT-2"}), Outcome(". {n}:{n}(0) ack {r+1}", state="TIME-WAIT")),
        ],
    ),
    "FIN that acknowledges all": (
        "F. {r}:{r}(0) ack {n}",
        [
            (frozenset({"CLOSE-WAIT", "TIME-WAIT"}), ACKED),
            (frozenset({"CLOSING"}), Outcome(ACK, state="TIME-WAIT")),
            (frozenset({"LAST-ACK"}), GONE),
            (frozenset({"FIN-WAIT-1"}), Outcome(". {n}:{n}(0) ack {r+1}", state="TIME-WAIT")),
            (frozenset({"FIN-WAIT-2"}), Outcome(". {n}:{n}(0) ack {r+1}", state="TIME-WAIT")),
            (ALL, Outcome(". {n}:{n}(0) ack {r+1}", state="CLOSE-WAIT")),
        ],
    ),
    "FIN behind a gap": (
        "F. {r+10}:{r+10}(0) ack {a}",
        [(OPENING, Outcome(ACK, state="ESTABLISHED")), (SYNCHRONIZED, ACKED)],
    ),
    "FIN that is old": ("F. {r-1}:{r-1}(0) ack {a}", [(ALL, UNACCEPTABLE)]),
}


def fill(template: str, numbers: Numbers) -> str:
    """The template with its numbers: {r+10} and the like."""

    def value(match: re.Match[str]) -> str:
        return str(getattr(numbers, match[1]) + int(match[2] or 0))

    return re.sub(r"{([runa])([+-]\d+)?}", value, template)


def outcome_of(kind: str, state: str) -> Outcome:
    """The first that names the state."""
    return next(outcome for states, outcome in ROWS[kind][1] if state in states)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("state", NUMBERS)
def test_segment_in_state(tcp: Tcp, state: str, kind: str) -> None:
    """RFC 9293 3.10.7.4: each has its decided outcome."""
    g = BUILDERS[state](tcp)
    numbers, outcome = NUMBERS[state], outcome_of(kind, state)
    g.send(fill(ROWS[kind][0], numbers))
    if outcome.reply is not None:
        g.expect(fill(outcome.reply, numbers))
    g.expect_nothing()
    g.dropped(*([outcome.drop] if outcome.drop is not None else []))
    assert g.state == (state if outcome.state == "same" else outcome.state)
    if outcome.state is None and kind.startswith("RST") and state != "TIME-WAIT":
        assert g.socket.ended == "reset", "guest RST -> the host's peer sees a reset"


@pytest.mark.parametrize("state", sorted(RECEIVING | OPENING))
@pytest.mark.parametrize("kind", ["text at RCV.NXT", "urgent text", "text with its beginning old"])
def test_text_reaches_the_host(tcp: Tcp, state: str, kind: str) -> None:
    """RFC 9293 3.10.7.4 seventh: in these states text is delivered, urgent or not (RFC 6093)."""
    g = BUILDERS[state](tcp)
    g.send(fill(ROWS[kind][0], NUMBERS[state]))
    expected = stream(0, 5 if "old" in kind else 10)
    assert g.socket.received == expected
    tcp.advance(0.5)
    assert g.drain()[-1].ack == (g.isn + 1 + len(expected)) & 0xFFFFFFFF


@pytest.mark.parametrize("state", sorted(TEXT_OVER))
def test_text_behind_fin_is_ignored(tcp: Tcp, state: str) -> None:
    """RFC 9293 3.10.7.4 seventh: should not occur, since a FIN was received; it harms nobody."""
    g = BUILDERS[state](tcp)
    g.send(fill(ROWS["text at RCV.NXT"][0], NUMBERS[state]))
    g.drain()
    assert not g.socket.received


def test_gap_before_fin_is_filled(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 eighth: a FIN ahead of its turn is kept, and counts when all is there."""
    g = tcp.established()
    g.send("F. 11:21(10) ack 1")
    g.expect(". 1:1(0) ack 1 <sack 11:21>")
    g.send("P. 1:11(10) ack 1")
    g.expect(". 1:1(0) ack 22")
    assert g.socket.received == stream(0, 20)
    assert g.socket.shut
    assert g.state == "CLOSE-WAIT"


def test_fin_behind_old_text(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4: all of the text is old, the FIN is not: it is what counts."""
    g = tcp.established()
    g.send("P. 1:11(10) ack 1")
    g.expect(". 1:1(0) ack 11")
    g.send("FP. 1:11(10) ack 1")
    g.expect(". 1:1(0) ack 12")
    assert g.state == "CLOSE-WAIT"
    assert g.socket.received == stream(0, 10)
