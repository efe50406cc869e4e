"""Closing: the joint table of tcp.pxd row by row, TIME-WAIT, and who may take its place
(RFC 9293 3.6, 3.6.1; RFC 6191; RFC 1122 4.2.2.13).
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from harness.pkt import stream
from harness.tcp import BUILDERS, Connection, Tcp
from slirp.core.stats import Drop

TIME_WAIT_S = 10.0  # TCP_TIME_WAIT_US
LINGER_S = 600.0  # TCP_LINGER_US


def draining(tcp: Tcp, g: Connection) -> None:
    """The guest says 1000 bytes to a host that takes none, and closes."""
    g.socket.room = 0
    g.send("FP. 1:1001(1000) ack 1")
    g.expect(". 1:1(0) ack 1002")


# ---- guest FIN -> shutdown(WR) as soon as the socket has taken all that came before


def test_guest_fin_shuts_down_the_host(tcp: Tcp) -> None:
    """tcp.pxd: guest FIN, ESTABLISHED; the other half still flows (RFC 9293 3.6 case 2)."""
    g = tcp.established()
    g.send("F. 1:1(0) ack 1")
    g.expect(". 1:1(0) ack 2")
    assert g.socket.shut
    assert g.state == "CLOSE-WAIT"
    g.feed(stream(0, 3000))
    assert b"".join(segment.text for segment in g.drain()) == stream(0, 3000)
    g.send(". 2:2(0) ack 3001")
    g.socket.close()
    g.expect("F. 3001:3001(0) ack 2")
    assert g.state == "LAST-ACK"
    g.send(". 2:2(0) ack 3002")
    assert g.socket.ended == "close"
    tcp.at_rest()


def test_guest_fin_waits_for_the_text_before_it(tcp: Tcp) -> None:
    """tcp.pxd: shutdown(WR) not before the host's socket has taken everything."""
    g = tcp.established()
    draining(tcp, g)
    assert not g.socket.shut
    g.socket.take(600)
    assert not g.socket.shut
    g.socket.take(None)
    assert g.socket.shut
    assert g.socket.received == stream(0, 1000)


@pytest.mark.parametrize("state", ["FIN-WAIT-1", "FIN-WAIT-2"])
def test_guest_fin_after_the_hosts(tcp: Tcp, state: str) -> None:
    """tcp.pxd: guest FIN, FIN-WAIT-x; the host's socket goes as soon as both are acknowledged."""
    g = BUILDERS[state](tcp)
    ack = 1 if state == "FIN-WAIT-1" else 2
    g.send(f"FP. 1:11(10) ack {ack}")
    g.expect(". 2:2(0) ack 12")
    assert g.socket.received == stream(0, 10)
    assert g.socket.shut
    if state == "FIN-WAIT-1":
        assert (g.state, g.socket.ended) == ("CLOSING", "")
        g.send(". 12:12(0) ack 2")
    assert (g.state, g.socket.ended) == ("TIME-WAIT", "close")
    tcp.advance(TIME_WAIT_S)
    tcp.at_rest()


# ---- host EOF -> FIN behind the last byte read


def test_host_eof_is_a_fin_behind_the_last_byte(tcp: Tcp) -> None:
    """tcp.pxd: host EOF, ESTABLISHED: FIN-WAIT-1; with the last byte when both come at once."""
    g = tcp.established()
    g.socket.waiting.append(stream(0, 100))
    g.socket.close()
    assert g.expect("FP. 1:101(100) ack 1").text == stream(0, 100)
    assert g.state == "FIN-WAIT-1"
    g.send(". 1:1(0) ack 102")
    assert g.state == "FIN-WAIT-2"


def test_host_eof_waits_for_the_guests_window(tcp: Tcp) -> None:
    """tcp.pxd: behind the last byte read, also when that one cannot be sent yet."""
    g = tcp.established(options="mss 1460")
    g.send(". 1:1(0) ack 1 win 3000")
    g.feed(stream(0, 10_000))
    g.socket.close()
    got = b""
    while len(got) < 10_000:
        segments = g.drain()
        assert segments
        assert not segments[-1].has("F") or len(got) + 3000 >= 10_000
        got += b"".join(segment.text for segment in segments)
        g.send(f". 1:1(0) ack {len(got) + 1} win 3000")
    assert got == stream(0, 10_000)
    if g.state == "ESTABLISHED":
        g.expect("F. 10001:10001(0)")
    else:
        g.drain()
    g.send(". 1:1(0) ack 10002 win 3000")
    assert g.state == "FIN-WAIT-2"


def test_fin_wait_2_the_guest_goes_on(tcp: Tcp) -> None:
    """RFC 9293 3.6: half closed is no error, however long it lasts."""
    g = tcp.fin_wait_2()
    at = 1
    for _ in range(5):
        g.send(f"P. {at}:{at + 1000}(1000) ack 2")
        at += 1000
        tcp.advance(7000.0)
        assert g.drain()
    assert g.state == "FIN-WAIT-2"
    assert g.socket.received == stream(0, 5000)


