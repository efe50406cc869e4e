"""Windows and backpressure, both ways (RFC 9293 3.8.6, RFC 1122 4.2.2.16, RFC 7323 2.4): who does
not read holds back who writes, and either recovers when an update is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from harness.pkt import stream
from harness.tcp import Connection, Tcp
from slirp.core.stats import Drop

PLAIN = "mss 1460"  # no scaling: windows are as written
MSS = 1460


def text_of(g: Connection) -> bytes:
    """The text that has come."""
    return b"".join(segment.text for segment in g.drain())


# ---- the host stops reading: our window closes


def filled(tcp: Tcp, g: Connection, buffer_bytes: int) -> int:
    """The guest fills the window of a host that takes nothing; the number of the next byte."""
    g.socket.room = 0
    at = 1
    while at <= buffer_bytes:
        end = min(at + MSS, buffer_bytes + 1)
        g.send(f". {at}:{end}({end - at}) ack 1")
        at = end
    tcp.advance(0.1)
    assert g.drain()[-1].win == 0
    return at


def test_window_closes_and_opens(make_tcp: Callable[..., Tcp]) -> None:
    """Backpressure: the window is what the buffer still holds; no byte of it is refused or lost."""
    tcp = make_tcp(tcp_buffer_bytes=20000)
    g = tcp.established(options=PLAIN)
    at = filled(tcp, g, 20000)
    assert g.flow is not None
    assert g.flow["to_host_bytes"] == 20000
    g.send(f". {at}:{at + 10}(10) ack 1")
    g.expect(f". 1:1(0) ack {at} win 0")
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
    g.socket.take(None)
    g.expect(f". 1:1(0) ack {at} win 20000")
    assert g.socket.received == stream(0, 20000)
    assert tcp.stat("buffer_blocks") == 0


def test_window_update_lost_the_probe_is_answered(make_tcp: Callable[..., Tcp]) -> None:
    """RFC 9293 3.8.6.1 MUST-36: the update was lost, the guest's probe fetches it."""
    tcp = make_tcp(tcp_buffer_bytes=20000)
    g = tcp.established(options=PLAIN)
    at = filled(tcp, g, 20000)
    g.socket.take(None)
    g.drain()  # the update is lost
    g.send(f". {at}:{at + 1}(1) ack 1")
    tcp.advance(0.1)
    g.expect(f". 1:1(0) ack {at + 1} win 19999")
    g.send(f". {at - 1}:{at - 1}(0) ack 1")
    g.expect(f". 1:1(0) ack {at + 1} win 19999")
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)


@pytest.mark.parametrize("options", [PLAIN, f"{PLAIN},sackOK"])
def test_window_shut_probes_are_answered_for_ever(
    make_tcp: Callable[..., Tcp], options: str
) -> None:
    """RFC 9293 3.8.6.1 MUST-35: a host that never reads again does not end the connection."""
    tcp = make_tcp(tcp_buffer_bytes=2000)
    g = tcp.established(options=options)
    at = filled(tcp, g, 2000)
    for _ in range(48):
        tcp.advance(3600)
        g.send(f". {at}:{at + 1}(1) ack 1")
        g.expect(f". 1:1(0) ack {at} win 0 <no sack>")
        g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
    g.socket.take(None)
    g.expect(f". 1:1(0) ack {at} win 2000")
    assert g.socket.received == stream(0, 2000)


def test_full_host_socket_is_left_alone(tcp: Tcp) -> None:
    """hostops.pxd: events are edges: after -EAGAIN no send() before the host says there is room."""
    g = tcp.established()
    g.socket.room = 500
    for at in range(1, 5001, 1000):
        g.send(f". {at}:{at + 1000}(1000) ack 1")
    assert [size for _, size in tcp.host.called("tcp_send")] in ([1000], [1000, 500])
    g.socket.take(None)
    assert g.socket.received == stream(0, 5000)
    g.drain()


