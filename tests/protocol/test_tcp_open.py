"""Opening: RFC 9293 3.5 and 3.10.7.1 to 3.10.7.3."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from harness.net import DNS, GATEWAY, GUEST, WORLD
from harness.pkt import stream
from harness.tcp import Tcp
from slirp.core.hostfake import EVENT_WRITABLE
from slirp.core.stats import Drop

ICMP_UNREACHABLE = 3


# ---- no connection: RFC 9293 3.10.7.1


@pytest.mark.parametrize(
    ("segment", "reset"),
    [
        ("S. 0:0(0) ack 700", "R 700:700(0)"),
        (". 0:0(0) ack 700", "R 700:700(0)"),
        ("P. 0:10(10) ack 700", "R 700:700(0)"),
        ("F. 0:0(0) ack 700", "R 700:700(0)"),
        ("F 5:5(0)", "R. ack 6"),
        ("P 5:15(10)", "R. ack 15"),
        ("FP 5:15(10)", "R. ack 16"),
        ("U 5:5(0) urg 1", "R. ack 5"),
    ],
)
def test_closed_segment_is_reset(tcp: Tcp, segment: str, reset: str) -> None:
    """RFC 9293 3.10.7.1: RST at SEG.ACK, or at 0 with ACK of SEG.SEQ + SEG.LEN."""
    g = tcp.peer()
    g.send(segment)
    rst = g.expect(reset)
    if "ack" not in segment:
        assert rst.seq == 0
    assert rst.win == 0
    g.dropped(Drop.DROP_TCP_NO_CONNECTION)


@pytest.mark.parametrize("segment", ["R 0:0(0)", "R. 0:0(0) ack 700", "SR 0:0(0)"])
def test_closed_reset_is_not_answered(tcp: Tcp, segment: str) -> None:
    """RFC 9293 3.10.7.1: an incoming segment containing a RST is discarded."""
    g = tcp.peer()
    g.send(segment)
    g.expect_nothing()
    g.dropped(Drop.DROP_TCP_NO_CONNECTION)


# ---- the guest's SYN: connect before SYN-ACK


def test_syn_connects_before_it_is_answered(tcp: Tcp) -> None:
    """tcp.pxd: guest SYN -> connect(); host connected -> SYN-ACK."""
    g = tcp.connecting()
    assert tcp.host.called("tcp_connect") == [(WORLD, 80)]
    assert g.flow is not None
    assert (g.state, g.flow["host_state"]) == ("SYN-RECEIVED", "CONNECTING")
    tcp.advance(1.0)
    g.expect_nothing()
    g.socket.connected()
    g.expect("S. 0:0(0) ack 1")
    g.send(". 1:1(0) ack 1")
    assert g.flow is not None
    assert (g.state, g.flow["host_state"]) == ("ESTABLISHED", "OPEN")
    assert tcp.stat("tcp_opened") == 1


def test_syn_received_data_with_the_ack_is_taken(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 fifth, SYN-RECEIVED: enter ESTABLISHED and continue processing."""
    g = tcp.syn_received()
    g.send("P. 1:101(100) ack 1")
    assert g.socket.received == stream(0, 100)
    g.send(". 101:101(0) ack 1")
    tcp.advance(0.5)
    g.expect(". 1:1(0) ack 101")


