"""Text both ways: RFC 9293 3.7, 3.8, 3.10.7.4 seventh, RFC 5681 4.2, RFC 1122 4.2."""

from __future__ import annotations

import os
import time

from conformance.endpoint import mss
from conformance.net import GUEST, Net
from conformance.packets import ACK, FIN, PSH, RST, SYN, TCP, URG, ip4, tcp
from conformance.suite import case
from conformance.wire import CaseError
from lab.servers import receive_exactly
from lab.topology import REMOTE


@case("RFC 9293 3.8")
def text_both_ways(net: Net) -> None:
    with net.connected(options=mss(1460)) as (client, server):
        client.push(b"a" * 1460, server)
        server.sendall(b"b" * 5000)
        if client.expect_data(5000) != b"b" * 5000:
            raise CaseError("other text")


@case("RFC 9293 3.8", seconds=1)
def a_megabyte_down(net: Net) -> None:
    text = os.urandom(1 << 20)
    with net.connected(options=mss(1460)) as (client, server):
        import threading

        sender = threading.Thread(target=server.sendall, args=(text,))
        sender.start()
        got = client.expect_data(len(text), 10)
        sender.join()
        if got != text:
            raise CaseError("other text")


@case("RFC 9293 3.8", seconds=1)
def a_megabyte_up_within_the_window(net: Net) -> None:
    text = os.urandom(1 << 20)
    with net.connected(options=mss(1460)) as (client, server):
        got = bytearray()
        edge = client.iss + 1 + (client.peer_syn.win if client.peer_syn else 0)
        at = 0
        while at < len(text):
            piece = text[at : at + min(1460, (edge - client.nxt) & 0xFFFFFFFF)]
            if not piece:
                raise CaseError("the window does not open")
            client.send(ACK, piece)
            at += len(piece)
            got += receive_exactly(server, len(piece))
            reply = client.expect("ACK", lambda p: p.ack == client.nxt)
            edge = reply.ack + reply.win
        if bytes(got) != text:
            raise CaseError("other text")


@case("RFC 1122 4.2.3.2")
def a_single_segment_is_acknowledged_within_500_ms(net: Net) -> None:
    with net.connected() as (client, _):
        client.forget()
        client.send(ACK | PSH, b"x")
        client.expect_ack(seconds=0.5)


@case("RFC 5681 4.2")
def every_second_full_segment_is_acknowledged(net: Net) -> None:
    with net.connected(options=mss(1460)) as (client, _):
        client.forget()
        client.push(b"settled", _)
        client.send(ACK, b"x" * 1460)
        client.send(ACK, b"x" * 1460)
        client.expect_ack(seconds=0.15)


@case("RFC 5681 4.2")
def out_of_order_is_acknowledged_at_once(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"0", server)
        edge = client.nxt
        client.send(ACK | PSH, b"23", at=edge + 1)
        client.expect_ack(edge, 0.15)
        client.send(ACK | PSH, b"45", at=edge + 3)
        client.expect_ack(edge, 0.15)
        client.send(ACK | PSH, b"1", at=edge)
        client.expect_ack(edge + 5, 0.15)
        if receive_exactly(server, 5) != b"12345":
            raise CaseError("other text")


@case("RFC 9293 3.10.7.4 seventh")
def reordered_text_arrives_in_order(net: Net) -> None:
    with net.connected() as (client, server):
        start = client.nxt
        text = os.urandom(8000)
        for at in (4000, 0, 6000, 2000, 7000, 1000, 5000, 3000):
            client.send(ACK, text[at : at + 1000], at=start + at)
        client.expect_ack(start + 8000)
        if receive_exactly(server, 8000) != text:
            raise CaseError("other text")


@case("RFC 9293 3.10.7.4 seventh")
def overlapping_text_arrives_once(net: Net) -> None:
    with net.connected() as (client, server):
        start = client.nxt
        client.send(ACK, b"abcd", at=start)
        client.send(ACK, b"cdef", at=start + 2)
        client.send(ACK, b"ghij", at=start + 6)
        client.send(ACK, b"abcdefghijkl", at=start)
        client.expect_ack(start + 12)
        if receive_exactly(server, 12) != b"abcdefghijkl":
            raise CaseError("other text")


@case("RFC 9293 3.10.7.4 seventh")
def overlap_across_a_gap_arrives_once(net: Net) -> None:
    with net.connected() as (client, server):
        start = client.nxt
        client.send(ACK, b"efgh", at=start + 4)
        client.send(ACK, b"cdef", at=start + 2)
        client.send(ACK, b"ijkl", at=start + 8)
        client.send(ACK, b"abcdefghij", at=start)
        client.expect_ack(start + 12)
        if receive_exactly(server, 12) != b"abcdefghijkl":
            raise CaseError("other text")


