"""Resets and what is forged: RFC 9293 3.10.7.4 second, RFC 5961."""

from __future__ import annotations

import socket

from conformance.net import GUEST, Net
from conformance.packets import ACK, ICMP, PSH, RST, SYN, TCP, icmp, ip4, tcp
from conformance.suite import case
from conformance.wire import CaseError
from lab.topology import REMOTE


def expect_reset(server: socket.socket) -> None:
    try:
        got = server.recv(1)
    except ConnectionResetError:
        return
    raise CaseError(f"the far end read {got!r}, not a reset")


@case("RFC 5961 3.2")
def reset_at_the_right_number(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.send(RST)
        expect_reset(server)
        client.send(ACK | PSH, b"?", at=client.nxt)
        client.expect_rst()


@case("RFC 5961 3.2")
def reset_with_ack_at_the_right_number(net: Net) -> None:
    with net.connected() as (client, server):
        client.send(RST | ACK)
        expect_reset(server)


@case("RFC 5961 3.2")
def reset_elsewhere_in_the_window_is_challenged(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.forget()
        client.send(RST, at=client.nxt + 100)
        client.expect_ack(client.nxt)
        client.push(b"alive", server)


@case("RFC 5961 3.2")
def reset_outside_the_window_is_ignored(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.forget()
        client.send(RST, at=client.nxt - 10)
        client.send(RST, at=client.nxt + (1 << 30))
        client.silence("an answer to a reset outside the window")
        client.push(b"alive", server)


@case("RFC 5961 3.2")
def challenged_sender_can_reset_after_all(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.forget()
        client.send(RST, at=client.nxt + 100)
        challenge = client.expect_ack(client.nxt)
        client.send(RST, at=challenge.ack)
        expect_reset(server)


@case("RFC 5961 4.2")
def syn_in_the_window_is_challenged(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.forget()
        client.send(SYN, at=client.nxt + 5)
        client.expect_ack(client.nxt)
        client.push(b"alive", server)


@case("RFC 5961 4.2")
def syn_outside_the_window_is_challenged(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.forget()
        client.send(SYN, at=client.nxt + (1 << 30))
        reply = client.expect("challenge ACK")
        if reply.flags & (SYN | RST) or reply.ack != client.nxt:
            raise CaseError(f"{reply}")
        client.push(b"alive", server)


@case("RFC 5961 4.2")
def syn_ack_in_established_is_challenged(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.forget()
        client.send(SYN | ACK, at=client.nxt)
        client.expect_ack(client.nxt)
        client.push(b"alive", server)


@case("RFC 5961 4.2")
def restarted_guest_gets_rid_of_the_old_connection(net: Net) -> None:
    """RFC 9293 3.5.1: SYN, challenge, RST at its number, SYN again."""
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.open()
        server, _ = listener.accept()
        again = net.tcp(client.dport, sport=client.sport)
        again.iss = again.nxt = (client.nxt + 7_000_000) & 0xFFFFFFFF
        again.syn()
        challenge = again.expect("challenge ACK")
        if challenge.flags & SYN or challenge.ack != client.nxt:
            raise CaseError(f"{challenge}")
        again.send(RST, at=challenge.ack)
        expect_reset(server)
        server.close()
        again.send(SYN, at=again.iss)
        again.nxt = again.iss + 1
        again.take_syn_ack()
        again.send()
        server, _ = listener.accept()
        with server:
            again.push(b"new", server)
        again.abort()


@case("RFC 5961 7")
def challenge_acks_are_limited(net: Net) -> None:
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.forget()
        for _ in range(500):
            segment = tcp(
                GUEST, REMOTE, client.sport, client.dport, seq=client.nxt + 100, flags=RST
            )
            net.wire.send(ip4(GUEST, REMOTE, TCP, segment))
        answers = net.wire.all(client.ours, 0.3)
        if not 1 <= len(answers) <= 200:
            raise CaseError(f"{len(answers)} answers to 500 forged resets")
        client.push(b"alive", server)


@case("RFC 5961 3.2")
def reset_with_text_is_a_reset(net: Net) -> None:
    """RFC 9293 3.5.2: a reset may carry text that says why."""
    with net.connected() as (client, server):
        client.push(b"x", server)
        client.send(RST | ACK, b"because")
        expect_reset(server)


@case("RFC 5927 4, 1122 4.2.3.9")
def icmp_errors_do_not_reset(net: Net) -> None:
    """Unreachable, time exceeded, source quench about a living connection."""
    with net.connected() as (client, server):
        client.push(b"x", server)
        quote = ip4(REMOTE, GUEST, TCP, tcp(
            REMOTE, GUEST, client.dport, client.sport, seq=client.rcv, ack=client.nxt, flags=ACK,
        ))[:28]  # fmt: skip
        for kind, code in ((3, 0), (3, 1), (3, 2), (3, 3), (3, 5), (11, 0), (4, 0), (12, 0)):
            net.send4(ICMP, icmp(kind, code, bytes(4), quote))
        client.push(b"alive", server)
        server.sendall(b"alive")
        client.expect_data(5)


@case("RFC 5927 7")
def a_forged_packet_too_big_is_bounded(net: Net) -> None:
    """Next-hop MTU 0, 1 and 68, for numbers never sent: segments stay useful."""
    with net.connected() as (client, server):
        for offset in (1 << 20, -(1 << 20)):
            quote = ip4(REMOTE, GUEST, TCP, tcp(
                REMOTE, GUEST, client.dport, client.sport, seq=client.rcv + offset, flags=ACK,
            ))[:28]  # fmt: skip
            for mtu in (0, 1, 68):
                net.send4(ICMP, icmp(3, 4, b"\0\0" + mtu.to_bytes(2, "big"), quote))
        server.sendall(b"t" * 500)
        packet = client.expect("data", lambda p: bool(p.data))
        if len(packet.data) != 500:
            raise CaseError(f"{len(packet.data)} octets after a forged error")


@case("RFC 9293 3.10.7.4 second")
def reset_after_the_hosts_fin(net: Net) -> None:
    with net.connected() as (client, server):
        server.shutdown(socket.SHUT_WR)
        client.expect_fin()
        client.send()
        client.send(RST)
        expect_reset_or_end(server)
        client.send(ACK, at=client.nxt)
        client.expect_rst()


def expect_reset_or_end(server: socket.socket) -> None:
    try:
        if server.recv(1):
            raise CaseError("text after a reset")
    except ConnectionResetError:
        return