def test_syn_received_fin_with_the_ack(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 eighth: the handshake's ACK may carry text and FIN."""
    g = tcp.syn_received()
    g.send("FP. 1:11(10) ack 1")
    g.expect(". 1:1(0) ack 12")
    assert g.state == "CLOSE-WAIT"
    assert g.socket.received == stream(0, 10)
    assert g.socket.shut


def test_syn_with_data_is_not_lost(tcp: Tcp) -> None:
    """RFC 7413 tolerated: text on a SYN is not taken, and taken when it comes again."""
    g = tcp.peer()
    g.send("S 0:50(50) <mss 1460>")
    g.socket = tcp.host.newest
    g.socket.connected()
    g.expect("S. 0:0(0) ack 1")
    g.send("P. 1:51(50) ack 1")
    assert g.socket.received == stream(0, 50)


def test_syn_with_fast_open_option(tcp: Tcp) -> None:
    """RFC 7413 4.1.1: a cookie request is an option unknown to us, and passed over."""
    g = tcp.peer()
    g.send("S 0:0(0) <mss 1460>", raw_options=b"\x22\x02\x01\x01")
    tcp.host.newest.connected()
    g.expect("S. 0:0(0) ack 1 <mss 1460>")


def test_syn_again_while_connecting_is_silence(tcp: Tcp) -> None:
    """The guest's own retransmission changes nothing: there is one connect()."""
    g = tcp.connecting()
    g.send("S 0:0(0) <mss 1460,sackOK,wscale 7>")
    g.expect_nothing()
    assert len(tcp.host.called("tcp_connect")) == 1
    g.dropped(Drop.DROP_TCP_CONNECTING)
    g.socket.connected()
    g.expect("S. 0:0(0) ack 1")


def test_syn_anew_while_connecting_begins_again(tcp: Tcp) -> None:
    """The guest gave up and tries the same port with another ISN: the new SYN counts."""
    g = tcp.connecting()
    old = g.socket
    g.send("S 5000:5000(0) <mss 1460>")
    assert old.ended == "reset"
    tcp.host.newest.connected()
    g.expect("S. 0:0(0) ack 5001")


def test_syn_received_same_syn_is_answered_again(tcp: Tcp) -> None:
    """Our SYN-ACK was lost: the guest's SYN comes again, and so does our answer."""
    g = tcp.syn_received()
    g.send("S 0:0(0) <mss 1460,sackOK,wscale 7>")
    g.expect("S. 0:0(0) ack 1 <mss 1460,sackOK>")
    g.dropped(Drop.DROP_TCP_CONNECTING)


@pytest.mark.parametrize(
    ("isn", "drop"),
    [(5000, Drop.DROP_TCP_SYN_CHALLENGED), (5_000_000, Drop.DROP_TCP_OUT_OF_WINDOW)],
)
def test_syn_received_other_syn_lets_the_guest_reset(tcp: Tcp, isn: int, drop: Drop) -> None:
    """RFC 5961 4.2, RFC 9293 3.10.7.4 first: an ACK; a guest that began anew answers with RST."""
    g = tcp.syn_received()
    g.send(f"S {isn}:{isn}(0) <mss 1460>")
    g.expect(". 1:1(0) ack 1")
    g.dropped(drop)
    g.send("R 1:1(0)")
    assert g.state is None
    g.send(f"S {isn}:{isn}(0) <mss 1460>")
    tcp.host.newest.connected()
    g.expect(f"S. 0:0(0) ack {isn + 1}")


@pytest.mark.parametrize(
    ("ack", "drop"), [(0, Drop.DROP_TCP_ACK_TOO_OLD), (2, Drop.DROP_TCP_ACK_TOO_NEW)]
)
def test_syn_received_wrong_ack_is_reset(tcp: Tcp, ack: int, drop: Drop) -> None:
    """RFC 9293 3.10.7.4 fifth: <SEQ=SEG.ACK><CTL=RST>, and the connection stays."""
    g = tcp.syn_received()
    g.send(f". 1:1(0) ack {ack}")
    g.expect(f"R {ack}:{ack}(0)")
    g.dropped(drop)
    g.send(". 1:1(0) ack 1")
    assert g.state == "ESTABLISHED"


def test_connecting_reset_ends_the_connect(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 second: the guest has gone, the host's socket goes with it."""
    g = tcp.connecting()
    g.send("R 1:1(0)")
    assert g.socket.ended == "reset"
    tcp.at_rest()


def test_connecting_ack_is_reset(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 fifth: no SYN of ours is out, so no ACK can be right."""
    g = tcp.peer()
    tcp.aim_isn(g, 5000)
    tcp.connecting(g)
    for ack, drop in ((0, Drop.DROP_TCP_ACK_TOO_OLD), (1, Drop.DROP_TCP_ACK_TOO_NEW)):
        g.send(f". 1:1(0) ack {ack}")
        g.expect(f"R {ack}:{ack}(0)")
        g.dropped(drop)


# ---- the host answers connect()


@pytest.mark.parametrize("error", [errno.ECONNREFUSED, errno.ECONNRESET, errno.EADDRNOTAVAIL])
@pytest.mark.parametrize("at_once", [True, False])
def test_refused_is_reset(tcp: Tcp, error: int, at_once: bool) -> None:
    """tcp.pxd: host refused -> RST, as to a closed port (RFC 9293 3.10.7.1)."""
    g = tcp.peer()
    tcp.host.connect_error = error if at_once else 0
    g.send("S 0:0(0) <mss 1460>")
    if not at_once:
        tcp.host.newest.refused(error)
    rst = g.expect("R. ack 1")
    assert rst.seq == 0
    g.dropped(*[Drop.DROP_TCP_HOST_REFUSED] * at_once)
    assert tcp.stat("tcp_connect_failed") == 1
    tcp.at_rest()


def test_refused_with_text_on_the_syn(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.1: ACK of SEG.SEQ + SEG.LEN, where SEG.LEN counts the text too."""
    g = tcp.peer()
    g.send("S 0:50(50) <mss 1460>")
    tcp.host.newest.refused(errno.ECONNREFUSED)
    g.expect("R. ack 51")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errno.ENETUNREACH, 0),
        (errno.ENETDOWN, 0),
        (errno.EHOSTUNREACH, 1),
        (errno.EHOSTDOWN, 1),
        (errno.EACCES, 13),
        (errno.EPERM, 13),
    ],
)
def test_unreachable_is_icmp(tcp: Tcp, error: int, code: int) -> None:
    """tcp.pxd: host unreachable -> ICMP unreachable, quoting the SYN (RFC 1122 4.2.3.9)."""
    g = tcp.connecting()
    g.socket.refused(error)
    datagram = tcp.stray.popleft()
    assert datagram[12:16] == GATEWAY
    assert tuple(datagram[20:22]) == (ICMP_UNREACHABLE, code)
    quoted = datagram[28:]
    assert (quoted[9], quoted[12:16], quoted[16:20]) == (6, GUEST, WORLD)
    assert quoted[20:28] == struct.pack("!HHI", g.guest_port, g.dest_port, g.isn)
    g.expect_nothing()
    tcp.at_rest()


