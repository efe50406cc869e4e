"""Resets and forgeries: RFC 5961, and the host's reset in either direction."""

from __future__ import annotations

import errno

import dpkt
import pytest

from harness.pkt import stream
from harness.tcp import BUILDERS, Tcp
from slirp.core.stats import Drop

CHALLENGE_BURST = 10  # RFC 5961 7: of one connection
CHALLENGES_PER_SECOND = 10
CHALLENGE_BURST_OF_ALL = 100


def test_blind_reset_sweep_only_one_number_counts(tcp: Tcp) -> None:
    """RFC 5961 3.2: of a whole window of guesses only RCV.NXT resets."""
    g = tcp.established()
    for seq in (2, 100, 1000, 60000):
        g.send(f"R {seq}:{seq}(0)")
        g.expect(". 1:1(0) ack 1")
    g.dropped(*[Drop.DROP_TCP_RST_CHALLENGED] * 4)
    assert g.state == "ESTABLISHED"
    g.send("R 1:1(0)")
    assert g.state is None


def test_reset_answers_the_challenge(tcp: Tcp) -> None:
    """RFC 5961 3.2: a true peer that lost its state knows the number from the challenge ACK."""
    g = tcp.established()
    g.send("P. 1:101(100) ack 1")
    g.expect(". 1:1(0) ack 101")
    g.send("R 102:102(0)")
    challenge = g.expect(". 1:1(0) ack 101")
    g.dropped(Drop.DROP_TCP_RST_CHALLENGED)
    seq = challenge.ack - g.isn
    g.send(f"R {seq}:{seq}(0)")
    assert g.socket.ended == "reset"
    tcp.at_rest()


def test_restarted_guest_recovers_by_the_challenge(tcp: Tcp) -> None:
    """RFC 9293 3.5.1 figure 9, RFC 5961 4.2: SYN of a rebooted guest, ACK, RST, SYN again."""
    g = tcp.established()
    g.send("S 700000:700000(0) <mss 1460>")
    challenge = g.expect(". 1:1(0) ack 1")
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
    seq = challenge.ack - g.isn
    g.send(f"R {seq}:{seq}(0)")
    g.send("S 700000:700000(0) <mss 1460>")
    tcp.host.newest.connected()
    g.expect("S. 0:0(0) ack 700001")


def test_blind_data_needs_a_plausible_ack(tcp: Tcp) -> None:
    """RFC 5961 5.2: SND.UNA - MAX.SND.WND =< SEG.ACK =< SND.NXT, or the text is not taken."""
    g = tcp.established()
    for ack, drop in ((2, Drop.DROP_TCP_ACK_TOO_NEW), (-8388481, Drop.DROP_TCP_ACK_TOO_OLD)):
        g.send(f"P. 1:11(10) ack {ack}", b"forged....")
        g.expect(". 1:1(0) ack 1")
        g.dropped(drop)
    assert not g.socket.received
    g.send("P. 1:11(10) ack -8388479")
    tcp.advance(0.5)
    g.expect(". 1:1(0) ack 11")
    assert g.socket.received == stream(0, 10), "within the largest window: acceptable"


def test_challenge_acks_are_limited(tcp: Tcp) -> None:
    """RFC 5961 7: a burst, then a rate; what is not sent is counted."""
    g = tcp.established()
    for _ in range(CHALLENGE_BURST + 50):
        g.send("R 2:2(0)")
    assert len(g.drain()) == CHALLENGE_BURST
    g.dropped(*[Drop.DROP_TCP_RST_CHALLENGED] * (CHALLENGE_BURST + 50))
    assert tcp.stat("tcp_challenge_acks") == CHALLENGE_BURST
    assert tcp.stat("tcp_challenge_limited") == 50
    tcp.advance(5 / CHALLENGES_PER_SECOND)
    for _ in range(30):
        g.send("R 2:2(0)")
    assert len(g.drain()) == 5
    g.dropped(*[Drop.DROP_TCP_RST_CHALLENGED] * 30)


