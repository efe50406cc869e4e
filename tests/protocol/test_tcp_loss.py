"""Loss on the way to the guest: fast retransmit and recovery (RFC 5681 3.2, RFC 6582), what SACK
tells (RFC 2018, RFC 6675), time-outs (RFC 5681 3.1), a congestion window as simple as tcp.pxd says.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import dpkt
import pytest

from harness.ip import build_ip
from harness.net import GUEST, WORLD
from harness.pkt import Segment, stream
from harness.tcp import Connection, Tcp
from slirp.core.stats import Drop

MSS = 1000
RENO = f"mss {MSS},wscale 7"
SACK = f"mss {MSS},sackOK,wscale 7"


def edge(n: int) -> int:
    """The first number of segment n, counted from 0."""
    return 1 + n * MSS


def in_flight(tcp: Tcp, segments: int, options: str = RENO) -> Connection:
    """So many full segments are sent, none is acknowledged."""
    g = tcp.established(options=options)
    g.feed(stream(0, segments * MSS))
    assert [place(g, segment) for segment in g.drain()] == list(range(segments))
    return g


def place(g: Connection, segment: Segment) -> int:
    """Which of the full segments it is."""
    at = (segment.seq - g.our_isn - 1) & 0xFFFFFFFF
    assert at % MSS == 0
    assert segment.text == stream(at, MSS)
    return at // MSS


def resent(g: Connection) -> list[int]:
    """Which segments have come."""
    return [place(g, segment) for segment in g.drain()]


def ack(g: Connection, segment: int, *sacked: int | tuple[int, int]) -> None:
    """Acknowledge all before `segment`, and SACK these segments, or ranges of them."""
    ranges = [(n, n + 1) if isinstance(n, int) else n for n in sacked]
    blocks = " ".join(f"{edge(start)}:{edge(end)}" for start, end in ranges)
    g.send(f". 1:1(0) ack {edge(segment)}" + (f" <sack {blocks}>" if blocks else ""))


# ---- fast retransmit: RFC 5681 3.2


def test_third_duplicate_ack_retransmits(tcp: Tcp) -> None:
    """RFC 5681 3.2 step 2: at once, whatever the congestion window is then."""
    g = in_flight(tcp, 10)
    for _ in range(2):
        ack(g, 0)
        g.expect_nothing()
    ack(g, 0)
    assert resent(g) == [0]
    ack(g, 10)
    assert tcp.stat("tcp_retransmits") == 1
    assert tcp.stat("tcp_timeouts") == 0


@pytest.mark.parametrize("flight", [4, 5, 6, 10, 40])
def test_fast_retransmit_whatever_the_flight(tcp: Tcp, flight: int) -> None:
    """RFC 5681 3.2 step 2: three duplicates are enough, be the flight small or large."""
    g = in_flight(tcp, flight)
    for _ in range(3):
        ack(g, 0)
    assert resent(g) == [0]
    ack(g, flight)


def test_ack_with_text_is_no_duplicate(tcp: Tcp) -> None:
    """RFC 5681 2 (b): the guest only talks; its ACKs tell no loss."""
    g = in_flight(tcp, 10)
    for at in range(1, 81, 10):
        g.send(f"P. {at}:{at + 10}(10) ack 1")
    assert resent(g) == []
    g.send(f". 81:81(0) ack {edge(10)}")
    tcp.advance(0.1)
    g.drain()


def test_ack_with_another_window_is_no_duplicate(tcp: Tcp) -> None:
    """RFC 5681 2 (e): the guest reads, and says so."""
    g = in_flight(tcp, 10)
    for window in range(50000, 50008):
        g.send(f". 1:1(0) ack 1 win {window}")
    assert resent(g) == []
    ack(g, 10)


def test_duplicate_acks_of_nothing_outstanding(tcp: Tcp) -> None:
    """RFC 5681 2 (a): there is nothing to retransmit."""
    g = tcp.established(options=RENO)
    for _ in range(10):
        g.send(". 1:1(0) ack 1")
    g.expect_nothing()


def test_recovery_sends_new_text_as_old_leaves(tcp: Tcp) -> None:
    """RFC 5681 3.2 steps 3, 4, 5: half of the flight, and one more for each further duplicate."""
    g = in_flight(tcp, 20)
    for _ in range(3):
        ack(g, 0)
    assert resent(g) == [0]
    g.feed(stream(20 * MSS, 20 * MSS))
    assert resent(g) == [], "20 are out, 10 + 3 may be"
    sent = []
    for _ in range(16):
        ack(g, 0)
        sent += resent(g)
    assert sent == list(range(20, 29))
    ack(g, 20)
    assert resent(g) == [29], "step 6: ten, nine of which are out"
    ack(g, 30)
    assert resent(g) == list(range(30, 40))
    ack(g, 40)


def test_partial_ack_lets_one_more_go(tcp: Tcp) -> None:
    """RFC 6582 3.2 step 5: cwnd shrinks by what was acknowledged, and grows by a segment."""
    g = in_flight(tcp, 20)
    for _ in range(3):
        ack(g, 0)
    g.feed(stream(20 * MSS, 20 * MSS))
    for _ in range(16):
        ack(g, 0)
    assert resent(g) == [0, *range(20, 29)], "cwnd is 29 segments now"
    ack(g, 5)
    assert resent(g) == [5, 29], "25: 24 are out, among them the one that goes again"
    ack(g, 30)
    assert resent(g) == list(range(30, 40))
    ack(g, 40)


def test_duplicate_acks_of_different_numbers_do_not_add_up(tcp: Tcp) -> None:
    """RFC 5681 3.2: three in a row for one number."""
    g = in_flight(tcp, 10)
    for n in range(1, 6):
        for _ in range(3):  # one that is new, two that are not
            ack(g, n)
    assert resent(g) == []
    ack(g, 10)


def test_partial_ack_retransmits_the_next_hole(tcp: Tcp) -> None:
    """RFC 6582 3.2 step 5: one round trip for each hole, no time-out."""
    g = in_flight(tcp, 12)
    for _ in range(3):
        ack(g, 0)
    assert resent(g) == [0]
    for hole in (3, 6, 9):
        ack(g, hole)
        assert resent(g) == [hole]
    ack(g, 12)
    tcp.advance(10.0)
    g.expect_nothing()
    assert tcp.stat("tcp_timeouts") == 0


def test_recovery_is_entered_once_for_a_flight(tcp: Tcp) -> None:
    """RFC 6582 3.2 step 2: duplicates that still answer the same flight start nothing new."""
    g = in_flight(tcp, 10)
    for _ in range(3):
        ack(g, 0)
    assert resent(g) == [0]
    for _ in range(6):
        ack(g, 0)
    assert resent(g) == []
    ack(g, 10)


def test_no_fast_retransmit_of_what_a_time_out_repeats(tcp: Tcp) -> None:
    """RFC 6582 4.1: after a time-out, duplicates below `recover` tell of repeats, not of losses."""
    g = in_flight(tcp, 10)
    tcp.advance(0.25)
    assert resent(g) == [0]
    for _ in range(5):
        ack(g, 0)
    assert resent(g) == []
    ack(g, 10)


# ---- selective acknowledgement: RFC 2018, RFC 6675


def test_sack_tells_a_loss(tcp: Tcp) -> None:
    """RFC 6675 4, 5: three segments' worth above it: lost, and sent at once."""
    g = in_flight(tcp, 10, SACK)
    ack(g, 0, 1)
    ack(g, 0, (1, 3))
    g.expect_nothing()
    ack(g, 0, (1, 4))
    assert resent(g) == [0]
    ack(g, 10)


