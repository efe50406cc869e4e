"""Loss: RFC 5681, 6298, 6582, 6675, 2018, 2883."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time

from conformance.endpoint import SACK_OK, Tcp, mss, sack
from conformance.net import Net
from conformance.packets import ACK, PSH, Packet
from conformance.suite import case
from conformance.wire import CaseError
from lab.servers import receive_exactly

MASK = 0xFFFFFFFF


def flight(client: Tcp, server: socket.socket, size: int = 8000) -> list[Packet]:
    """Segments of 1000 octets, all out and none acknowledged."""
    server.sendall(b"s" * size)
    packets, got = [], 0
    while got < size:
        packet = client.expect("data", lambda p: bool(p.data))
        if packet.seq == (client.rcv + got) & MASK:
            packets.append(packet)
            got += len(packet.data)
    return packets


def is_first(client: Tcp, packet: Packet) -> bool:
    return bool(packet.data) and packet.seq == client.rcv


@case("RFC 6298 5.4", seconds=3)
def lost_text_is_sent_again(net: Net) -> None:
    with net.connected(options=mss(1000)) as (client, server):
        flight(client, server, 3000)
        again = client.expect("retransmission", lambda p: is_first(client, p), 3)
        if len(again.data) > 1000:
            raise CaseError("more than a segment")
        client.rcv = (client.rcv + 3000) & MASK
        client.send()
        client.push(b"alive", server)


@case("RFC 6298 5.5", seconds=7)
def retransmissions_back_off(net: Net) -> None:
    with net.connected(options=mss(1000)) as (client, server):
        flight(client, server, 1000)
        times = [time.monotonic()]
        for _ in range(4):
            client.expect("retransmission", lambda p: is_first(client, p), 6)
            times.append(time.monotonic())
        gaps = [b - a for a, b in itertools.pairwise(times)]
        if any(b < 1.5 * a for a, b in itertools.pairwise(gaps)):
            raise CaseError(f"gaps of {gaps}")


@case("RFC 6298 5.3", seconds=2)
def an_acknowledgement_restarts_the_timer(net: Net) -> None:
    with net.connected(options=mss(1000)) as (client, server):
        flight(client, server, 2000)
        client.rcv = (client.rcv + 1000) & MASK
        client.send()
        client.expect("the rest again", lambda p: is_first(client, p), 3)


@case("RFC 5681 3.2")
def three_duplicates_bring_it_again(net: Net) -> None:
    with net.connected(options=mss(1000), win=60_000) as (client, server):
        flight(client, server, 6000)
        for _ in range(3):
            client.send()
        client.expect("fast retransmission", lambda p: is_first(client, p), 0.15)


@case("RFC 5681 3.2")
def two_duplicates_do_not(net: Net) -> None:
    with net.connected(options=mss(1000), win=60_000) as (client, server):
        flight(client, server, 6000)
        client.send()
        client.send()
        client.wire.silence(
            lambda p: client.ours(p) and is_first(client, p), "retransmission too early", 0.1
        )


@case("RFC 6582 3.2 step 5")
def a_partial_acknowledgement_brings_the_next(net: Net) -> None:
    with net.connected(options=mss(1000), win=60_000) as (client, server):
        flight(client, server, 8000)
        for _ in range(4):
            client.send()
        client.expect("fast retransmission", lambda p: is_first(client, p), 0.15)
        client.rcv = (client.rcv + 3000) & MASK
        client.send()
        client.expect("next hole", lambda p: is_first(client, p), 0.15)


@case("RFC 6675 5")
def sacked_text_is_not_sent_again(net: Net) -> None:
    with net.connected(options=mss(1000) + SACK_OK, win=60_000) as (client, server):
        flight(client, server, 8000)
        start = client.rcv
        for end in (3, 4, 5, 6):
            client.send(options=sack((start + 2000, start + 1000 * end)))
        again = client.wire.all(lambda p: client.ours(p) and bool(p.data), 0.15)
        offsets = sorted({(p.seq - start) & MASK for p in again})
        if 0 not in offsets or any(2000 <= at < 6000 for at in offsets):
            raise CaseError(f"sent again: {offsets}")


@case("RFC 6675 5")
def every_hole_is_filled(net: Net) -> None:
    with net.connected(options=mss(1000) + SACK_OK, win=60_000) as (client, server):
        flight(client, server, 10_000)
        start = client.rcv
        holes = [(start + 1000, start + 2000), (start + 3000, start + 4000),
                 (start + 5000, start + 10_000)]  # fmt: skip
        for number in (1, 2, 3, 3):
            client.send(options=sack(*reversed(holes[:number])))
        again = client.wire.all(lambda p: client.ours(p) and bool(p.data), 0.6)
        offsets = {(p.seq - start) & MASK for p in again}
        if not {0, 2000, 4000} <= offsets:
            raise CaseError(f"sent again: {sorted(offsets)}")


@case("RFC 2018 8", seconds=3)
def reneging_is_survived(net: Net) -> None:
    """What was SACKed and then thrown away comes again after a time-out."""
    with net.connected(options=mss(1000) + SACK_OK, win=60_000) as (client, server):
        flight(client, server, 4000)
        start = client.rcv
        client.send(options=sack((start + 1000, start + 4000)))
        client.expect("the first again", lambda p: is_first(client, p), 3)
        client.rcv = (client.rcv + 1000) & MASK
        client.send()  # without a block: they are gone
        if client.expect_data(3000, 10) != b"s" * 3000:
            raise CaseError("other text")


@case("RFC 2018 3")
def sack_is_agreed_on(net: Net) -> None:
    with net.connected(options=mss(1000) + SACK_OK) as (client, _):
        if not client.peer_syn or 4 not in client.peer_syn.options:
            raise CaseError("no SACK-permitted in answer to one")


@case("RFC 2018 4")
def we_report_what_we_hold(net: Net) -> None:
    with net.connected(options=mss(1000) + SACK_OK) as (client, server):
        client.push(b"x", server)
        start = client.nxt
        client.send(ACK, b"b" * 10, at=start + 10)
        reply = client.expect_ack(start)
        if [((a - start) & MASK, (b - start) & MASK) for a, b in reply.sack] != [(10, 20)]:
            raise CaseError(f"{reply.sack}")


@case("RFC 2018 4")
def the_latest_block_comes_first(net: Net) -> None:
    with net.connected(options=mss(1000) + SACK_OK) as (client, server):
        client.push(b"x", server)
        start = client.nxt
        client.forget()
        reply = None
        for at in (20, 60, 40):
            client.send(ACK, b"b" * 10, at=start + at)
            reply = client.expect_ack(start)
        blocks = [((a - start) & MASK, (b - start) & MASK) for a, b in reply.sack] if reply else []
        if blocks[:1] != [(40, 50)] or set(blocks) != {(40, 50), (60, 70), (20, 30)}:
            raise CaseError(f"{blocks}")


@case("RFC 2018 4")
def touching_blocks_are_joined(net: Net) -> None:
    with net.connected(options=mss(1000) + SACK_OK) as (client, server):
        client.push(b"x", server)
        start = client.nxt
        client.send(ACK, b"b" * 10, at=start + 20)
        client.expect_ack(start)
        client.send(ACK, b"b" * 10, at=start + 30)
        reply = client.expect_ack(start)
        if [((a - start) & MASK, (b - start) & MASK) for a, b in reply.sack] != [(20, 40)]:
            raise CaseError(f"{reply.sack}")


@case("RFC 2018 4")
def no_blocks_when_nothing_is_missing(net: Net) -> None:
    with net.connected(options=mss(1000) + SACK_OK) as (client, _server):
        start = client.nxt
        client.send(ACK, b"b" * 10, at=start + 10)
        client.expect_ack(start)
        client.send(ACK, b"b" * 10, at=start)
        reply = client.expect_ack(start + 20)
        if reply.sack:
            raise CaseError(f"{reply.sack}")


@case("RFC 2018 2")
def no_blocks_without_agreement(net: Net) -> None:
    with net.connected(options=mss(1000)) as (client, server):
        client.push(b"x", server)
        client.send(ACK, b"b" * 10, at=client.nxt + 10)
        if client.expect_ack(client.nxt).sack:
            raise CaseError("SACK that was not agreed on")


@case("RFC 2883 4.1")
def a_duplicate_is_reported(net: Net) -> None:
    with net.connected(options=mss(1000) + SACK_OK) as (client, server):
        start = client.nxt
        client.push(b"b" * 100, server)
        client.forget()
        client.send(ACK | PSH, b"b" * 100, at=start)
        reply = client.expect_ack()
        if not reply.sack or reply.sack[0] != (start & MASK, (start + 100) & MASK):
            raise CaseError(f"{reply.sack}")


@case("RFC 2883 4")
def a_duplicate_beyond_a_gap_is_reported(net: Net) -> None:
    with net.connected(options=mss(1000) + SACK_OK) as (client, server):
        client.push(b"x", server)
        start = client.nxt
        client.send(ACK, b"b" * 100, at=start + 100)
        client.expect_ack(start)
        client.send(ACK, b"b" * 100, at=start + 100)
        reply = client.expect_ack(start)
        block = ((start + 100) & MASK, (start + 200) & MASK)
        if reply.sack != [block, block]:
            raise CaseError(f"{reply.sack}")


@case("RFC 2018 4")
def many_gaps_are_survived(net: Net) -> None:
    with net.connected(options=mss(1000) + SACK_OK) as (client, server):
        start = client.nxt
        text = bytes(range(200)) * 5
        for at in range(1, 1000, 10):
            client.send(ACK, text[at : at + 5], at=start + at)
        client.send(ACK, text, at=start)
        client.send(ACK, text[500:], at=start + 500)
        client.expect_ack(start + 1000)
        if receive_exactly(server, 1000) != text:
            raise CaseError("other text")


@case("RFC 2018 5.1")
def nonsense_blocks_do_no_harm(net: Net) -> None:
    with net.connected(options=mss(1000) + SACK_OK, win=60_000) as (client, server):
        flight(client, server, 4000)
        start = client.rcv
        for blocks in (
            [(start + 4000, start)], [(start - 5000, start - 4000)], [(start, start)],
            [(start + 100_000, start + 200_000)], [(start + 1, start + (1 << 31))],
        ):  # fmt: skip
            client.send(options=sack(*blocks))
        client.send(options=b"\x05\x0b" + bytes(9) + b"\x01")
        client.wire.all(client.ours, 0.2)
        client.rcv = (client.rcv + 4000) & MASK
        client.send()
        client.push(b"alive", server)


@case("RFC 1122 4.2.3.5", seconds=1)
def a_guest_that_is_gone_does_not_hold_the_rest(net: Net) -> None:
    """Connections whose guest is silent, beside one that works."""
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            _, server = stack.enter_context(net.connected(options=mss(1000)))
            server.sendall(b"nobody listens")
        client, server = stack.enter_context(net.connected())
        client.push(b"alive", server)


@case("RFC 6298 3, Karn", seconds=4)
def a_late_acknowledgement_does_not_confuse(net: Net) -> None:
    with net.connected(options=mss(1000)) as (client, server):
        flight(client, server, 1000)
        client.expect("retransmission", lambda p: is_first(client, p), 3)
        client.rcv = (client.rcv + 1000) & MASK
        client.send()
        client.forget()
        server.sendall(b"n" * 1000)
        client.expect("new text", lambda p: is_first(client, p), 1)
        client.rcv = (client.rcv + 1000) & MASK
        client.send()
        client.silence("text without need", 0.5, data_only=True)