def test_challenges_of_one_connection_leave_others_theirs(tcp: Tcp) -> None:
    """RFC 5961 7: an attack on one must not silence the rest; all together are bounded too."""
    attacked = [tcp.established() for _ in range(CHALLENGE_BURST_OF_ALL // CHALLENGE_BURST + 1)]
    answers = []
    for g in attacked:
        for _ in range(CHALLENGE_BURST + 5):
            g.send("R 2:2(0)")
            g.dropped(Drop.DROP_TCP_RST_CHALLENGED)
        answers.append(len(g.drain()))
    assert answers == [CHALLENGE_BURST] * (len(attacked) - 1) + [0]


@pytest.mark.parametrize("state", ["SYN-RECEIVED", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2"])
def test_guest_reset_is_passed_on(tcp: Tcp, state: str) -> None:
    """tcp.pxd: guest RST -> the host's socket is closed with RST; nothing is left."""
    g = BUILDERS[state](tcp)
    g.send("R 1:1(0)")
    assert g.socket.ended == "reset"
    tcp.at_rest()


@pytest.mark.parametrize("state", ["ESTABLISHED", "CLOSE-WAIT"])
@pytest.mark.parametrize("error", [errno.ECONNRESET, errno.ETIMEDOUT, errno.EPIPE])
def test_host_error_is_reset(tcp: Tcp, state: str, error: int) -> None:
    """tcp.pxd: host reset or error -> RST to the guest; the flow ends."""
    g = BUILDERS[state](tcp)
    g.socket.fail(error)
    received = 1 if state == "ESTABLISHED" else 2
    g.expect(f"R. 1:1(0) ack {received}")
    tcp.at_rest()


@pytest.mark.parametrize("state", ["FIN-WAIT-1", "FIN-WAIT-2"])
@pytest.mark.parametrize("met_by", ["event", "write"])
def test_host_error_after_its_end(tcp: Tcp, state: str, met_by: str) -> None:
    """tcp.pxd: the host's peer has closed, then died: the guest hears of it, at the latest when it
    writes.
    """
    g = BUILDERS[state](tcp)
    if met_by == "event":
        g.socket.fail(errno.ECONNRESET)
    else:
        g.socket.error = errno.EPIPE
        g.send(f"P. 1:11(10) ack {2 if state == 'FIN-WAIT-2' else 1}")
    g.expect("R. 2:2(0)")
    tcp.at_rest()


def test_reset_is_where_the_guest_believes_it(tcp: Tcp) -> None:
    """RFC 5961 3.2: a probe of a shut window was not taken, so RCV.NXT lies before it."""
    g = tcp.established(options="mss 1460")
    g.send(". 1:1(0) ack 1 win 0")
    g.feed(b"ab")
    assert tcp.clock.run_until(lambda: bool(g.inbox), 5)
    g.expect("P. 1:2(1)")
    g.send(". 1:1(0) ack 1 win 0")
    g.socket.fail()
    g.expect("R. 1:1(0) ack 1")


def test_host_error_comes_behind_its_bytes(tcp: Tcp) -> None:
    """What the host sent before it was reset, and the kernel still has, reaches the guest first."""
    g = tcp.established()
    g.socket.waiting.append(b"last words")
    g.socket.fail()
    assert g.expect("P. 1:11(10) ack 1").text == b"last words"
    g.expect("R. 11:11(0) ack 1")
    tcp.at_rest()


def test_host_reset_during_the_handshake(tcp: Tcp) -> None:
    """SYN-RECEIVED: the host's socket died after connect(): the RST is behind our SYN."""
    g = tcp.syn_received()
    g.socket.fail()
    g.expect("R. 1:1(0) ack 1")
    tcp.at_rest()


def test_client_of_a_forward_resets_during_the_handshake(tcp: Tcp) -> None:
    """SYN-SENT: the same."""
    g = tcp.syn_sent()
    g.socket.fail()
    g.expect("R. 1:1(0)")
    assert tcp.stat("flows") == 0


def test_segment_behind_our_reset_is_reset_again(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.1: our RST may be lost; whatever the guest says then is reset too."""
    g = tcp.established()
    g.socket.fail()
    g.expect("R. 1:1(0) ack 1")
    g.send("P. 1:11(10) ack 1")
    g.expect("R 1:1(0)")
    g.dropped(Drop.DROP_TCP_NO_CONNECTION)


def test_reset_while_text_waits_for_the_host(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 second: queues are flushed; the buffers come back."""
    g = tcp.established()
    g.socket.room = 0
    g.send("P. 1:1001(1000) ack 1")
    g.expect(". 1:1(0) ack 1001")
    assert tcp.stat("buffer_blocks") == 1
    g.send("R 1001:1001(0)")
    assert g.socket.ended == "reset"
    tcp.at_rest()


def test_reset_while_bytes_wait_for_the_guest(tcp: Tcp) -> None:
    """The same, the other way."""
    g = tcp.established()
    g.feed(stream(0, 5000))
    g.drain()
    assert tcp.stat("buffer_blocks") == 1
    g.send("R 1:1(0)")
    tcp.at_rest()


def test_reset_of_a_connection_says_nothing_to_others(tcp: Tcp) -> None:
    """A flow is its addresses and ports: a reset to another port does not touch it."""
    kept, ended = tcp.established(), tcp.established()
    ended.send("R 1:1(0)")
    assert (kept.state, ended.state) == ("ESTABLISHED", None)
    kept.send("P. 1:11(10) ack 1")
    kept.expect(". 1:1(0) ack 11")


def test_host_reset_at_a_shut_window_is_told(tcp: Tcp) -> None:
    """RFC 5961 3.2: believed only at the guest's RCV.NXT, which is before what did not fit."""
    g = tcp.established()
    g.send(". 1:1(0) ack 1 win 0")
    g.feed(stream(0, 3000))
    g.socket.fail()
    g.expect("R. 1:1(0) ack 1")
    tcp.at_rest()


@pytest.mark.parametrize("dest", [b"\xff\xff\xff\xff", b"\xe0\x00\x00\x01", b"\x7f\x00\x00\x01"])
def test_stray_to_nobody_is_silence(tcp: Tcp, dest: bytes) -> None:
    """RFC 1122 4.2.3.10: no reset in the name of a group or of a loopback address."""
    tcp.send_ip(dest, 6, dpkt.tcp.TCP(sport=1000, dport=80, seq=1, ack=77, flags=dpkt.tcp.TH_ACK))
    assert not tcp.stray
    tcp.dropped(Drop.DROP_IP4_BAD_DESTINATION)
