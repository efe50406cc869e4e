"""Text from the guest: delivery, acknowledgement (RFC 1122 4.2.3.2, RFC 5681 4.2), reassembly and
the SACK blocks we send (RFC 2018), trains of segments, urgent data (RFC 6093).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.net import LINK_CSUM, LINK_TSO4
from harness.pkt import stream
from harness.tcp import Connection, Tcp
from slirp.core.stats import Drop

HOLES_MAX = 32  # TCP_HOLES_MAX


def flowing(tcp: Tcp, options: str = "mss 1460,sackOK,wscale 7") -> Connection:
    """A connection whose window has been opened wide: 1 byte is there and acknowledged."""
    g = tcp.established(options=options)
    g.send("P. 1:2(1) ack 1")
    g.expect(". 1:1(0) ack 2")
    return g


# ---- delivery and acknowledgement


def test_text_goes_straight_to_the_host(tcp: Tcp) -> None:
    """One frame, one send(), no buffer between."""
    g = flowing(tcp)
    g.send("P. 2:1002(1000) ack 1")
    assert tcp.host.called("tcp_send")[-1] == (g.fd, 1000)
    assert g.socket.received == stream(0, 1001)
    assert tcp.stat("buffer_blocks") == 0
    tcp.advance(0.5)
    g.expect(". 1:1(0) ack 1002")


def test_ack_is_delayed_less_than_500_ms(tcp: Tcp) -> None:
    """RFC 1122 4.2.3.2: a delay there may be, below half a second."""
    g = flowing(tcp)
    g.send("P. 2:102(100) ack 1")
    g.expect_nothing()
    tcp.advance(0.2)
    g.expect(". 1:1(0) ack 102")


def test_ack_for_every_second_full_segment(tcp: Tcp) -> None:
    """RFC 5681 4.2, RFC 1122 4.2.3.2: at least one for each two full-sized segments."""
    g = flowing(tcp)
    for at in range(2, 2 + 6 * 1460, 2 * 1460):
        g.send(f". {at}:{at + 1460}(1460) ack 1")
        g.expect_nothing()
        g.send(f". {at + 1460}:{at + 2920}(1460) ack 1")
        g.expect(f". 1:1(0) ack {at + 2920}")


def test_ack_rides_on_text(tcp: Tcp) -> None:
    """RFC 1122 4.2.3.2: the host's answer carries the acknowledgement, and no other follows."""
    g = flowing(tcp)
    g.send("P. 2:102(100) ack 1")
    g.feed(b"answer")
    g.expect("P. 1:7(6) ack 102")
    g.send(". 102:102(0) ack 7")
    tcp.advance(1.0)
    g.expect_nothing()


def test_ack_of_old_text_is_immediate(tcp: Tcp) -> None:
    """RFC 9293 3.10.7.4 first: our ACK was lost, the guest sends again and is told at once."""
    g = flowing(tcp)
    g.send("P. 1:2(1) ack 1")
    g.expect(". 1:1(0) ack 2")
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
    assert g.socket.received == stream(0, 1)


@pytest.mark.parametrize("size", [1, 7, 1460])
def test_text_overlapping_both_ways(tcp: Tcp, size: int) -> None:
    """RFC 9293 3.10.7.4: segments are trimmed to what is new; each byte is delivered once."""
    g = flowing(tcp)
    for at in range(2, 2 + 20 * size, size):
        g.send(f"P. {max(1, at - size)}:{at + size}({at + size - max(1, at - size)}) ack 1")
    assert g.socket.received == stream(0, 1 + 20 * size)
    tcp.advance(0.5)
    assert g.drain()[-1].ack == g.isn + 2 + 20 * size


@pytest.mark.parametrize("segment", ["P. 1:1(0) ack 1", ". 1:1(0) ack 1", "P. 1:1(0) ack 0"])
def test_empty_segments_are_not_answered(tcp: Tcp, segment: str) -> None:
    """RFC 9293 3.10.7.4: an acceptable ACK without text has no answer, or ACKs would never end."""
    g = tcp.established()
    g.send(segment)
    tcp.advance(1.0)
    g.expect_nothing()


