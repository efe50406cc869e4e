"""Bounds: memory of a connection and of all, many connections at once and one after another."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.net import LINK_CSUM, LINK_TSO4
from harness.pkt import stream
from harness.tcp import Connection, Tcp
from slirp.core.stats import Drop

BLOCK_BYTES = 32768
SHORT = "mss 1460"


def served(tcp: Tcp, g: Connection) -> None:
    """One short connection: request, answer, both ends, TIME-WAIT."""
    tcp.established(g, SHORT)
    g.send("P. 1:101(100) ack 1")
    g.feed(b"answer")
    g.socket.close()
    g.drain()
    g.send("F. 101:101(0) ack 8")
    g.drain()
    tcp.advance(10.0)


def test_short_connections_leave_nothing(tcp: Tcp) -> None:
    """Connections one after another: no flow, timer, buffer or socket remains."""
    for _ in range(500):
        served(tcp, tcp.peer())
        tcp.connections.clear()
    tcp.at_rest()
    assert tcp.stat("tcp_opened") == 500


def test_one_port_again_and_again(tcp: Tcp) -> None:
    """RFC 9293 3.6.1: a client that reuses its port in our TIME-WAIT is served at once."""
    isn = 1
    for n in range(300):
        g = tcp.established(tcp.peer(guest_port=40000, isn=isn), SHORT)
        g.socket.close()
        g.expect("F. 1:1(0) ack 1")
        g.send("F. 1:1(0) ack 2")
        g.expect(". 2:2(0) ack 2")
        assert g.state == "TIME-WAIT"
        isn += 64_000
        assert tcp.stat("time_wait_recycled") == n
    assert tcp.stat("flows") == 1


def test_idle_connections_own_no_buffers(tcp: Tcp) -> None:
    """Per connection when idle: its entry, and no block."""
    for _ in range(100):
        g = tcp.established()
        g.send("P. 1:1001(1000) ack 1")
        g.feed(stream(0, 50_000))
        g.drain()
        g.send(". 1001:1001(0) ack 50001")
        g.drain()
    assert tcp.stat("buffer_blocks") == 0
    assert tcp.stat("flows") == 100
    assert tcp.stat("flow_bytes") < 1024


def test_half_open_flood_disturbs_nobody(make_tcp: Callable[..., Tcp]) -> None:
    """5,000 SYNs that lead nowhere: bounded, and connections that live go on."""
    tcp = make_tcp(max_flows=1024)
    living = [tcp.established() for _ in range(20)]
    for n in range(5000):
        g = tcp.peer(guest_port=1024 + n, dest_port=81)
        g.send("S 0:0(0) <mss 1460>")
        tcp.connections.remove(g)
    assert tcp.stat("flows") == 20 + 256
    assert tcp.stat("half_open_evicted") == 5000 - 256
    for g in living:
        g.send("P. 1:11(10) ack 1")
        g.expect(". 1:1(0) ack 11")
        assert g.socket.received == stream(0, 10)
    tcp.advance(131.0)
    assert tcp.stat("flows") == 20


def test_memory_of_all_is_bounded(make_tcp: Callable[..., Tcp]) -> None:
    """memory_bytes: hosts that do not read can have no more; those that do are served meanwhile."""
    tcp = make_tcp(memory_bytes=8 * BLOCK_BYTES, tcp_buffer_bytes=4 * BLOCK_BYTES)
    stuck = [tcp.established() for _ in range(5)]
    for g in stuck:
        g.socket.room = 0
        for at in range(1, 4 * BLOCK_BYTES, 1460):
            g.send(f". {at}:{at + 1460}(1460) ack 1")
        g.drain()
    assert tcp.stat("buffer_blocks") <= 8
    tcp.dropped_only(Drop.DROP_TCP_REASSEMBLY_FULL)
    reader = tcp.established()
    reader.send("P. 1:1461(1460) ack 1")
    assert reader.socket.received == stream(0, 1460), "what the host takes needs no buffer"
    for g in stuck:
        g.socket.take(None)
        g.drain()
    reader.drain()
    assert tcp.stat("buffer_blocks") == 0


def test_memory_out_what_the_host_took_counts(make_tcp: Callable[..., Tcp]) -> None:
    """Of a segment half of which finds no place, the other half is delivered and acknowledged."""
    tcp = make_tcp(memory_bytes=BLOCK_BYTES)
    hog = tcp.established()
    hog.socket.room = 0
    hog.send("P. 1:2(1) ack 1")
    hog.expect(". 1:1(0) ack 2")
    g = tcp.established()
    g.socket.room = 500
    g.send("P. 1:1001(1000) ack 1")
    g.expect(". 1:1(0) ack 501")
    g.dropped(Drop.DROP_TCP_REASSEMBLY_FULL)
    g.socket.take(None)
    g.send("P. 1:1001(1000) ack 1")
    assert g.socket.received == stream(0, 1000)
    g.drain()


def test_memory_out_the_host_waits(make_tcp: Callable[..., Tcp]) -> None:
    """The other way: what cannot be read stays with the host, and is read when there is room."""
    tcp = make_tcp(memory_bytes=2 * BLOCK_BYTES)
    hog = tcp.established()
    hog.socket.room = 0
    at = 1
    while tcp.stat("buffer_blocks") < 2:
        hog.send(f". {at}:{at + 1460}(1460) ack 1")
        at += 1460
    hog.drain()
    g = tcp.established()
    g.feed(stream(0, 5000))
    g.expect_nothing()
    tcp.advance(1.0)
    g.expect_nothing()
    hog.socket.take(None)
    tcp.advance(0.1)
    assert b"".join(segment.text for segment in g.drain()) == stream(0, 5000)
    hog.drain()


def test_buffer_to_a_guest_that_does_not_acknowledge(make_tcp: Callable[..., Tcp]) -> None:
    """tcp_buffer_bytes holds for bytes on their way to the guest too, whatever window it offers."""
    tcp = make_tcp(tcp_buffer_bytes=100_000)
    g = tcp.established()
    g.feed(stream(0, 1_000_000))
    assert g.flow is not None
    assert int(str(g.flow["to_guest_bytes"])) <= 100_000
    got = b"".join(segment.text for segment in g.drain())
    while len(got) < 1_000_000:
        g.send(f". 1:1(0) ack {len(got) + 1}")
        new = b"".join(segment.text for segment in g.drain())
        assert new
        got += new
    assert got == stream(0, 1_000_000)


@pytest.mark.parametrize("mss", [64, 65, 536, 1460, 9000, 65495])
@pytest.mark.parametrize("offload", [0, LINK_CSUM | LINK_TSO4])
def test_every_mss(make_tcp: Callable[..., Tcp], mss: int, offload: int) -> None:
    """MSS from 64 to 65495, cut by us or by the guest's kernel; both directions."""
    tcp = make_tcp(mtu=65535, offload=offload)
    g = tcp.established(options=f"mss {mss},wscale 7")
    total = min(200 * mss, 300_000)
    g.feed(stream(0, total))
    got = b""
    while len(got) < total:
        segments = g.drain()
        assert segments
        assert all((segment.gso or len(segment.text)) <= mss for segment in segments)
        got += b"".join(segment.text for segment in segments)
        g.send(f". 1:1(0) ack {len(got) + 1}")
    assert got == stream(0, total)
    at = 1
    while at < total:
        end = min(at + mss, total)
        g.send(f"P. {at}:{end}({end - at}) ack {total + 1}")
        at = end
    assert g.socket.received == stream(0, total - 1)
    tcp.advance(0.5)
    g.drain()


