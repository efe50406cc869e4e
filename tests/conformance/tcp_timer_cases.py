"""Timers, keep-alives and ECN in established: RFC 1122 4.2.3.6, RFC 9293 3.8.4, RFC 3168."""

from __future__ import annotations

import time

from conformance.endpoint import mss
from conformance.net import Net
from conformance.packets import ACK, CWR, ECE, PSH, RST
from conformance.suite import case
from conformance.wire import CaseError


@case("RFC 1122 4.2.3.6")
def keep_alive_without_text_is_answered(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.forget()
        client.send(ACK, at=client.nxt - 1)
        client.expect_ack(client.nxt, 0.5)


@case("RFC 1122 4.2.3.6")
def keep_alive_with_an_octet_is_answered(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.forget()
        client.send(ACK, b"x", at=client.nxt - 1)
        client.expect_ack(client.nxt, 0.5)
        client.push(b"y", server)


@case("RFC 1122 4.2.3.6")
def keep_alive_before_any_text_is_answered(net: Net) -> None:
    with net.connected() as (client, _):
        client.forget()
        client.send(ACK, at=client.nxt - 1)
        client.expect_ack(client.nxt, 0.5)


@case("RFC 9293 3.8.4", seconds=4)
def an_idle_connection_is_left_alone(net: Net) -> None:
    with net.connected() as (client, server):
        client.forget()
        client.silence("a segment on an idle connection", 3)
        client.push(b"alive", server)


@case("RFC 9293 3.8.4")
def an_ack_is_not_answered_by_an_ack(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.forget()
        for _ in range(3):
            client.send()
        client.silence("an ACK of an ACK", 0.6)


@case("RFC 3168 6.1")
def ecn_bits_of_the_ip_header_are_harmless(net: Net) -> None:
    with net.connected() as (client, server):
        for bits in (1, 2, 3):
            client.send(ACK | PSH, b"x", tos=bits)
            client.expect_ack()
        server.recv(3)
        client.push(b"alive", server)


@case("RFC 3168 6.1.3")
def ece_without_negotiation_is_ignored(net: Net) -> None:
    with net.connected(options=mss(1000)) as (client, server):
        for flags in (ECE, CWR, ECE | CWR):
            client.send(ACK | flags)
        server.sendall(b"z" * 5000)
        if client.expect_data(5000) != b"z" * 5000:
            raise CaseError("other text")
        client.push(b"alive", server)


@case("RFC 3168 6.1.1")
def no_ece_without_negotiation(net: Net) -> None:
    with net.connected() as (client, server):
        client.send(ACK | PSH, b"x", tos=3)  # congestion experienced
        if client.expect_ack().flags & ECE:
            raise CaseError("ECE on a connection without ECN")
        server.recv(1)


@case("RFC 2474 3")
def class_of_service_is_harmless(net: Net) -> None:
    with net.connected() as (client, server):
        for tos in (0x10, 0xB8, 0xFC):
            client.send(ACK | PSH, b"x", tos=tos)
            client.expect_ack()
        server.recv(3)


@case("RFC 9293 3.8.1", seconds=6)
def a_guest_that_comes_back_is_served(net: Net) -> None:
    """Silent for five seconds, then there again: nothing is lost."""
    with net.connected(options=mss(1000)) as (client, server):
        server.sendall(b"g" * 10_000)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            if any(p.flags & RST for p in client.wire.all(client.ours, 0.2)):
                raise CaseError("given up within five seconds")
        if client.expect_data(10_000, 15) != b"g" * 10_000:
            raise CaseError("other text")
