"""Options: RFC 9293 3.1, 3.2, RFC 7323 (time-stamps, RTTM, PAWS)."""

from __future__ import annotations

import itertools
import struct

from conformance.endpoint import SACK_OK, mss, stamp, wscale
from conformance.net import Net
from conformance.packets import ACK, FIN, PSH, RST
from conformance.suite import case
from conformance.wire import CaseError
from lab.servers import receive_exactly

MASK = 0xFFFFFFFF


def opens_with(net: Net, options: bytes) -> None:
    """Such a SYN gets its SYN-ACK, and the connection works."""
    with net.connected(options=options) as (client, server):
        client.push(b"works", server)


@case("RFC 9293 3.2 MUST-6")
def unknown_options_are_ignored(net: Net) -> None:
    opens_with(net, b"\xfd\x04\xab\xcd" + b"\x22\x02" + b"\x0e\x03\x01" + mss(1460))


@case("RFC 9293 3.1")
def padding_behind_the_end_is_ignored(net: Net) -> None:
    opens_with(net, mss(1460) + b"\x00\xff\xff\xff")


@case("RFC 9293 3.2")
def option_of_length_zero_or_one(net: Net) -> None:
    opens_with(net, mss(1460) + b"\xfd\x00\x00\x00")
    opens_with(net, mss(1460) + b"\xfd\x01\x00\x00")


@case("RFC 9293 3.2")
def option_longer_than_the_header(net: Net) -> None:
    opens_with(net, mss(1460) + b"\x01\x01\xfd\x28")
    opens_with(net, mss(1460) + b"\x01\x01\x01\x02")


@case("RFC 9293 3.2")
def known_options_of_wrong_length(net: Net) -> None:
    opens_with(net, b"\x02\x03\x05\x01" + b"\x03\x04\x01\x01" + b"\x04\x04\x01\x01" + b"\x08\x04ab")


@case("RFC 9293 3.1 MUST-5")
def options_in_established(net: Net) -> None:
    with net.connected(options=mss(1460)) as (client, server):
        client.send(ACK | PSH, b"text", options=mss(500) + wscale(3) + SACK_OK)
        client.expect_ack()
        if receive_exactly(server, 4) != b"text":
            raise CaseError("other text")


@case("RFC 9293 3.1")
def forty_octets_of_options(net: Net) -> None:
    opens_with(net, b"\x01" * 36 + mss(1460))


@case("RFC 9293 3.2")
def options_at_odd_places(net: Net) -> None:
    opens_with(
        net, b"\x01" + struct.pack("!BBH", 2, 4, 1460) + b"\x04\x02" + b"\x03\x03\x02" + b"\x00"
    )


@case("RFC 7323 3.2")
def time_stamps_are_agreed_on_and_kept(net: Net) -> None:
    with net.connected(ts=1000) as (client, server):
        client.push(b"x", server)
        server.sendall(b"y")
        packet = client.expect("data", lambda p: bool(p.data))
        if packet.ts is None:
            raise CaseError("text without time-stamps")
        client.rcv += 1
        client.send()
        server.close()
        if client.expect("FIN", lambda p: bool(p.flags & FIN)).ts is None:
            raise CaseError("FIN without time-stamps")


@case("RFC 7323 3.2")
def no_time_stamps_without_an_offer(net: Net) -> None:
    with net.connected(options=mss(1000)) as (client, server):
        server.sendall(b"y")
        if client.expect("data", lambda p: bool(p.data)).ts:
            raise CaseError("time-stamps without an offer")