def test_window_opens_in_no_silly_steps(make_tcp: Callable[..., Tcp]) -> None:
    """RFC 9293 3.8.6.2.2 MUST-39: not before a segment, or half the buffer, fits."""
    tcp = make_tcp(tcp_buffer_bytes=20000)
    g = tcp.established(options=PLAIN)
    at = filled(tcp, g, 20000)
    for _ in range(MSS // 100):
        g.socket.take(100)
        g.expect_nothing()
    g.socket.take(100)
    g.expect(f". 1:1(0) ack {at} win 1500")


def test_window_updates_are_few(make_tcp: Callable[..., Tcp]) -> None:
    """RFC 9293 3.8.6.2.2: while half of it is left, the guest is not told; then in quarters."""
    tcp = make_tcp(tcp_buffer_bytes=20_000)
    g = tcp.established(options=PLAIN)
    g.socket.room = 0
    for at in range(1, 8001, 1000):
        g.send(f". {at}:{at + 1000}(1000) ack 1")
    tcp.advance(0.1)
    assert g.drain()[-1].win == 12_000
    g.socket.take(8000)
    g.expect_nothing()
    for at in range(8001, 12_001, 1000):
        g.send(f". {at}:{at + 1000}(1000) ack 1")
    tcp.advance(0.1)
    assert g.drain()[-1].win == 16_000, "told by the way"
    for at in range(12_001, 20_001, 1000):
        g.send(f". {at}:{at + 1000}(1000) ack 1")
    tcp.advance(0.1)
    assert g.drain()[-1].win == 8000
    g.socket.take(4000)
    g.expect_nothing()
    g.socket.take(1000)
    g.expect(". 1:1(0) ack 20001 win 13000")


def test_window_of_a_tiny_buffer(make_tcp: Callable[..., Tcp]) -> None:
    """RFC 9293 3.8.6.2.2: half the buffer where that is less than a segment."""
    tcp = make_tcp(tcp_buffer_bytes=1000)
    g = tcp.established(options=PLAIN)
    at = filled(tcp, g, 1000)
    g.socket.take(499)
    g.expect_nothing()
    g.socket.take(1)
    g.expect(f". 1:1(0) ack {at} win 500")


def test_window_of_one_byte(make_tcp: Callable[..., Tcp]) -> None:
    """The smallest buffer there is: slow, and right."""
    tcp = make_tcp(tcp_buffer_bytes=1)
    g = tcp.established(options=PLAIN)
    for at in range(1, 51):
        g.send(f"P. {at}:{at + 1}(1) ack 1")
        tcp.advance(0.1)
        assert g.drain()[-1].win == 1
    assert g.socket.received == stream(0, 50)
    g.send("P. 51:61(10) ack 1")
    g.expect(". 1:1(0) ack 52 win 1")
    assert g.socket.received == stream(0, 51), "cut to the window"


def test_text_over_the_edge_is_cut(make_tcp: Callable[..., Tcp]) -> None:
    """RFC 9293 3.10.7.4: trimmed to fit into the window; its FIN is beyond, and does not count."""
    tcp = make_tcp(tcp_buffer_bytes=1000)
    g = tcp.established(options=PLAIN)
    g.send("FP. 1:1401(1400) ack 1")
    g.expect(". 1:1(0) ack 1001 win 1000")
    assert (bytes(g.socket.received), g.state) == (stream(0, 1000), "ESTABLISHED")
    g.send("FP. 1001:1401(400) ack 1")
    g.expect(". 1:1(0) ack 1402")
    assert (bytes(g.socket.received), g.state) == (stream(0, 1400), "CLOSE-WAIT")


def test_window_scaled_what_was_offered_is_honoured(make_tcp: Callable[..., Tcp]) -> None:
    """RFC 7323 2.4: the field rounds down; every byte that any ACK allowed is taken."""
    tcp = make_tcp(tcp_buffer_bytes=1 << 20)
    g = tcp.established(options="mss 1460,wscale 7")
    g.send(". 1:2(1) ack 1")
    offered = g.expect(". 1:1(0) ack 2").win << 5
    g.socket.room = 0
    at = 2
    while at < 2 + offered:
        end = min(at + 999, 2 + offered)
        g.send(f". {at}:{end}({end - at}) ack 1")
        at = end
    assert g.flow is not None
    assert g.flow["to_host_bytes"] == offered
    tcp.advance(0.1)
    assert g.drain()[-1].win == 0
    g.socket.take(None)
    assert g.socket.received == stream(0, 1 + offered)
    g.drain()


@pytest.mark.parametrize("buffer_bytes", [10_000, 100_000, 1_000_000])
def test_memory_of_a_connection_is_bounded(make_tcp: Callable[..., Tcp], buffer_bytes: int) -> None:
    """Whatever the guest sends at a host that does not read: the buffer, and a block to round."""
    tcp = make_tcp(tcp_buffer_bytes=buffer_bytes)
    g = tcp.established()
    g.socket.room = 0
    at = 1
    for _ in range(1200):
        g.send(f". {at}:{at + MSS}({MSS}) ack 1")
        tcp.advance(0.02)
        at = 1 + int(str(g.flow["to_host_bytes"])) if g.flow else 0
    assert at - 1 <= buffer_bytes
    assert tcp.stat("buffer_blocks") <= buffer_bytes // 32768 + 2
    g.drain()
    tcp.dropped_only(Drop.DROP_TCP_OUT_OF_WINDOW)


# ---- the guest stops reading: we stop reading from the host


def test_guest_window_is_kept(tcp: Tcp) -> None:
    """RFC 9293 3.8.6: what the window does not allow stays with the host, but for one segment."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 5000")
    g.feed(stream(0, 100_000))
    assert text_of(g) == stream(0, 3 * MSS), "and whole segments only: the rest is not all"
    assert g.flow is not None
    assert int(str(g.flow["to_guest_bytes"])) <= 5000 + MSS
    g.send(f". 1:1(0) ack {3 * MSS + 1} win 3000")
    assert text_of(g) == stream(3 * MSS, 2 * MSS)


def test_shut_window_is_probed(tcp: Tcp) -> None:
    """RFC 9293 3.8.6.1 MUST-36, SHLD-29, SHLD-30: after an RTO, then at doubled intervals."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 0")
    g.feed(stream(0, 4000))
    g.expect_nothing()
    probes: list[int] = []
    for _ in range(600):
        tcp.advance(0.1)
        for segment in g.drain():
            assert segment.text == stream(0, 1), "one byte beyond the window"
            probes.append(tcp.clock.now_us)
            g.send(". 1:1(0) ack 1 win 0")
    gaps = [round((b - a) / 1e6, 1) for a, b in pairwise(probes)]
    assert len(gaps) >= 5
    assert all(1.8 <= b / a <= 2.2 for a, b in pairwise(gaps[:5]))