def test_connect_timed_out_is_silence(tcp: Tcp) -> None:
    """tcp.pxd: host connect timed out -> silence, as the guest would have seen it."""
    g = tcp.connecting()
    g.socket.refused(errno.ETIMEDOUT)
    g.expect_nothing()
    tcp.at_rest()


def test_connect_never_answered_ends_by_itself(tcp: Tcp) -> None:
    """A half-open connection has an end: TCP_CONNECT_TIMEOUT_US."""
    g = tcp.connecting()
    tcp.advance(129.0)
    assert g.state == "SYN-RECEIVED"
    tcp.advance(2.0)
    g.expect_nothing()
    assert g.socket.ended == "reset"
    assert tcp.stat("tcp_connect_failed") == 1
    tcp.at_rest()


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_our_own_shortage_is_silence(tcp: Tcp, error: int) -> None:
    """No socket to be had is not the destination's answer: the guest's SYN will come again."""
    tcp.host.connect_error = error
    g = tcp.peer()
    g.send("S 0:0(0) <mss 1460>")
    g.expect_nothing()
    g.dropped(Drop.DROP_TCP_HOST_REFUSED)
    tcp.at_rest()


# ---- the SYN-ACK


def test_syn_ack_is_sent_again(tcp: Tcp) -> None:
    """RFC 6298 2.1, 5.5: after 1 s, 2 s, 4 s ..."""
    g = tcp.syn_received()
    for wait in (1.0, 2.0, 4.0):
        tcp.advance(wait - 0.01)
        g.expect_nothing()
        tcp.advance(0.01)
        g.expect("S. 0:0(0) ack 1")
    g.send(". 1:1(0) ack 1")
    assert g.state == "ESTABLISHED"


def test_syn_ack_never_acknowledged_gives_up(tcp: Tcp) -> None:
    """RFC 1122 4.2.3.5 R2 for SYN: then both sides end with a reset."""
    g = tcp.syn_received()
    tcp.advance(74.0)
    assert [segment.has("S.") for segment in g.drain()] == [True] * 6
    tcp.advance(1.0)
    g.expect("R. 1:1(0) ack 1")
    assert g.socket.ended == "reset"
    tcp.at_rest()


def test_syn_received_reset_in_window_is_challenged(tcp: Tcp) -> None:
    """RFC 5961 3.2 holds in SYN-RECEIVED too: only RCV.NXT resets."""
    g = tcp.syn_received()
    g.send("R 2:2(0)")
    g.expect(". 1:1(0) ack 1")
    g.dropped(Drop.DROP_TCP_RST_CHALLENGED)
    g.send("R 1:1(0)")
    assert g.socket.ended == "reset"
    tcp.at_rest()


def test_handshake_time_is_a_round_trip_sample(tcp: Tcp) -> None:
    """RFC 6298 2.2: the SYN-ACK and its ACK give the first measurement."""
    g = tcp.syn_received()
    tcp.advance(0.25)
    g.send(". 1:1(0) ack 1")
    assert g.flow is not None
    assert g.flow["srtt_us"] == 250_000


