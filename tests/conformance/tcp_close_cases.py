"""Closing: RFC 9293 3.6, 3.10.7.4 eighth, RFC 6191, RFC 1122 4.2.2.13."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

from conformance.endpoint import Tcp, mss
from conformance.net import Net
from conformance.packets import ACK, FIN, PSH, SYN
from conformance.suite import case
from conformance.wire import CaseError
from lab.servers import receive_exactly


def expect_end(server: socket.socket) -> None:
    if server.recv(1):
        raise CaseError("more came than was sent")


def reset(server: socket.socket) -> None:
    """Close it so that its peer gets a reset."""
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()


@contextlib.contextmanager
def half_closed_by_guest(net: Net) -> Iterator[tuple[Tcp, socket.socket]]:
    with net.connected(options=mss(1460)) as (client, server):
        client.send(FIN | ACK)
        client.expect_ack()
        expect_end(server)
        yield client, server


@case("RFC 9293 3.6 case 2")
def guest_closes_first(net: Net) -> None:
    with half_closed_by_guest(net) as (client, server):
        server.close()
        client.expect_fin()
        client.send()
        client.send(ACK | PSH, b"stray", at=client.nxt)
        client.expect_rst()


@case("RFC 9293 3.6 case 1")
def host_closes_first(net: Net) -> None:
    with net.connected() as (client, server):
        server.shutdown(socket.SHUT_WR)
        client.expect_fin()
        client.send()
        client.push(b"after your FIN", server)
        client.send(FIN | ACK)
        client.expect_ack()
        expect_end(server)


@case("RFC 9293 3.6 case 3")
def both_close_at_once(net: Net) -> None:
    with net.connected() as (client, server):
        server.shutdown(socket.SHUT_WR)
        client.expect("FIN", lambda p: bool(p.flags & FIN))
        client.send(FIN | ACK)  # does not acknowledge the other's
        client.rcv += 1
        client.expect_ack()
        client.send(ACK)
        expect_end(server)


@case("RFC 9293 3.6")
def text_after_the_guests_fin_still_flows_down(net: Net) -> None:
    with half_closed_by_guest(net) as (client, server):
        server.sendall(b"d" * 20_000)
        if client.expect_data(20_000) != b"d" * 20_000:
            raise CaseError("other text")
        server.close()
        client.expect_fin()
        client.send()


@case("RFC 9293 3.6")
def text_after_the_hosts_fin_still_flows_up(net: Net) -> None:
    with net.connected() as (client, server):
        server.shutdown(socket.SHUT_WR)
        client.expect_fin()
        client.send()
        for _ in range(5):
            client.push(b"u" * 1000, server)


@case("RFC 9293 3.10.7.4 eighth")
def text_and_fin_in_one(net: Net) -> None:
    with net.connected() as (client, server):
        client.send(FIN | ACK | PSH, b"last words")
        client.expect_ack()
        if receive_exactly(server, 10) != b"last words":
            raise CaseError("other text")
        expect_end(server)


@case("RFC 9293 3.10.7.4 eighth")
def a_fin_beyond_a_gap_waits(net: Net) -> None:
    with net.connected() as (client, server):
        start = client.nxt
        client.send(FIN | ACK, b"world", at=start + 6)
        client.expect_ack(start)
        server.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            if not server.recv(10):
                raise CaseError("the end came before the text")
        server.settimeout(2)
        client.send(ACK, b"hello ", at=start)
        client.expect_ack(start + 12)
        if receive_exactly(server, 11) != b"hello world":
            raise CaseError("other text")
        expect_end(server)


@case("RFC 9293 3.10.7.4 eighth")
def a_repeated_fin_is_acknowledged_again(net: Net) -> None:
    with half_closed_by_guest(net) as (client, _):
        client.send(FIN | ACK, at=client.nxt - 1)
        client.expect_ack()


@case("RFC 9293 3.10.7.4 seventh")
def text_behind_a_fin_is_ignored(net: Net) -> None:
    with half_closed_by_guest(net) as (client, server):
        client.send(ACK | PSH, b"ghost", at=client.nxt)
        server.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            expect_end(server)
        server.sendall(b"alive")
        client.expect_data(5)


@case("RFC 9293 3.8.1", seconds=3)
def a_fin_is_repeated_until_acknowledged(net: Net) -> None:
    with net.connected() as (client, server):
        server.shutdown(socket.SHUT_WR)
        first = client.expect("FIN", lambda p: bool(p.flags & FIN))
        again = client.expect("FIN again", lambda p: bool(p.flags & FIN), 3)
        if first.seq + len(first.data) != again.seq + len(again.data):
            raise CaseError("at another number")


@case("RFC 9293 3.8.1", seconds=3)
def text_and_fin_are_repeated_together(net: Net) -> None:
    with net.connected() as (client, server):
        server.sendall(b"tail")
        server.shutdown(socket.SHUT_WR)
        client.wire.all(client.ours, 0.1)
        if client.expect_data(4, 3) != b"tail":
            raise CaseError("other text")
        client.rcv = (client.irs + 5) & 0xFFFFFFFF
        client.send()
        packet = client.expect("FIN", lambda p: bool(p.flags & FIN), 3)
        if packet.seq + len(packet.data) != client.rcv:
            raise CaseError("FIN at another number")


@case("RFC 9293 3.10.7.4 fifth")
def last_ack_ends_the_connection(net: Net) -> None:
    with half_closed_by_guest(net) as (client, server):
        server.close()
        client.expect_fin()
        client.send()
        time.sleep(0.05)
        client.send(ACK, at=client.nxt)
        client.expect_rst()


@case("RFC 9293 3.10.7.4 first")
def time_wait_acknowledges_a_fin_again(net: Net) -> None:
    with net.connected() as (client, server):
        server.shutdown(socket.SHUT_WR)
        client.expect_fin()
        client.send(FIN | ACK)
        client.expect_ack()
        client.send(FIN | ACK, at=client.nxt - 1)
        client.expect_ack()


def to_time_wait(client: Tcp, server: socket.socket) -> None:
    """The host closes first, so that the far side waits."""
    server.shutdown(socket.SHUT_WR)
    client.expect_fin()
    client.send(FIN | ACK)
    client.expect_ack()
    server.close()


@case("RFC 9293 3.6.1, RFC 6191")
def time_wait_gives_way_to_a_new_syn(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.open()
        server, _ = listener.accept()
        to_time_wait(client, server)
        again = net.tcp(client.dport, sport=client.sport)
        again.iss = again.nxt = client.nxt + 100_000
        again.open()
        server, _ = listener.accept()
        with server:
            again.push(b"served at once", server)
        again.abort()


@case("RFC 6191 2")
def time_wait_gives_way_to_a_newer_time_stamp(net: Net) -> None:
    """The sequence number is older, the clock is not."""
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.open(ts=1000)
        server, _ = listener.accept()
        to_time_wait(client, server)
        again = net.tcp(client.dport, sport=client.sport)
        again.iss = again.nxt = client.iss - 1_000_000 & 0xFFFFFFFF
        again.open(ts=50_000)
        server, _ = listener.accept()
        with server:
            again.push(b"served at once", server)
        again.abort()


@case("RFC 9293 3.6.1", seconds=1)
def the_same_port_again_and_again(net: Net) -> None:
    """The guest closes first, its port is used at once: twenty times."""
    with net.listener() as listener:
        sport, isn = net.port, 5_000_000
        for _ in range(20):
            client = net.tcp(listener.getsockname()[1], sport=sport)
            client.iss = client.nxt = isn
            client.open()
            server, _ = listener.accept()
            server.close()
            client.expect_fin()
            client.send(FIN | ACK)
            client.expect_ack()
            isn = client.nxt + 1000


@case("RFC 9293 3.10.7.4 fourth")
def syn_in_close_wait_is_challenged(net: Net) -> None:
    with half_closed_by_guest(net) as (client, server):
        client.send(SYN, at=client.nxt + 10)
        client.expect_ack()
        server.sendall(b"alive")
        client.expect_data(5)


@case("RFC 1122 4.2.2.13")
def a_reset_by_the_host_reaches_the_guest(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        reset(server)
        reply = client.expect_rst()
        if reply.seq != client.rcv:
            raise CaseError(f"RST at {reply.seq}, not at {client.rcv}")


@case("RFC 1122 4.2.2.13")
def text_to_a_closed_host_is_reset(net: Net) -> None:
    """The far application has closed; who goes on sending learns that nobody reads it."""
    with net.connected() as (client, server):
        server.close()
        client.expect_fin()
        client.send()
        for _ in range(3):
            client.send(ACK | PSH, b"anybody?")
            time.sleep(0.05)
        client.expect_rst()


@case("RFC 9293 3.10.7.4 eighth")
def fin_wait_2_takes_a_fin_with_text(net: Net) -> None:
    with net.connected() as (client, server):
        server.shutdown(socket.SHUT_WR)
        client.expect_fin()
        client.send()
        client.send(FIN | ACK, b"and so do I")
        client.expect_ack()
        if receive_exactly(server, 11) != b"and so do I":
            raise CaseError("other text")
        expect_end(server)


@case("RFC 9293 3.6", seconds=2.5)
def a_half_closed_connection_lasts(net: Net) -> None:
    with half_closed_by_guest(net) as (client, server):
        time.sleep(2)
        server.sendall(b"late")
        if client.expect_data(4) != b"late":
            raise CaseError("other text")


@case("RFC 9293 3.10.7.4 eighth")
def a_fin_from_the_guest_without_ack_is_dropped(net: Net) -> None:
    with net.connected() as (client, server):
        client.send(FIN, at=client.nxt)
        client.push(b"alive", server)