def test_shut_window_is_probed_for_ever(tcp: Tcp) -> None:
    """RFC 9293 3.8.6.1 MUST-37: as long as the guest answers, its window may stay shut."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 0")
    g.feed(stream(0, 4000))
    for _ in range(24 * 60):
        tcp.advance(60)
        if g.drain():
            g.send(". 1:1(0) ack 1 win 0")
    assert g.state == "ESTABLISHED"
    g.send(". 1:1(0) ack 1 win 60000")
    assert text_of(g) == stream(0, 4000)


def test_shut_window_of_a_dead_guest_ends(tcp: Tcp) -> None:
    """RFC 1122 4.2.3.5 R2: nobody answers the probes: both sides end with a reset."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 0")
    g.feed(stream(0, 4000))
    tcp.advance(900)
    assert g.drain()[-1].has("R")
    assert g.socket.ended == "reset"
    assert tcp.stat("tcp_aborted") == 1
    tcp.at_rest()


def test_shut_window_opens_by_an_update(tcp: Tcp) -> None:
    """RFC 9293 3.8.6.1: and all goes on at once."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 0")
    g.feed(stream(0, 4000))
    g.send(". 1:1(0) ack 1 win 60000")
    assert text_of(g) == stream(0, 4000)


def test_shut_window_update_lost_the_probe_fetches_it(tcp: Tcp) -> None:
    """RFC 9293 3.8.6.1: the probe's byte was dropped by the guest; its ACK opens the window."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 0")
    g.feed(stream(0, 4000))
    tcp.advance(1.5)
    assert {segment.text for segment in g.drain()} == {stream(0, 1)}
    g.send(". 1:1(0) ack 1 win 60000")
    assert text_of(g) == stream(0, 4000), "from the first byte on"