# ---- reassembly


def test_gap_is_reported_and_filled(tcp: Tcp) -> None:
    """RFC 5681 4.2: at once, when a gap opens and when it closes; RFC 2018 4: with its block."""
    g = flowing(tcp)
    g.send("P. 102:202(100) ack 1")
    g.expect(". 1:1(0) ack 2 <sack 102:202>")
    g.send("P. 2:102(100) ack 1")
    g.expect(". 1:1(0) ack 202 <no sack>")
    assert g.socket.received == stream(0, 201)
    assert tcp.stat("buffer_blocks") == 0


def test_gap_filled_in_part(tcp: Tcp) -> None:
    """RFC 5681 4.2: immediately too; the block behind the rest of the gap is still reported."""
    g = flowing(tcp)
    g.send("P. 102:202(100) ack 1")
    g.expect(". 1:1(0) ack 2 <sack 102:202>")
    g.send("P. 2:52(50) ack 1")
    g.expect(". 1:1(0) ack 52 <sack 102:202>")
    assert g.socket.received == stream(0, 51), "what is in order does not wait"


def test_sack_newest_blocks_first(tcp: Tcp) -> None:
    """RFC 2018 4: first the block of the segment that triggered the ACK, then those before it."""
    g = flowing(tcp)
    said = ""
    for block in ("200:210", "400:410", "300:310", "100:110"):
        start, end = block.split(":")
        g.send(f"P. {start}:{end}(10) ack 1")
        said = f"{block} {said}".strip()
        g.expect(f". 1:1(0) ack 2 <sack {said}>")
    g.send("P. 500:510(10) ack 1")
    g.expect(". 1:1(0) ack 2 <sack 500:510 100:110 300:310 400:410>")
    g.send("P. 210:220(10) ack 1")
    g.expect(". 1:1(0) ack 2 <sack 200:220 500:510 100:110 300:310>")


def test_sack_at_most_four_blocks(tcp: Tcp) -> None:
    """RFC 2018 3: there is room for four, or three beside time-stamps (Conduct holds us to it)."""
    for options in ("mss 1460,sackOK,wscale 7", "mss 1460,sackOK,TS val 1 ecr 0,wscale 7"):
        g = flowing(tcp, options)
        for at in range(100, 700, 100):
            g.send(f"P. {at}:{at + 10}(10) ack 1")
        assert len(g.drain()[-1].sack) == (3 if "TS" in options else 4)


def test_sack_blocks_merge(tcp: Tcp) -> None:
    """RFC 2018 3: a block is contiguous, with nothing held just below or above it."""
    g = flowing(tcp)
    for start, end, sack in (
        (100, 110, "100:110"),
        (120, 130, "120:130 100:110"),
        (110, 120, "100:130"),
        (95, 125, "95:130"),
        (90, 200, "90:200"),
    ):
        g.send(f"P. {start}:{end}({end - start}) ack 1")
        g.expect(f". 1:1(0) ack 2 <sack {sack}>")
    g.send("P. 2:90(88) ack 1")
    g.expect(". 1:1(0) ack 200 <no sack>")
    assert g.socket.received == stream(0, 199)


def test_dsack_text_that_was_acknowledged(tcp: Tcp) -> None:
    """RFC 2883 4.1.1: the first block tells what came twice, below the ACK; once."""
    g = flowing(tcp)
    g.send("P. 1:2(1) ack 1")
    g.expect(". 1:1(0) ack 2 <sack 1:2>")
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
    g.send("P. 12:22(10) ack 1")
    g.expect(". 1:1(0) ack 2 <sack 12:22>")


def test_dsack_text_that_is_kept(tcp: Tcp) -> None:
    """RFC 2883 4.1.2: what came twice, then the block that holds it, then the others."""
    g = flowing(tcp)
    g.send("P. 102:202(100) ack 1")
    g.send("P. 302:402(100) ack 1")
    g.drain()
    g.send("P. 122:142(20) ack 1")
    g.expect(". 1:1(0) ack 2 <sack 122:142 102:202 302:402>")
    g.send("P. 402:502(100) ack 1")
    g.expect(". 1:1(0) ack 2 <sack 302:502 102:202>")


