"""Sequence numbers near 2^32 and 2^31: whole lives of connections there, and one of over 4 GiB."""

from __future__ import annotations

import errno
import struct

import pytest

from harness.ip import build_frame, build_ip
from harness.net import (
    DNS,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    GUEST_MAC,
    LINK_CSUM,
    LINK_TSO4,
    NETWORK,
    WORLD,
)
from harness.pkt import SEQ_MASK, Segment, stream
from harness.tcp import Connection, Tcp
from harness.wire import build_segment, train_header
from slirp.core.hostfake import EVENT_READABLE, EVENT_WRITABLE, FakeHost
from slirp.core.seam import Stack
from slirp.core.stats import Drop

NUMBERS = [0, 1, (1 << 31) - 2, 1 << 31, (1 << 32) - 2000, (1 << 32) - 2, (1 << 32) - 1]
FOUR_GIB = 1 << 32


def peer_at(tcp: Tcp, guest_isn: int, our_isn: int) -> Connection:
    """A connection whose both ISNs are these."""
    g = tcp.peer(isn=1000)
    tcp.aim_isn(g, our_isn)
    g.isn = guest_isn
    return g


@pytest.mark.parametrize("our_isn", NUMBERS)
@pytest.mark.parametrize("guest_isn", NUMBERS)
def test_a_life_around_the_edge(tcp: Tcp, guest_isn: int, our_isn: int) -> None:
    """RFC 9293 3.4: all comparisons are modulo 2^32: opening, gaps, losses, resets, closing."""
    g = tcp.established(peer_at(tcp, guest_isn, our_isn))
    assert g.our_isn == our_isn
    # A gap from the guest, with a forged reset and an old segment in it
    g.send("P. 1001:2001(1000) ack 1")
    g.expect(". 1:1(0) ack 1 <sack 1001:2001>")
    g.send("R 2:2(0)")
    g.expect(". 1:1(0) ack 1 <sack 1001:2001>")
    g.send("R 0:0(0)")
    g.send("P. 1:1001(1000) ack 1")
    g.expect(". 1:1(0) ack 2001 <no sack>")
    g.send("P. 1:2001(2000) ack 1")
    g.expect(". 1:1(0) ack 2001")
    g.dropped(
        Drop.DROP_TCP_RST_CHALLENGED,
        Drop.DROP_TCP_RST_OUT_OF_WINDOW,
        Drop.DROP_TCP_OUT_OF_WINDOW,
    )
    assert g.socket.received == stream(0, 2000)
    # A loss on the way to the guest
    g.feed(stream(0, 4 * 1460))
    assert len(g.drain()) == 4
    for end in (2921, 4381, 5841):
        g.send(f". 2001:2001(0) ack 1 <sack 1461:{end}>")
    g.expect("P. 1:1461(1460)")
    g.send(". 2001:2001(0) ack 5841")
    # Both ends
    g.socket.close()
    g.expect("F. 5841:5841(0) ack 2001")
    g.send("F. 2001:2001(0) ack 5842")
    g.expect(". 5842:5842(0) ack 2002")
    assert (g.state, g.socket.ended) == ("TIME-WAIT", "close")
    g.send("S 2002:2002(0) <mss 1460>")
    tcp.host.newest.connected()
    g.expect("S. 0:0(0) ack 2003")
    assert tcp.stat("time_wait_recycled") == 1


@pytest.mark.parametrize("our_isn", NUMBERS)
def test_shut_windows_around_the_edge(tcp: Tcp, our_isn: int) -> None:
    """RFC 9293 3.8.6.1 there: probes, and the window that opens again."""
    g = tcp.established(peer_at(tcp, our_isn, our_isn), options="mss 1460")
    g.send(". 1:1(0) ack 1 win 0")
    g.feed(stream(0, 4000))
    for at in (1, 2, 3):
        assert tcp.clock.run_until(lambda: bool(g.inbox), 10)
        g.expect(f"P. {at}:{at + 1}(1)")
        g.send(f". 1:1(0) ack {at + 1} win 0")
    g.send(". 1:1(0) ack 4 win 60000")
    assert b"".join(segment.text for segment in g.drain()) == stream(3, 3997)