def test_close_wait_the_host_goes_on(tcp: Tcp) -> None:
    """The same, the other way."""
    g = tcp.close_wait()
    for at in range(1, 5001, 1000):
        g.feed(stream(at - 1, 1000))
        assert b"".join(segment.text for segment in g.drain()) == stream(at - 1, 1000)
        g.send(f". 2:2(0) ack {at + 1000}")
        tcp.advance(7000.0)
    assert g.state == "CLOSE-WAIT"


def test_both_close_at_once(tcp: Tcp) -> None:
    """RFC 9293 3.6 figure 13: FINs cross; CLOSING, then TIME-WAIT."""
    g = tcp.closing()
    g.send(". 2:2(0) ack 2")
    assert g.state == "TIME-WAIT"
    assert g.socket.ended == "close"
    tcp.advance(TIME_WAIT_S)
    tcp.at_rest()


def test_closing_our_fin_is_lost(tcp: Tcp) -> None:
    """RFC 9293 3.10.8: in CLOSING and LAST-ACK our FIN is repeated until acknowledged."""
    for build in (tcp.closing, tcp.last_ack):
        g = build()
        assert tcp.clock.run_until(lambda g=g: bool(g.inbox), 5)  # type: ignore[misc]
        assert g.drain()[0].has("F.")
        g.send(". 2:2(0) ack 2")
        tcp.advance(TIME_WAIT_S)
    tcp.at_rest()


def test_last_ack_guest_is_gone(tcp: Tcp) -> None:
    """RFC 1122 4.2.3.5 R2: nobody acknowledges our FIN; the flow still ends."""
    g = tcp.last_ack()
    tcp.advance(400.0)
    assert g.drain()[-1].has("R")
    tcp.at_rest()


# ---- TIME-WAIT


def test_time_wait_holds_no_socket_and_ends(tcp: Tcp) -> None:
    """tcp.pxd: both FINs seen and acked: TIME-WAIT holds no socket, and lasts TCP_TIME_WAIT_US."""
    g = tcp.time_wait()
    assert g.socket.ended == "close"
    tcp.advance(TIME_WAIT_S - 0.1)
    assert g.state == "TIME-WAIT"
    tcp.advance(0.2)
    tcp.at_rest()