def test_dsack_only_the_part_that_came_twice(tcp: Tcp) -> None:
    """RFC 2883 4.2: of a segment that is old in part."""
    g = flowing(tcp)
    g.send("P. 2:102(100) ack 1")
    g.send("P. 52:152(100) ack 1")
    tcp.advance(0.1)
    g.expect(". 1:1(0) ack 152 <sack 52:102>")


@pytest.mark.parametrize("segment", ["P. 1:2(1) ack 1", "P. 102:202(100) ack 1"])
def test_dsack_not_without_sack(tcp: Tcp, segment: str) -> None:
    """RFC 2883 4: it is a SACK option, and needs the same agreement."""
    g = flowing(tcp, "mss 1460,wscale 7")
    g.send("P. 102:202(100) ack 1")
    g.send(segment)
    assert not any(got.sack for got in g.drain())
    if segment.startswith("P. 1:"):
        g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)


def test_dsack_leaves_room_for_time_stamps(tcp: Tcp) -> None:
    """RFC 2883 4, RFC 2018 3: it is one of the three blocks."""
    g = flowing(tcp, "mss 1460,sackOK,TS val 1 ecr 0,wscale 7")
    for at in range(100, 700, 100):
        g.send(f"P. {at}:{at + 10}(10) ack 1")
    g.drain()
    g.send("P. 100:110(10) ack 1")
    g.expect(". 1:1(0) ack 2 <sack 100:110 100:110 600:610>")


def test_sack_not_agreed_is_not_sent(tcp: Tcp) -> None:
    """RFC 2018 2: a guest that did not offer it gets plain duplicate ACKs (Conduct sees to it)."""
    g = flowing(tcp, "mss 1460,wscale 7")
    for at in (100, 200, 300):
        g.send(f"P. {at}:{at + 10}(10) ack 1")
        g.expect(". 1:1(0) ack 2 <no sack>")


def test_sack_rides_on_text(tcp: Tcp) -> None:
    """RFC 2018 4: every ACK for out-of-order data should; text then leaves room for the blocks."""
    g = flowing(tcp)
    g.send("P. 100:110(10) ack 1")
    g.expect(". 1:1(0) ack 2 <sack 100:110>")
    g.feed(stream(0, 1460))
    segments = g.drain()
    assert [len(segment.text) for segment in segments] == [1448, 12]
    assert all(segment.sack for segment in segments)


def test_more_holes_than_we_keep(tcp: Tcp) -> None:
    """TCP_HOLES_MAX: the range too much is dropped, and nothing else is lost for it."""
    g = flowing(tcp)
    for n in range(HOLES_MAX + 3):
        g.send(f"P. {100 + 20 * n}:{110 + 20 * n}(10) ack 1")
    g.drain()
    g.dropped(*[Drop.DROP_TCP_REASSEMBLY_FULL] * 3)
    end = 100 + 20 * (HOLES_MAX + 3)
    g.send(f"P. 2:{end}({end - 2}) ack 1")
    g.expect(f". 1:1(0) ack {end}")
    assert g.socket.received == stream(0, end - 1)
    assert tcp.stat("buffer_blocks") == 0


def test_reassembly_in_any_order(tcp: Tcp) -> None:
    """Segments backwards, then evens before odds: the stream is what it was."""
    g = flowing(tcp)
    for order in (range(19, -1, -1), [*range(0, 20, 2), *range(1, 20, 2)]):
        base = len(g.socket.received) + 1
        for n in order:
            g.send(f"P. {base + 100 * n}:{base + 100 * n + 100}(100) ack 1")
        assert g.socket.received == stream(0, base - 1 + 2000)
        tcp.advance(0.5)
        assert g.drain()[-1].ack == g.isn + base + 2000