class Firehose:
    """A host and a guest that do nothing but carry and compare equal blocks, both ways at once."""

    BLOCK = stream(0, 64_000)

    def __init__(self) -> None:
        self.up_bytes = 0  # taken by the host
        self.down_bytes = 0  # received by the guest, in order
        self.acked = 0  # of the guest's, as our ACKs say
        self.last_ack = 0
        self.our_isn = 0
        self.ref = 0
        self.waiting = b""
        self.connected = False

    def tcp_connect(self, ref: int, addr: bytes, port: int, tos: int) -> int:
        self.ref = ref
        return 7

    def tcp_connect_result(self, fd: int) -> int:
        return 0

    def tcp_send(self, fd: int, data: bytes) -> int:
        assert data == self.BLOCK
        self.up_bytes += len(data)
        return len(data)

    def tcp_recv(self, fd: int, room: int) -> bytes | int:
        if not self.waiting:
            return -errno.EAGAIN
        data, self.waiting = self.waiting[:room], self.waiting[room:]
        return data

    def reset(self, fd: int) -> None:
        self.connected = False

    def frame(self, frame: bytes) -> None:
        seq, ack, offset, flags = struct.unpack_from("!IIBB", frame, 12 + 14 + 20 + 4)
        if flags & 2:
            self.our_isn = seq
            return
        self.acked += (ack - self.last_ack) & SEQ_MASK
        self.last_ack = ack
        text = frame[12 + 14 + 20 + (offset >> 4) * 4 :]
        assert seq == (self.our_isn + 1 + self.down_bytes) & SEQ_MASK
        at = self.down_bytes % len(self.BLOCK)
        assert text == self.BLOCK[at : at + len(text)]
        self.down_bytes += len(text)


def test_more_than_4_gib_both_ways() -> None:
    """RFC 7323 5.2's worry: the numbers go round while the connection lives; each byte is right."""
    hose = Firehose()
    stack = Stack(
        FakeHost(hose),
        0,
        mtu=65520,
        network4=NETWORK,
        prefix_len4=24,
        gateway4=GATEWAY,
        dns4=DNS,
        guest4=GUEST,
        gateway_mac=GATEWAY_MAC,
        guest_mac=GUEST_MAC,
        offload=LINK_CSUM | LINK_TSO4,
        host_loopback=True,
        dns_enabled=True,
        max_flows=64,
        tcp_buffer_bytes=1 << 20,
        memory_bytes=16 << 20,
    )

    def frame(seq: int, ack: int, flags: int, text: bytes = b"", **options: int) -> bytearray:
        segment = Segment(40000, 80, flags, seq, ack, 65535, text=text, gso=1460, **options)  # type: ignore[arg-type]
        datagram = build_ip(GUEST, WORLD, 6, build_segment(segment))
        return bytearray(build_frame(GUEST_MAC, GATEWAY_MAC, datagram, train_header(segment)))

    isn = SEQ_MASK - 5000
    stack.input(bytes(frame(isn, 0, 0x02, mss=1460, wscale=7)), 1)
    stack.host_event(hose.ref, EVENT_WRITABLE, 1)
    hose.last_ack = (isn + 1) & SEQ_MASK
    stack.input(bytes(frame(isn + 1, hose.our_isn + 1, 0x10)), 2)
    train = frame(0, 0, 0x18, Firehose.BLOCK)
    numbers = 12 + 14 + 20 + 4
    now_us, sent = 2, 0
    while hose.down_bytes <= FOUR_GIB:
        hose.waiting += Firehose.BLOCK
        now_us += 50
        stack.host_event(hose.ref, EVENT_READABLE, now_us)
        seq, ack = isn + 1 + sent, hose.our_isn + 1 + hose.down_bytes
        struct.pack_into("!II", train, numbers, seq & SEQ_MASK, ack & SEQ_MASK)
        stack.input(bytes(train), now_us)
        sent += len(Firehose.BLOCK)
        assert hose.acked == sent
    assert hose.up_bytes == sent > FOUR_GIB
    stats = stack.stats()
    assert stats["tcp_retransmits"] == 0
    assert not any(count for name, count in stats.items() if name.startswith("drop_"))
    assert stack.flows()[0]["state"] == "ESTABLISHED"