def test_handshake_time_is_none_after_a_retransmission(tcp: Tcp) -> None:
    """RFC 6298 3 (Karn): which SYN-ACK was acknowledged, nobody knows."""
    g = tcp.syn_received()
    tcp.advance(1.2)
    g.expect("S. 0:0(0) ack 1")
    g.send(". 1:1(0) ack 1")
    assert g.flow is not None
    assert g.flow["srtt_us"] == 0


# ---- SYN-SENT: RFC 9293 3.10.7.3


def test_client_of_a_forward_reaches_the_guest(tcp: Tcp) -> None:
    """tcp.pxd: host client accepted -> SYN to the guest, from the client's own address."""
    g = tcp.accepted()
    assert g.flow is not None
    assert (g.flow["dest_addr"], g.flow["dest_port"]) == (WORLD, g.dest_port)
    g.feed(b"hello")
    assert g.expect("P. 1:6(5) ack 1").text == b"hello"
    g.send("P. 1:4(3) ack 6", b"you")
    assert g.socket.received == b"you"


def test_syn_sent_offers_everything(tcp: Tcp) -> None:
    """RFC 6691, 7323, 2018: our SYN has MSS, window scale, SACK-permitted and time-stamps."""
    g = tcp.syn_sent()
    tcp.advance(1.0)
    segment = g.expect("S 0:0(0) win 65535 <mss 1460,sackOK,wscale 5>")
    assert segment.ts is not None
    assert segment.ts[1] == 0


@pytest.mark.parametrize(
    ("segment", "reset", "drop"),
    [
        (". 0:0(0) ack 0", "R 0:0(0)", Drop.DROP_TCP_ACK_TOO_OLD),
        (". 0:0(0) ack 2", "R 2:2(0)", Drop.DROP_TCP_ACK_TOO_NEW),
        ("S. 0:0(0) ack 2", "R 2:2(0)", Drop.DROP_TCP_ACK_TOO_NEW),
        ("R 0:0(0)", None, Drop.DROP_TCP_RST_OUT_OF_WINDOW),
        ("R. 0:0(0) ack 2", None, Drop.DROP_TCP_ACK_TOO_NEW),
        (". 0:0(0) ack 1", None, Drop.DROP_TCP_NO_ACK),
        ("F 0:0(0)", None, Drop.DROP_TCP_NO_ACK),
    ],
)
def test_syn_sent_refuses(tcp: Tcp, segment: str, reset: str | None, drop: Drop) -> None:
    """RFC 9293 3.10.7.3, first, second and fifth: and stays in SYN-SENT."""
    g = tcp.syn_sent()
    g.send(segment)
    if reset is not None:
        g.expect(reset)
    g.dropped(drop)
    assert g.state == "SYN-SENT"