def test_shut_window_opens_and_the_text_is_lost(tcp: Tcp) -> None:
    """RFC 6298 5.1: what is sent again when the window opens is watched by the timer too."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 0")
    g.feed(b"a")
    assert tcp.clock.run_until(lambda: bool(g.inbox), 5)
    g.drain()
    g.send(". 1:1(0) ack 1 win 60000")
    for _ in range(3):
        assert tcp.clock.run_until(lambda: bool(g.inbox), 5)
        g.expect("P. 1:2(1)")
    g.send(". 1:1(0) ack 2 win 60000")


def test_shut_window_the_probe_is_taken(tcp: Tcp) -> None:
    """RFC 9293 3.8.6.1: a guest may take the byte: then it is acknowledged, and not sent again."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 0")
    g.feed(stream(0, 4000))
    for at in range(1, 6):
        assert tcp.clock.run_until(lambda: bool(g.inbox), 60)
        g.expect(f"P. {at}:{at + 1}(1)")
        g.send(f". 1:1(0) ack {at + 1} win 0")
    g.send(". 1:1(0) ack 6 win 60000")
    assert text_of(g) == stream(5, 3995)


def test_shut_window_nothing_to_send_nothing_to_probe(tcp: Tcp) -> None:
    """No byte waits: the shut window is the guest's own affair."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 0")
    tcp.advance(3600)
    g.expect_nothing()


def test_shut_window_the_other_way_still_flows(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4: text from a guest that does not read is taken and acknowledged."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 0")
    g.feed(stream(0, 4000))
    for at in range(1, 4 * MSS, MSS):
        g.send(f". {at}:{at + MSS}({MSS}) ack 1 win 0")
    assert g.socket.received == stream(0, 4 * MSS)
    tcp.advance(0.1)
    assert g.drain()[-1].ack == g.isn + 1 + 4 * MSS


@pytest.mark.parametrize("window", [1, 2, 10, 100, 536, 1459])
def test_small_window_is_used_in_the_end(tcp: Tcp, window: int) -> None:
    """RFC 9293 3.8.6.2.1 (4): below half of the largest window, the override time-out sends."""
    g = tcp.established(options=PLAIN)
    g.window = window
    g.send(". 1:1(0) ack 1")
    g.feed(stream(0, 20 * window))
    g.expect_nothing()
    for at in range(0, 20 * window, window):
        assert tcp.clock.run_until(lambda: bool(g.inbox), 1.0), "0.1 to 1 s, the RFC says"
        assert text_of(g) == stream(at, window)
        g.send(f". 1:1(0) ack {at + window + 1}")


def test_small_window_is_used_while_the_guest_talks(tcp: Tcp) -> None:
    """The same: what the guest sends meanwhile does not put it off."""
    g = tcp.established(options=PLAIN)
    g.window = 500
    g.send(". 1:1(0) ack 1")
    g.feed(stream(0, 1000))
    got = b""
    for at in range(1, 21):
        g.send(f"P. {at}:{at + 1}(1) ack 1")
        tcp.advance(0.1)
        got = got or text_of(g)
    assert got == stream(0, 500)
    g.drain()


@pytest.mark.parametrize("window", [1, 2, 10, 1459])
def test_tiny_window_is_used_at_once(tcp: Tcp, window: int) -> None:
    """RFC 9293 3.8.6.2.1 (3): where no window was ever larger, half of it is enough."""
    g = tcp.syn_received(options=PLAIN)
    g.window = window
    g.send(". 1:1(0) ack 1")
    g.feed(stream(0, 20 * window))
    for at in range(0, 20 * window, window):
        assert text_of(g) == stream(at, window)
        g.send(f". 1:1(0) ack {at + window + 1}")


def test_silly_window_is_not_fed(tcp: Tcp) -> None:
    """RFC 9293 3.8.6.2.1: neither a full segment, nor all, nor half of the largest window: wait."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 10000")
    g.feed(stream(0, 50_000))
    assert text_of(g) == stream(0, 6 * MSS)
    g.send(f". 1:1(0) ack {6 * MSS + 1} win 1459")
    g.expect_nothing()
    g.send(f". 1:1(0) ack {6 * MSS + 1} win 1460")
    assert text_of(g) == stream(6 * MSS, MSS)