def test_sack_only_what_is_missing_is_repeated(tcp: Tcp) -> None:
    """RFC 2018 8: of many losses just those, in order, and no time-out."""
    g = in_flight(tcp, 30, SACK)
    lost = {0, 5, 6, 11, 20}
    got = []
    for end in range(1, 31):
        held = [n for n in range(end) if n not in lost]
        ranges: list[tuple[int, int]] = []
        for n in held:
            if ranges and ranges[-1][1] == n:
                ranges[-1] = (ranges[-1][0], n + 1)
            else:
                ranges.append((n, n + 1))
        if held:
            ack(g, 0, *reversed(ranges[-3:]))
        got += resent(g)
    assert sorted(got) == sorted(lost)
    assert got == sorted(got)
    ack(g, 30)
    assert tcp.stat("tcp_timeouts") == 0


def test_sack_partial_ack_goes_on(tcp: Tcp) -> None:
    """RFC 6675 5 (C): an ACK that ends short of the recovery point repeats the next hole."""
    g = in_flight(tcp, 10, SACK)
    ack(g, 0, (1, 5), (6, 10))
    ack(g, 0, (1, 5), (6, 10))
    ack(g, 0, (1, 5), (6, 10))
    got = resent(g)
    ack(g, 5, (6, 10))
    got += resent(g)
    assert got == [0, 5]
    ack(g, 10)