def test_memory_out_the_text_comes_again(make_tcp: Callable[..., Tcp]) -> None:
    """The daemon's bound on memory: what cannot be kept is not acknowledged, and nothing breaks."""
    tcp = make_tcp(memory_bytes=64 << 10)
    g = flowing(tcp)
    g.socket.room = 0
    at = 2
    while True:
        g.send(f"P. {at}:{at + 1460}(1460) ack 1")
        if tcp.stat("drop_tcp_reassembly_full"):
            break
        at += 1460
    g.dropped(Drop.DROP_TCP_REASSEMBLY_FULL)
    assert at < 66_000
    assert g.drain()[-1].ack == g.isn + at
    g.socket.take(None)
    g.send(f"P. {at}:{at + 1460}(1460) ack 1")
    assert g.socket.received == stream(0, at + 1459)
    tcp.advance(0.5)
    assert g.drain()[-1].ack == g.isn + at + 1460


# ---- trains


def test_train_is_one_segment(make_tcp: Callable[..., Tcp]) -> None:
    """A frame of 64000 bytes that the guest's kernel left uncut: one send(), one ACK."""
    tcp = make_tcp(offload=LINK_CSUM | LINK_TSO4)
    g = flowing(tcp)
    g.send("P. 2:64002(64000) ack 1 <gso 1460>")
    assert tcp.host.called("tcp_send")[-1] == (g.fd, 64000)
    g.expect(". 1:1(0) ack 64002")
    g.send("P. 128002:192002(64000) ack 1 <gso 1460>")
    g.expect(". 1:1(0) ack 64002 <sack 128002:192002>")
    g.send("P. 64002:128002(64000) ack 1 <gso 1460>")
    g.expect(". 1:1(0) ack 192002")
    assert g.socket.received == stream(0, 192001)


def test_train_to_the_guest(make_tcp: Callable[..., Tcp]) -> None:
    """With TSO the guest's kernel cuts; without it, we do."""
    for offload, sizes in ((LINK_CSUM | LINK_TSO4, {4000}), (LINK_CSUM, {1460, 1080}), (0, {1080})):
        g = make_tcp(offload=offload).established()
        g.feed(stream(0, 4000))
        segments = g.drain()
        assert b"".join(segment.text for segment in segments) == stream(0, 4000)
        assert sizes <= {len(segment.text) for segment in segments}
        assert {segment.gso for segment in segments} == ({1460} if offload & LINK_TSO4 else {0})


# ---- urgent data


@pytest.mark.parametrize("pointer", [0, 1, 10, 11, 1000, 65535])
@pytest.mark.parametrize("length", [0, 10])
def test_urgent_pointer_is_not_trusted(tcp: Tcp, pointer: int, length: int) -> None:
    """RFC 6093 6, RFC 9293 3.8.5: text stays in line, whatever the pointer claims."""
    g = flowing(tcp)
    g.send(f"U. 2:{2 + length}({length}) ack 1 urg {pointer}")
    g.send(f"P. {2 + length}:{12 + length}(10) ack 1")
    assert g.socket.received == stream(0, 11 + length)
    tcp.advance(0.5)
    g.expect(f". 1:1(0) ack {12 + length}")


def test_urgent_at_a_shut_window(make_tcp: Callable[..., Tcp]) -> None:
    """RFC 9293 3.10.7.4 first: ACK, URG and RST are looked at then too; no text gets in."""
    tcp = make_tcp(tcp_buffer_bytes=1000)
    g = tcp.established(options="mss 1460")
    g.socket.room = 0
    g.send("P. 1:1001(1000) ack 1")
    tcp.advance(0.5)
    g.expect(". 1:1(0) ack 1001 win 0")
    g.send("U. 1001:1002(1) ack 1 urg 1")
    g.expect(". 1:1(0) ack 1001 win 0")
    g.dropped(Drop.DROP_TCP_OUT_OF_WINDOW)
    g.socket.take(None)
    g.expect(". 1:1(0) ack 1001 win 1000")
    assert g.socket.received == stream(0, 1000)


def test_push_is_of_no_matter(tcp: Tcp) -> None:
    """RFC 9293 3.9.1 SEND: text without PSH is delivered as promptly."""
    g = flowing(tcp)
    g.send(". 2:12(10) ack 1")
    assert g.socket.received == stream(0, 11)
    tcp.advance(0.5)
    g.expect(". 1:1(0) ack 12")