def test_window_shrinks_under_way(tcp: Tcp) -> None:
    """RFC 1122 4.2.2.16, RFC 9293 3.8.6 SHLD-15: a right edge that moves left ends nothing."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 8760")
    g.feed(stream(0, 20_000))
    assert text_of(g) == stream(0, 8760)
    g.send(". 1:1(0) ack 1461 win 2920")
    g.expect_nothing()
    g.send(". 1:1(0) ack 4381 win 0")
    for _ in range(200):
        tcp.advance(1.0)
        if g.drain():
            g.send(". 1:1(0) ack 4381 win 0")
    assert g.state == "ESTABLISHED", "RFC 9293 3.8.6.1 MUST-37 holds here too"
    g.send(". 1:1(0) ack 4381 win 60000")
    tcp.advance(70)
    got = {segment.seq: segment.text for segment in g.drain()}
    first = min(got)
    assert first == (g.our_isn + 4381) & 0xFFFFFFFF


def test_window_of_an_old_segment_is_ignored(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 fifth: SND.WL1, SND.WL2 keep a reordered ACK from setting the window."""
    g = tcp.established(options=PLAIN)
    g.send("P. 1:11(10) ack 1 win 0")
    g.send(". 1:1(0) ack 1 win 60000")
    g.feed(stream(0, 1000))
    tcp.advance(0.1)
    g.expect(". 1:1(0) ack 11")
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
    g.send(". 11:11(0) ack 1 win 60000")
    assert text_of(g) == stream(0, 1000)


def test_window_goes_with_its_ack(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 fifth: SND.WND counts from the ACK it came with, also in a segment whose
    number is older than the last that set it: a gap that is filled behind newer text.
    """
    g = tcp.established(options="mss 500")
    g.send(". 1:1(0) ack 1 win 1000")
    g.feed(stream(0, 5000))
    assert text_of(g) == stream(0, 1000)
    g.send("P. 101:201(100) ack 1 win 1000")
    g.send("P. 1:101(100) ack 501 win 500")
    assert text_of(g) == b"", "the right edge is where it was"
    g.send(". 201:201(0) ack 501 win 1500")
    assert text_of(g) == stream(1000, 1000)


def test_window_shut_fin_is_still_delivered(tcp: Tcp) -> None:
    """RFC 9293 3.8.6.1: what waits at a shut window may be a FIN alone; it too gets there."""
    g = tcp.established(options=PLAIN)
    g.send(". 1:1(0) ack 1 win 0")
    g.socket.close()
    for _ in range(400):
        tcp.advance(1.0)
        if g.drain():
            g.send(". 1:1(0) ack 1 win 0")
    assert g.state == "FIN-WAIT-1", "RFC 9293 3.8.6.1 MUST-37"
    g.send(". 1:1(0) ack 1 win 60000")
    assert tcp.clock.run_until(lambda: bool(g.inbox), 70)
    g.expect("F. 1:1(0) ack 1")
    g.send(". 1:1(0) ack 2 win 60000")
    assert g.state == "FIN-WAIT-2"


def test_full_speed_again_after_backpressure(tcp: Tcp) -> None:
    """Both windows shut, both open: both streams go on where they were."""
    g = tcp.established(options=PLAIN)
    g.socket.room = 0
    g.send(". 1:1001(1000) ack 1 win 0")
    g.feed(stream(0, 3000))
    tcp.advance(0.15)
    g.drain()
    g.socket.take(None)
    g.send(". 1001:2001(1000) ack 1 win 65535")
    assert g.socket.received == stream(0, 2000)
    assert text_of(g) == stream(0, 3000)