@pytest.mark.parametrize(
    "blocks",
    [
        "-5000:-4000",  # below what is acknowledged: D-SACK (RFC 2883)
        "1:1001",  # at the acknowledged: nonsense
        "9001:60001",  # beyond what was sent
        "5001:4001",  # inverted
        "2001:2001",  # empty
        "100000000:100001000",
    ],
)
def test_sack_nonsense_is_ignored(tcp: Tcp, blocks: str) -> None:
    """RFC 2018 5.1, RFC 6675 2: only blocks inside what is outstanding count."""
    g = in_flight(tcp, 10, SACK)
    for _ in range(6):
        g.send(f". 1:1(0) ack 1 <sack {blocks}>")
    assert resent(g) in ([], [0])
    ack(g, 10)
    assert g.flow is not None
    assert g.flow["to_guest_bytes"] == 0


def test_sack_not_agreed_is_ignored(tcp: Tcp) -> None:
    """RFC 2018 2: blocks of a guest that did not offer it are not believed."""
    g = in_flight(tcp, 10)
    ack(g, 0, (1, 4))
    ack(g, 0, (1, 5))
    assert resent(g) == []
    ack(g, 10)


def test_sack_more_ranges_than_we_keep(tcp: Tcp) -> None:
    """TCP_HOLES_MAX: what does not fit is as if it had not been said; the stream still arrives."""
    g = in_flight(tcp, 100, SACK)
    for n in range(1, 100, 2):
        ack(g, 0, n)
    assert 0 in resent(g)
    for n in range(100):
        ack(g, n + 1)
        tcp.advance(0.01)
    g.drain()
    tcp.advance(120.0)
    g.expect_nothing()
    assert g.flow is not None
    assert g.flow["to_guest_bytes"] == 0


def test_sack_reneging(tcp: Tcp) -> None:
    """RFC 2018 8: after a time-out what was SACKed may be gone: all is sent again if need be."""
    g = in_flight(tcp, 10, SACK)
    ack(g, 0, (5, 10))
    g.drain()
    tcp.advance(0.5)
    got = set(resent(g))
    for n in range(1, 10):
        ack(g, n)
        tcp.advance(1.0)
        got |= set(resent(g))
    assert got == set(range(10))
    ack(g, 10)


def test_sack_recovers_a_lost_retransmission(tcp: Tcp) -> None:
    """RFC 6675 5.1: when the repeat is lost too, the timer is what is left."""
    g = in_flight(tcp, 10, SACK)
    ack(g, 0, (1, 10))
    assert resent(g) == [0]
    assert tcp.clock.run_until(lambda: bool(g.inbox), 5)
    assert resent(g) == [0]
    ack(g, 10)
    assert tcp.stat("tcp_timeouts") == 1


def test_tail_loss_is_repaired_by_the_timer(tcp: Tcp) -> None:
    """RFC 6298 5.4: nobody tells that the last segment was lost."""
    g = in_flight(tcp, 10, SACK)
    ack(g, 9)
    assert tcp.clock.run_until(lambda: bool(g.inbox), 5)
    assert resent(g) == [9]
    ack(g, 10)


# ---- congestion window: RFC 5681, as simple as tcp.pxd says


def test_no_loss_no_congestion_window(tcp: Tcp) -> None:
    """tcp.pxd: cwnd starts at the guest's whole window."""
    g = in_flight(tcp, 130)
    ack(g, 130)


def limited(tcp: Tcp, segments: int, options: str = f"mss {MSS},sackOK") -> Connection:
    """A guest whose window holds so many segments, all out; the host has more than enough."""
    g = tcp.established(options=options)
    g.window = segments * MSS
    g.send(". 1:1(0) ack 1")
    g.feed(stream(0, 1000 * MSS))
    assert resent(g) == list(range(segments))
    return g


def test_loss_halves_the_flight(tcp: Tcp) -> None:
    """RFC 5681 3.1 (4), 3.2: after recovery no more is out than half of what was."""
    g = limited(tcp, 20)
    for held in (2, 3, 4):
        ack(g, 0, (1, held))
    assert resent(g) == [0]
    ack(g, 20)
    assert resent(g) == list(range(20, 30))