@case("RFC 7323 3.2")
def syn_ack_echoes_the_time_stamp(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.syn(stamp(0x12345678))
        reply = client.take_syn_ack()
        if not reply.ts or reply.ts[1] != 0x12345678:
            raise CaseError(f"{reply.ts}")
        client.abort()


@case("RFC 7323 4.3")
def ack_echoes_the_latest_time_stamp(net: Net) -> None:
    with net.connected(ts=1000) as (client, server):
        for value in (2000, 3000, 4000):
            client.ts = value
            client.send(ACK | PSH, b"x")
            reply = client.expect_ack()
            if not reply.ts or reply.ts[1] != value:
                raise CaseError(f"echoes {reply.ts}, not {value}")
        receive_exactly(server, 3)


@case("RFC 7323 4.3 (A)")
def delayed_ack_echoes_the_earliest_time_stamp(net: Net) -> None:
    with net.connected(ts=1000, options=mss(1460)) as (client, server):
        client.ts = 1500
        client.push(b"x", server)
        client.forget()
        client.ts = 2000
        client.send(ACK, b"a" * 100)
        client.ts = 2001
        client.send(ACK, b"b" * 100)
        first = client.expect("ACK", lambda p: (p.ack - client.nxt + 200) & MASK > 0)
        if not first.ts or first.ts[1] not in (2000, 2001):
            raise CaseError(f"{first.ts}")
        if first.ack == client.nxt & MASK and first.ts[1] != 2000:
            raise CaseError("one ACK for both echoes the later")


@case("RFC 7323 4.3 (B)")
def a_gap_echoes_what_advanced_the_window(net: Net) -> None:
    with net.connected(ts=1000) as (client, server):
        client.ts = 2000
        client.push(b"x", server)
        client.forget()
        client.ts = 3000
        client.send(ACK, b"zz", at=client.nxt + 10)
        reply = client.expect_ack(client.nxt)
        if not reply.ts or reply.ts[1] != 2000:
            raise CaseError(f"echoes {reply.ts}, not 2000")


@case("RFC 7323 4.3 (C)")
def the_segment_that_fills_the_gap_is_echoed(net: Net) -> None:
    with net.connected(ts=1000) as (client, server):
        client.ts = 2000
        client.push(b"x", server)
        client.forget()
        client.ts = 3000
        client.send(ACK, b"zz", at=client.nxt + 2)
        client.expect_ack(client.nxt)
        client.ts = 2500
        client.send(ACK, b"yy", at=client.nxt)
        reply = client.expect_ack(client.nxt + 4)
        if not reply.ts or reply.ts[1] != 2500:
            raise CaseError(f"echoes {reply.ts}, not 2500")


@case("RFC 7323 5.3 R1")
def an_old_time_stamp_is_refused_with_an_ack(net: Net) -> None:
    with net.connected(ts=10_000) as (client, server):
        client.ts = 20_000
        client.push(b"x", server)
        client.forget()
        client.send(ACK | PSH, b"ghost", at=client.nxt, options=stamp(15_000))
        client.expect_ack(client.nxt)
        client.push(b"real", server)


@case("RFC 7323 5.2")
def a_reset_is_not_held_against_paws(net: Net) -> None:
    with net.connected(ts=10_000) as (client, server):
        client.ts = 20_000
        client.push(b"x", server)
        client.send(RST, options=stamp(5))
        try:
            server.recv(1)
        except ConnectionResetError:
            return
        raise CaseError("no reset")


@case("RFC 7323 5.2")
def time_stamps_wrap(net: Net) -> None:
    with net.connected(ts=0xFFFFFFF0) as (client, server):
        for step in (0xFFFFFFFF, 0, 5, 1000):
            client.ts = step
            client.push(b"x", server)


@case("RFC 7323 5.4")
def our_time_stamps_never_go_back(net: Net) -> None:
    with net.connected(ts=1000) as (client, server):
        values = []
        for _ in range(10):
            client.ts = (client.ts or 0) + 1
            client.send(ACK | PSH, b"x")
            reply = client.expect_ack()
            values.append(reply.ts[0] if reply.ts else 0)
        if any((b - a) & 0x80000000 for a, b in itertools.pairwise(values)):
            raise CaseError(f"{values}")
        receive_exactly(server, 10)


@case("RFC 7323 3.2", seconds=3)
def retransmissions_carry_a_new_time_stamp(net: Net) -> None:
    with net.connected(ts=1000) as (client, server):
        server.sendall(b"y")
        first = client.expect("data", lambda p: bool(p.data))
        again = client.expect("retransmission", lambda p: bool(p.data), 3)
        if not first.ts or not again.ts or not 0 < (again.ts[0] - first.ts[0]) & MASK < 10_000_000:
            raise CaseError(f"{first.ts}, then {again.ts}")


@case("RFC 6691")
def options_count_into_the_segment(net: Net) -> None:
    with net.connected(ts=1000, options=mss(1000)) as (client, server):
        server.sendall(b"m" * 5000)
        for _ in range(4):
            packet = client.expect("data", lambda p: bool(p.data))
            if len(packet.l4) - 20 > 1000:
                raise CaseError(f"options and text are {len(packet.l4) - 20} octets")


@case("RFC 7323 5.3")
def a_keep_alive_with_an_old_stamp_is_answered(net: Net) -> None:
    with net.connected(ts=1000) as (client, server):
        client.ts = 5000
        client.push(b"x", server)
        client.forget()
        client.send(ACK, at=client.nxt - 1, options=stamp(5001))
        client.expect_ack(client.nxt)