def test_flow_entry_is_reused(tcp: Tcp) -> None:
    """An event for a connection that is gone finds nobody, also when its entry is another's now."""
    first = tcp.established()
    ref = first.socket.ref
    first.send("R 1:1(0)")
    second = tcp.established()
    assert second.socket.ref != ref
    tcp.stack.host_event(ref, 7, tcp.clock.now_us)
    assert tcp.stat("host_stale_events") == 1
    assert second.state == "ESTABLISHED"


@pytest.mark.parametrize(("flows", "wait_us"), [(2, 10_000), (130, 30_000)])
def test_who_waits_for_memory_asks_the_rarer_the_more_there_are(
    make_tcp: Callable[..., Tcp], flows: int, wait_us: int
) -> None:
    """10 ms, and as much again for every 64 flows: all together stay below 6,400 a second."""
    tcp = make_tcp(memory_bytes=1 << 20, tcp_buffer_bytes=4 << 20)
    greedy, *_, poor = [tcp.established() for _ in range(flows)]
    greedy.send(". 1:1(0) ack 1 win 65535")
    greedy.feed(bytes(2 << 20))
    poor.feed(b"x")
    deadline = tcp.stack.next_deadline()
    assert deadline is not None
    assert wait_us <= deadline - tcp.clock.now_us <= wait_us + 2000
    greedy.drain()