def test_time_out_starts_slowly(tcp: Tcp) -> None:
    """RFC 5681 3.1: one segment after a time-out, then two for each acknowledged one."""
    g = in_flight(tcp, 32)
    tcp.advance(0.25)
    assert resent(g) == [0]
    sent = 1
    for expected in (2, 4, 8):
        base = sent
        got: list[int] = []
        for n in range(base - expected // 2, base):
            ack(g, n + 1)
            got += resent(g)
        assert len(got) == expected
        sent += expected
    ack(g, 32)


def test_open_again_after_loss(tcp: Tcp) -> None:
    """tcp.pxd: once it covers the guest's window, the congestion window is of no matter again."""
    g = limited(tcp, 20)
    tcp.advance(0.25)
    assert resent(g) == [0]
    sent = 1
    out = []
    for acked in range(1, 400):
        ack(g, acked)
        sent = max([sent, *(n + 1 for n in resent(g))])
        out.append(sent - acked)
    assert out[:12] == [2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10], "slow to half of 20: RFC 5681 3.1"
    assert out[-1] == 20
    assert out == sorted(out)


# ---- the link itself refuses


def test_link_refuses_and_recovers(tcp: Tcp) -> None:
    """A TAP whose queue is full takes no frame: counted, kept, and sent later."""
    g = tcp.established(options=SACK)
    tcp.host.link_error = 105  # ENOBUFS
    g.feed(stream(0, 5 * MSS))
    g.expect_nothing()
    assert tcp.stat("link_send_failed") >= 1
    tcp.host.link_error = 0
    assert tcp.clock.run_until(lambda: bool(g.inbox), 5)
    tcp.advance(5.0)
    assert set(resent(g)) >= {0}
    ack(g, 5)


def test_link_refuses_a_retransmission(tcp: Tcp) -> None:
    """The same for what is sent again: it is not taken for sent, a FIN neither."""
    g = tcp.established(options=SACK)
    g.socket.waiting.append(stream(0, 2 * MSS))
    g.socket.close()
    assert g.drain()[-1].has("F")
    tcp.host.link_error = 105
    tcp.advance(1.0)
    tcp.host.link_error = 0
    tcp.advance(1.0)
    assert resent(g)[0] == 0
    tcp.host.link_error = 105
    g.send(f". 1:1(0) ack {edge(2)}")
    tcp.advance(3.0)
    tcp.host.link_error = 0
    assert tcp.clock.run_until(lambda: bool(g.inbox), 10)
    g.expect(f"F. {edge(2)}:{edge(2)}(0) ack 1")
    g.send(f". 1:1(0) ack {edge(2) + 1}")
    assert g.state == "FIN-WAIT-2"


@pytest.mark.parametrize("options", [RENO, SACK])
@pytest.mark.parametrize("flight", [1, 2, 3, 7, 33])
def test_every_single_loss_is_repaired(
    make_tcp: Callable[..., Tcp], options: str, flight: int
) -> None:
    """Whichever one segment is lost: just that one is repeated."""
    for lost in range(flight):
        tcp = make_tcp()
        g = in_flight(tcp, flight, options)
        for end in range(lost + 1):
            ack(g, end)
            g.drain()
        for end in range(lost + 2, flight + 1):
            ack(g, lost, *([(lost + 1, end)] if "sackOK" in options else []))
        repeated = set(resent(g))
        if not repeated:
            assert tcp.clock.run_until(lambda g=g: bool(g.inbox), 5)  # type: ignore[misc]
            repeated = set(resent(g))
        assert repeated == {lost}
        ack(g, flight)
        tcp.advance(60.0)
        g.expect_nothing()


def test_duplicate_acks_cannot_be_forged_ahead(tcp: Tcp) -> None:
    """RFC 5961 5.2: ACKs of what was not sent do not move anything."""
    g = in_flight(tcp, 5)
    for _ in range(5):
        ack(g, 6)
    assert all(not segment.text for segment in g.drain())
    g.dropped(*[Drop.DROP_TCP_ACK_TOO_NEW] * 5)
    ack(g, 5)


# ---- a router behind the guest ----------------------------------------------------------------


def fragmentation_needed(g: Connection, seq: int, mtu: int) -> bytes:
    """ICMP 3/4 about the segment that begins at absolute number `seq`, from behind the guest."""
    tcp_start = struct.pack("!HHI", 80, g.guest_port, seq)
    quote = build_ip(WORLD, GUEST, 6, tcp_start + bytes(12))
    message = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quote[:28]
    checksum = dpkt.in_cksum(message)
    return message[:2] + struct.pack("!H", checksum) + message[4:]


def test_fragmentation_needed_makes_segments_smaller(tcp: Tcp) -> None:
    """RFC 1191 6.4: what did not fit goes again at once, cut to the MTU that was told."""
    g = in_flight(tcp, 2)
    tcp.send_ip(WORLD, 1, fragmentation_needed(g, g.our_isn + 1, 540))
    assert [len(segment.text) for segment in g.drain()][:2] == [500, 500]
    g.send(f". 1:1(0) ack {edge(2)}")
    g.drain()


@pytest.mark.parametrize("offset", [-1, 2 * MSS + 1, 1 << 20])
def test_fragmentation_needed_about_nothing_of_ours(tcp: Tcp, offset: int) -> None:
    """RFC 5927 4.1: only bytes that are on their way may be complained about."""
    g = in_flight(tcp, 2)
    seq = (g.our_isn + 1 + offset) & 0xFFFFFFFF
    tcp.send_ip(WORLD, 1, fragmentation_needed(g, seq, 540))
    g.expect_nothing()
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