def test_time_wait_answers_the_fin_again_and_starts_over(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 eighth: our last ACK was lost."""
    g = tcp.time_wait()
    tcp.advance(TIME_WAIT_S - 1)
    g.send("F. 1:1(0) ack 2")
    g.expect(". 2:2(0) ack 2")
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
    tcp.advance(TIME_WAIT_S - 1)
    assert g.state == "TIME-WAIT"
    tcp.advance(2.0)
    tcp.at_rest()


def test_time_wait_other_segments_do_not_prolong_it(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4: only the FIN does."""
    g = tcp.time_wait()
    tcp.advance(TIME_WAIT_S - 1)
    g.send("P. 1:2(1) ack 2")
    g.expect(". 2:2(0) ack 2")
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
    tcp.advance(1.5)
    tcp.at_rest()


def test_time_wait_reset_ends_it(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 second, RFC 1337: at RCV.NXT only; a forged one does nothing."""
    g = tcp.time_wait()
    g.send("R 1:1(0)")
    g.dropped(Drop.DROP_TCP_RST_OUT_OF_WINDOW)
    assert g.state == "TIME-WAIT"
    g.send("R 2:2(0)")
    tcp.at_rest()


# ---- recycling


@pytest.mark.parametrize("state", ["TIME-WAIT", "LAST-ACK", "CLOSING"])
@pytest.mark.parametrize("isn", [2, 3, 70_000, 1 << 30, (1 << 31) - 1])
def test_new_syn_takes_the_place(tcp: Tcp, state: str, isn: int) -> None:
    """RFC 9293 3.6.1, RFC 1122 4.2.2.13: a number beyond the old ones begins anew, at once."""
    g = BUILDERS[state](tcp)
    old = g.socket
    g.send(f"S {isn}:{isn}(0) <mss 1460>")
    assert tcp.stat("time_wait_recycled") == 1
    assert old.ended == "close"
    assert len(tcp.host.called("tcp_connect")) == 2
    tcp.host.newest.connected()
    g.expect(f"S. 0:0(0) ack {isn + 1}")
    g.send(f". {isn + 1}:{isn + 1}(0) ack 1")
    assert g.state == "ESTABLISHED"
    assert tcp.stat("flows") == 1


@pytest.mark.parametrize("isn", [1, 0, -1, -70_000])
def test_old_syn_does_not_take_the_place(tcp: Tcp, isn: int) -> None:
    """RFC 9293 3.6.1: a number that the old connection used may be a relic: ACK."""
    g = tcp.time_wait()
    g.send(f"S {isn}:{isn}(0) <mss 1460>")
    g.expect(". 2:2(0) ack 2")
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
    assert g.state == "TIME-WAIT"


def timed_wait(tcp: Tcp) -> Connection:
    """TIME-WAIT of a connection with time-stamps; the guest's last was 2000."""
    g = tcp.syn_received(options="mss 1460,sackOK,TS val 1000 ecr 0,wscale 7")
    g.send(". 1:1(0) ack 1 <TS val 1500 ecr 0>")
    g.socket.close()
    g.expect("F. 1:1(0) ack 1")
    g.send("F. 1:1(0) ack 2 <TS val 2000 ecr 0>")
    g.expect(". 2:2(0) ack 2")
    return g


@pytest.mark.parametrize(
    ("ts_val", "isn", "recycled"),
    [
        (2001, 70_000, True),
        (2001, -70_000, True),  # the clock decides, whatever the number
        (1999, 70_000, False),
        (2000, 70_000, True),  # the same tick: the number decides
        (2000, -70_000, False),
    ],
)
def test_time_stamps_decide(tcp: Tcp, ts_val: int, isn: int, recycled: bool) -> None:
    """RFC 6191 2: a later time-stamp, or the same and a later number."""
    g = timed_wait(tcp)
    g.send(f"S {isn}:{isn}(0) <mss 1460,TS val {ts_val} ecr 0>")
    assert tcp.stat("time_wait_recycled") == recycled
    if not recycled:
        g.expect(". 2:2(0) ack 2")
        late = ts_val < 2000
        g.dropped(Drop.DROP_TCP_PAWS if late else Drop.DROP_TCP_OUT_OF_WINDOW)


def test_our_clocks_go_on_across_connections(tcp: Tcp) -> None:
    """RFC 6191 4, RFC 6528: our next ISN and time-stamps are beyond the last connection's."""
    g = timed_wait(tcp)
    isn, stamp = g.our_isn, g.ts_recent
    g.socket = tcp.host.newest
    tcp.advance(1.0)
    g.send("S 70000:70000(0) <mss 1460,TS val 9000 ecr 0>")
    tcp.host.newest.connected()
    g.expect("S. 0:0(0) ack 70001")
    assert 0 < (g.our_isn - isn) & 0xFFFFFFFF < 1 << 31
    assert 0 < (g.ts_recent - stamp) & 0xFFFFFFFF < 1 << 31


@pytest.mark.parametrize("state", ["ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT"])
def test_living_connections_are_not_recycled(tcp: Tcp, state: str) -> None:
    """RFC 5961 4.2: where the guest has not closed, a SYN proves nothing."""
    g = BUILDERS[state](tcp)
    g.send("S 70000:70000(0) <mss 1460>")
    assert len(g.drain()) == 1
    assert g.state == state
    drop = Drop.DROP_TCP_OUT_OF_WINDOW if state == "ESTABLISHED" else Drop.DROP_TCP_SYN_CHALLENGED
    g.dropped(drop)


# ---- what the guest was told we have still reaches the host


def test_time_wait_drains_to_the_host(tcp: Tcp) -> None:
    """tcp.pxd: the host's socket is closed once drained, and with FIN, not RST."""
    g = tcp.established()
    draining(tcp, g)
    g.socket.close()
    g.expect("F. 1:1(0) ack 1002")
    g.send(". 1002:1002(0) ack 2")
    assert g.flow is not None
    assert g.flow["to_host_bytes"] == 1000
    g.socket.take(500)
    assert not g.socket.ended
    g.socket.take(None)
    assert g.socket.received == stream(0, 1000)
    assert (g.socket.shut, g.socket.ended) == (True, "close")
    tcp.at_rest()


def test_draining_connection_leaves_its_place(tcp: Tcp) -> None:
    """tcp.pxd: CLOSED, but draining, is found no more: the guest may use the port again."""
    g = tcp.established()
    draining(tcp, g)
    g.socket.close()
    g.expect("F. 1:1(0) ack 1002")
    g.send(". 1002:1002(0) ack 2")
    old = g.socket
    g.send("S 500000:500000(0) <mss 1460>")
    tcp.host.newest.connected()
    g.expect("S. 0:0(0) ack 500001")
    g.send(". 500001:500001(0) ack 1")
    assert tcp.stat("flows") == 2
    old.take(None)
    assert old.received == stream(0, 1000)
    assert old.ended == "close"
    assert tcp.stat("flows") == 1


def test_recycled_connection_still_drains(tcp: Tcp) -> None:
    """tcp.pxd: the old flow steps aside at once, with what the host has yet to take."""
    g = tcp.fin_wait_2()
    g.socket.room = 0
    g.send("FP. 1:1001(1000) ack 2")
    g.expect(". 2:2(0) ack 1002")
    assert g.state == "TIME-WAIT"
    old = g.socket
    g.send("S 500000:500000(0) <mss 1460>")
    tcp.host.newest.connected()
    g.expect("S. 0:0(0) ack 500001")
    old.take(None)
    assert old.received == stream(0, 1000)
    assert old.ended == "close"


def test_time_wait_over_while_draining(tcp: Tcp) -> None:
    """tcp.pxd: TIME-WAIT ends by the clock; the bytes may take longer."""
    g = tcp.fin_wait_2()
    g.socket.room = 0
    g.send("FP. 1:1001(1000) ack 2")
    g.expect(". 2:2(0) ack 1002")
    tcp.advance(TIME_WAIT_S + 1)
    g.socket.take(None)
    assert g.socket.received == stream(0, 1000)
    tcp.at_rest()


@pytest.mark.parametrize("state", ["LAST-ACK", "TIME-WAIT"])
def test_linger_ends(tcp: Tcp, state: str) -> None:
    """TCP_LINGER_US: a host that never takes the rest is reset in the end, and the flow is gone."""
    g = tcp.established() if state == "LAST-ACK" else tcp.fin_wait_2()
    if state == "LAST-ACK":
        draining(tcp, g)
        g.socket.close()
        g.expect("F. 1:1(0) ack 1002")
        g.send(". 1002:1002(0) ack 2")
    else:
        g.socket.room = 0
        g.send("FP. 1:1001(1000) ack 2")
        g.expect(". 2:2(0) ack 1002")
    tcp.advance(LINGER_S - 1)
    assert g.socket in tcp.host.open_sockets
    tcp.advance(TIME_WAIT_S + 2)
    assert g.socket.ended == "reset"
    assert tcp.stat("tcp_aborted") == 1
    tcp.at_rest()


def test_draining_host_dies_the_guest_is_not_told(tcp: Tcp) -> None:
    """The guest's connection is over; a RST now could only hit the next one of these ports."""
    g = tcp.established()
    draining(tcp, g)
    g.socket.close()
    g.expect("F. 1:1(0) ack 1002")
    g.send(". 1002:1002(0) ack 2")
    g.socket.fail(errno.ECONNRESET)
    g.expect_nothing()
    tcp.at_rest()


# ---- forwards


def test_client_of_a_forward_closes_first(tcp: Tcp) -> None:
    """tcp.pxd: rows hold whoever opened."""
    g = tcp.accepted()
    g.socket.close()
    g.expect("F. 1:1(0) ack 1")
    g.send("F. 1:1(0) ack 2")
    g.expect(". 2:2(0) ack 2")
    assert g.socket.ended == "close"
    tcp.advance(TIME_WAIT_S)
    assert tcp.stat("flows") == 0


def test_client_port_in_time_wait_another_is_used(tcp: Tcp) -> None:
    """fwd.pxd: the same client port again before TIME-WAIT is over: the client is not refused."""
    g = tcp.accepted()
    g.socket.close()
    g.expect("F. 1:1(0) ack 1")
    g.send("F. 1:1(0) ack 2")
    g.expect(". 2:2(0) ack 2")
    (listener,) = tcp.host.listeners
    tcp.host.client(listener, g.dest, g.dest_port)
    assert tcp.stat("flows") == 2
    syn = tcp.stray.popleft()
    assert syn[33] == 0x02, "a SYN, from a port that is free"


# ---- every order of ends


@pytest.mark.parametrize("order", ["guest host", "host guest", "both"])
@pytest.mark.parametrize("opened_by", ["guest", "client"])
def test_nothing_is_left(make_tcp: Callable[..., Tcp], order: str, opened_by: str) -> None:
    """Whoever opens, whoever closes: no flow, no timer, no buffer, no socket remains."""
    tcp = make_tcp()
    g = tcp.established() if opened_by == "guest" else tcp.accepted()
    g.feed(stream(0, 5000))
    g.drain()
    g.send("P. 1:1001(1000) ack 5001")
    if order == "guest host":
        g.send("F. 1001:1001(0) ack 5001")
        g.socket.close()
        g.send(". 1002:1002(0) ack 5002")
    elif order == "host guest":
        g.socket.close()
        g.send(". 1001:1001(0) ack 5002")
        g.send("F. 1001:1001(0) ack 5002")
    else:
        g.socket.close()
        g.send("F. 1001:1001(0) ack 5001")
        g.send(". 1002:1002(0) ack 5002")
    g.drain()
    assert g.socket.received == stream(0, 1000)
    assert g.socket.ended == "close"
    tcp.advance(TIME_WAIT_S)
    tcp.at_rest()