@case("RFC 9293 3.10.7.4 first")
def repeated_segment_is_acknowledged_and_not_delivered(net: Net) -> None:
    with net.connected() as (client, server):
        start = client.nxt
        client.push(b"once", server)
        client.forget()
        client.send(ACK | PSH, b"once", at=start)
        client.expect_ack(start + 4, 0.3)
        client.push(b" more", server)


@case("RFC 9293 3.10.7.4 first")
def text_beyond_the_window_is_refused_with_an_ack(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.forget()
        client.send(ACK | PSH, b"far", at=client.nxt + (1 << 30))
        client.expect_ack(client.nxt, 0.3)
        client.push(b"y", server)


@case("RFC 9293 3.10.7.4 first")
def text_across_the_right_edge_is_cut(net: Net) -> None:
    with net.connected() as (client, server):
        client.forget()
        win = client.peer_syn.win if client.peer_syn else 0
        start = client.nxt
        client.send(ACK, b"z" * 100, at=start + win - 50)
        for at in range(0, win - 50, 1400):
            client.send(ACK, b"z" * min(1400, win - 50 - at), at=start + at)
        got = receive_exactly(server, win)
        reply = client.expect("ACK", lambda p: (p.ack - start) & 0xFFFFFFFF >= win)
        if len(got) < win or (reply.ack - start) & 0xFFFFFFFF > win + 50:
            raise CaseError("more was acknowledged than was sent")


@case("RFC 9293 3.1")
def wrong_checksum_is_dropped(net: Net) -> None:
    with net.connected() as (client, server):
        client.forget()
        client.send(ACK | PSH, b"bad", csum=0xBEEF, at=client.nxt)
        client.send(ACK | PSH, b"bad", csum=0, at=client.nxt)
        client.silence("an answer to a wrong checksum", 0.6)
        client.push(b"good", server)


@case("RFC 9293 3.1")
def wrong_checksum_on_a_syn_is_dropped(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.send(SYN, csum=0x1234)
        client.silence("an answer to a wrong checksum")


@case("RFC 9293 3.1")
def header_length_that_lies_is_dropped(net: Net) -> None:
    with net.connected() as (client, server):
        client.forget()
        for words in (0, 4, 15):
            client.send(ACK | PSH, b"lies", words=words, at=client.nxt)
        client.silence("an answer to a header that does not fit", 0.3)
        client.push(b"true", server)


@case("RFC 9293 3.1")
def truncated_header_is_dropped(net: Net) -> None:
    with net.connected() as (client, server):
        client.forget()
        segment = tcp(GUEST, REMOTE, client.sport, client.dport, seq=client.nxt, flags=ACK)
        for size in (0, 1, 7, 12, 19):
            net.wire.send(ip4(GUEST, REMOTE, TCP, segment[:size]))
        client.silence("an answer to part of a header", 0.2)
        client.push(b"whole", server)


@case("RFC 9293 3.10.7.4 fifth")
def segment_without_ack_is_dropped(net: Net) -> None:
    with net.connected() as (client, server):
        client.forget()
        client.send(PSH, b"no ack", at=client.nxt)
        client.send(0, b"null", at=client.nxt)
        client.silence("an ACK of text that has none itself", 0.6, data_only=True)
        client.push(b"with", server)


@case("RFC 9293 3.10.7.4 fifth")
def ack_of_what_was_not_sent_gets_an_ack(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"1", server)
        client.forget()
        client.send(ACK, ack=client.rcv + 5000)
        client.expect_ack(client.nxt, 0.4)
        client.push(b"2", server)


@case("RFC 9293 3.10.7.4 fifth")
def text_with_an_ack_too_new_is_dropped(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"1", server)
        client.send(ACK | PSH, b"evil", at=client.nxt, ack=client.rcv + 100_000)
        client.push(b"good", server)


@case("RFC 5961 5.2")
def text_with_an_ack_too_old_is_dropped(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"1", server)
        client.forget()
        client.send(ACK | PSH, b"evil", at=client.nxt, ack=client.rcv - (1 << 30))
        client.expect_ack(client.nxt, 0.4)
        client.push(b"good", server)


@case("RFC 9293 3.10.7.4 fifth")
def text_with_an_older_ack_is_taken(net: Net) -> None:
    with net.connected() as (client, server):
        old = client.rcv
        server.sendall(b"reply")
        client.expect_data(5)
        client.send(ACK | PSH, b"late", ack=old)
        client.expect_ack()
        if receive_exactly(server, 4) != b"late":
            raise CaseError("other text")


@case("RFC 9293 3.8.5")
def urgent_data_is_not_trusted(net: Net) -> None:
    """Out of band or in line, as it may be; what is around it arrives, and nobody crashes."""
    with net.connected() as (client, server):
        client.send(ACK | URG | PSH, b"ab!", urg=3)
        client.send(ACK | URG, b"cd", urg=65535)
        client.send(ACK | URG, b"", urg=0)
        client.send(ACK | URG, b"ef", urg=0)
        client.send(ACK | PSH, b"gh", urg=2)
        client.expect_ack()
        time.sleep(0.05)
        got = server.recv(100)
        if got.replace(b"!", b"") not in (b"abcdefgh", b"abcdegh", b"abcdef"):
            raise CaseError(f"{got!r}")
        client.push(b"alive", server)


@case("RFC 9293 3.8.5")
def urgent_pointer_beyond_everything(net: Net) -> None:
    with net.connected() as (client, server):
        for pointer in (0, 1, 100, 32768, 65535):
            client.send(ACK | URG | PSH, at=client.nxt, urg=pointer)
        client.push(b"alive", server)
        client.push(b"alive", server)


@case("RFC 9293 3.8")
def christmas_tree_does_no_harm(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"1", server)
        client.forget()
        client.send(FIN | SYN | RST | PSH | ACK | URG, at=client.nxt + 77)
        client.push(b"2", server)


@case("RFC 1122 4.2.2.20")
def window_update_alone_is_no_news(net: Net) -> None:
    with net.connected() as (client, server):
        for win in (1000, 2000, 65535):
            client.send(win=win)
        client.push(b"fine", server)


@case("RFC 1122 4.2.2.12")
def one_octet_at_a_time(net: Net) -> None:
    with net.connected() as (client, server):
        for _ in range(200):
            client.send(ACK | PSH, b".")
        client.expect_ack()
        if receive_exactly(server, 200) != b"." * 200:
            raise CaseError("other text")


@case("RFC 9293 3.7.1")
def segments_keep_to_the_mss(net: Net) -> None:
    for size in (64, 100, 536, 1000):
        with net.connected(options=mss(size)) as (client, server):
            server.sendall(b"m" * 3000)
            got = 0
            while got < 3000:
                packet = client.expect("data", lambda p: bool(p.data))
                options = (packet.l4[12] >> 4) * 4 - 20
                if len(packet.data) + options > size:
                    raise CaseError(f"{len(packet.data)} octets at an MSS of {size}")
                if packet.seq == client.rcv:
                    client.rcv += len(packet.data)
                    got += len(packet.data)
                client.send()


@case("RFC 9293 3.7.1")
def without_mss_segments_keep_to_536(net: Net) -> None:
    with net.connected() as (client, server):
        server.sendall(b"m" * 3000)
        got = 0
        while got < 3000:
            packet = client.expect("data", lambda p: bool(p.data))
            if len(packet.data) > 536:
                raise CaseError(f"{len(packet.data)} octets without an MSS")
            client.rcv = packet.seq + len(packet.data)
            got += len(packet.data)
            client.send()


@case("RFC 9293 3.7.1")
def a_huge_mss_is_bounded_by_the_mtu(net: Net) -> None:
    with net.connected(options=mss(65495)) as (client, server):
        server.sendall(b"m" * 10000)
        while client.rcv - client.irs < 10001:
            packet = client.expect("data", lambda p: bool(p.data))
            if len(packet.l3) > 1500:
                raise CaseError(f"a datagram of {len(packet.l3)} octets")
            client.rcv = packet.seq + len(packet.data)
            client.send()


@case("RFC 9293 3.7.1")
def our_mss_is_told(net: Net) -> None:
    with net.connected(options=mss(1460)) as (client, _):
        found = client.peer_syn.options.get(2, b"") if client.peer_syn else b""
        if int.from_bytes(found, "big") != 1460:
            raise CaseError(f"MSS {found.hex()} at an MTU of 1500")


@case("RFC 9293 3.7.1")
def mss_zero_and_one_do_no_harm(net: Net) -> None:
    for size in (0, 1, 12):
        with net.connected(options=mss(size)) as (client, server):
            server.sendall(b"m" * 300)
            if client.expect_data(300) != b"m" * 300:
                raise CaseError("other text")


@case("RFC 1122 4.2.2.2")
def the_last_segment_has_psh(net: Net) -> None:
    with net.connected(options=mss(1460)) as (client, server):
        server.sendall(b"p" * 2000)
        while client.rcv - client.irs < 2001:
            packet = client.expect("data", lambda p: bool(p.data))
            client.rcv = packet.seq + len(packet.data)
        if not packet.flags & PSH:
            raise CaseError("no PSH")