def test_syn_sent_reset_with_ack_ends(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.3 second: the guest's port is closed; the client sees a reset."""
    g = tcp.syn_sent()
    g.send("R. 0:0(0) ack 1")
    assert g.socket.ended == "reset"
    assert tcp.stat("flows") == 0


def test_syn_sent_is_sent_again_and_gives_up(tcp: Tcp) -> None:
    """RFC 6298 2.5, 5.5, RFC 1122 4.2.3.5: nobody answers; the client is told so.

    Sent again at 1, 3, 7, 15, 31 and 63 s; the time-out is at its bound of 60 s then.
    """
    g = tcp.syn_sent()
    tcp.advance(1.0)
    g.expect("S 0:0(0)")
    tcp.advance(121.0)
    assert [segment.has("S") for segment in g.drain()] == [True] * 5
    tcp.advance(5.0)
    assert g.drain()[0].has("R")
    assert g.socket.ended == "reset"
    assert tcp.stat("flows") == 0


@pytest.mark.parametrize(
    "options", ["", "mss 1460", "mss 1460,sackOK", "mss 1460,TS val 77 ecr 0", "wscale 3"]
)
def test_syn_sent_guest_answers_with_less(tcp: Tcp, options: str) -> None:
    """RFC 7323 1.3, 2.2: without the option on both SYNs there is no scaling, nor time-stamps."""
    g = tcp.accepted(options=options)
    g.feed(stream(0, 3000))
    assert b"".join(segment.text for segment in g.drain()) == stream(0, 3000)


def test_simultaneous_open(tcp: Tcp) -> None:
    """RFC 9293 3.5 figure 8: SYN meets SYN; each answers SYN-ACK, and both are established."""
    g = tcp.syn_sent()
    g.send("S 0:0(0) <mss 1460>")
    g.expect("S. 0:0(0) ack 1")
    assert g.state == "SYN-RECEIVED"
    g.send("S. 0:0(0) ack 1 <mss 1460>")
    g.expect(". 1:1(0) ack 1")
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
    g.send(". 1:1(0) ack 1")
    assert g.state == "ESTABLISHED"


# ---- bounds and policy


def test_half_open_connections_give_way(make_tcp: Callable[..., Tcp]) -> None:
    """A quarter of the flows may be half-open; the oldest goes, established ones never do."""
    tcp = make_tcp(max_flows=64)
    kept = tcp.established()
    half_open = [tcp.connecting() for _ in range(16)]
    last = tcp.connecting()
    assert half_open[0].socket.ended == "reset"
    assert tcp.stat("half_open_evicted") == 1
    assert [g.state for g in half_open[1:]] == ["SYN-RECEIVED"] * 15
    assert (kept.state, last.state) == ("ESTABLISHED", "SYN-RECEIVED")


def test_table_full_drops_the_syn(make_tcp: Callable[..., Tcp]) -> None:
    """The bound on flows holds; a SYN that finds no place is dropped, not answered."""
    tcp = make_tcp(max_flows=64)
    connections = [tcp.established() for _ in range(64)]
    g = tcp.peer()
    g.send("S 0:0(0) <mss 1460>")
    g.expect_nothing()
    g.dropped(Drop.DROP_FLOWS_FULL)
    connections[0].send("R 1:1(0)")
    tcp.established(g)


@pytest.mark.parametrize("living", [0, 50])
def test_time_wait_gives_way_before_the_table_is_full(
    make_tcp: Callable[..., Tcp], living: int
) -> None:
    """A client of many short connections waits for no place: none of its SYNs is dropped."""
    tcp = make_tcp(max_flows=64)
    kept = [tcp.established() for _ in range(living)]
    for _ in range(300):
        tcp.time_wait()
    assert tcp.stat("flows") <= 64
    assert {g.state for g in kept} <= {"ESTABLISHED"}


def test_mappings_do_not_take_time_waits_reserve_for_good(make_tcp: Callable[..., Tcp]) -> None:
    """The places kept free may be taken by others; more TIME-WAITs go then."""
    tcp = make_tcp(max_flows=64)
    for sport in range(16):
        if sport % 4 == 0:
            for _ in range(50):
                tcp.time_wait()
        tcp.send_ip(WORLD, 17, struct.pack("!HHHH", 5000 + sport, 9, 8, 0))
    tcp.time_wait()
    assert tcp.stat("udp_flows") == 16


@pytest.mark.parametrize(("dest", "port"), [(DNS, 80), (DNS, 53)])
def test_what_nobody_serves_is_reset(tcp: Tcp, dest: bytes, port: int) -> None:
    """fwd.pxd's policy says no (no resolver is known here): RST, no connect()."""
    g = tcp.peer(dest=dest, dest_port=port)
    g.send("S 0:0(0) <mss 1460>")
    g.expect("R. ack 1")
    g.dropped(Drop.DROP_TCP_FORBIDDEN)
    assert not tcp.host.called("tcp_connect")


def test_gateway_leads_to_the_hosts_loopback(tcp: Tcp) -> None:
    """fwd.pxd: the gateway's address is the host itself."""
    tcp.connecting(tcp.peer(dest=GATEWAY, dest_port=8000))
    assert tcp.host.called("tcp_connect") == [(bytes((127, 0, 0, 1)), 8000)]


def test_nowhere_is_unreachable(tcp: Tcp) -> None:
    """fwd.pxd: nobody lives at another address of the guest's network: ICMP says so."""
    g = tcp.peer(dest=bytes((10, 0, 2, 77)))
    g.send("S 0:0(0) <mss 1460>")
    g.expect_nothing()
    assert tuple(tcp.stray.popleft()[20:22]) == (ICMP_UNREACHABLE, 1)
    g.dropped(Drop.DROP_IP4_BAD_DESTINATION)
    tcp.at_rest()


def test_event_before_connect_has_ended_is_nothing(tcp: Tcp) -> None:
    """The host's kernel may wake us early: connect() is still in progress then."""
    g = tcp.connecting()
    tcp.stack.host_event(g.socket.ref, EVENT_WRITABLE, tcp.clock.now_us)
    g.expect_nothing()
    g.socket.connected()
    g.expect("S. 0:0(0) ack 1")
