"""Opening a connection: RFC 9293 3.5, 3.10.7.1 to 3.10.7.3, RFC 6528, RFC 3168, RFC 7413."""

from __future__ import annotations

import itertools
import time

from conformance.endpoint import SACK_OK, mss, stamp, wscale
from conformance.net import BROADCAST_ADDRESS, GATEWAY, Net, is_error
from conformance.packets import ACK, CWR, ECE, FIN, PSH, RST, SYN, TCP, URG
from conformance.suite import case
from conformance.wire import CaseError
from lab.topology import REMOTE, SILENT, UNREACHABLE_AT_HOST, UNREACHABLE_AT_REMOTE

CLOSED_PORT = 9


@case("RFC 9293 3.5")
def handshake(net: Net) -> None:
    with net.connected() as (client, server):
        if client.peer_syn is None or client.peer_syn.data:
            raise CaseError("text on a SYN-ACK")
        client.push(b"hello", server)


@case("RFC 9293 3.10.7.1")
def closed_port_is_reset(net: Net) -> None:
    client = net.tcp(CLOSED_PORT)
    client.syn(mss(1460))
    reply = client.expect_rst()
    if not reply.flags & ACK or reply.seq != 0 or reply.ack != client.iss + 1:
        raise CaseError(f"not <SEQ=0><ACK=SEG.SEQ+1><CTL=RST,ACK>: {reply}")


@case("RFC 9293 3.10.7.1")
def closed_port_reset_counts_text_and_fin(net: Net) -> None:
    client = net.tcp(CLOSED_PORT)
    client.send(SYN, b"12345")
    reply = client.expect_rst()
    if reply.ack != client.iss + 6:
        raise CaseError(f"ACK={reply.ack - client.iss}, not SEG.SEQ+SEG.LEN")


@case("RFC 9293 3.10.7.1")
def stray_ack_is_reset_with_its_number(net: Net) -> None:
    for flags in (ACK, ACK | PSH, ACK | FIN, SYN | ACK):
        client = net.tcp(CLOSED_PORT)
        client.send(flags, ack=777)
        reply = client.expect_rst()
        if reply.seq != 777:
            raise CaseError(f"{flags:#x}: SEQ={reply.seq}, not SEG.ACK")


@case("RFC 9293 3.10.7.1")
def stray_without_ack_is_reset_with_ack(net: Net) -> None:
    for flags in (FIN, PSH, URG, 0):
        client = net.tcp(CLOSED_PORT)
        client.send(flags, b"abc")
        reply = client.expect_rst()
        if not reply.flags & ACK or reply.seq or reply.ack != client.iss + 3 + (flags == FIN):
            raise CaseError(f"{flags:#x}: {reply}")


@case("RFC 9293 3.10.7.1")
def stray_rst_is_not_answered(net: Net) -> None:
    client = net.tcp(CLOSED_PORT)
    client.send(RST)
    client.send(RST | ACK, ack=1)
    client.silence("an answer to a reset")


@case("RFC 9293 3.10.7.2")
def stray_ack_to_open_port_is_reset(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.send(ACK, b"abc", ack=4711)
        if client.expect_rst().seq != 4711:
            raise CaseError("SEQ is not SEG.ACK")


@case("RFC 9293 3.10.7.2")
def syn_with_rst_is_ignored(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.send(SYN | RST)
        client.silence("an answer to SYN and RST")


@case("RFC 9293 3.10.7.1")
def refusal_of_host_loopback_is_reset(net: Net) -> None:
    client = net.tcp(CLOSED_PORT, GATEWAY)
    client.syn()
    client.expect_rst()


@case("RFC 9293 3.5")
def host_behind_gateway_address(net: Net) -> None:
    with net.listener("host") as listener:
        client = net.tcp(listener.getsockname()[1], GATEWAY)
        client.open()
        server, _ = listener.accept()
        with server:
            client.push(b"to the host", server)
        client.abort()


@case("RFC 1122 4.2.3.9")
def unreachable_at_host_is_told_by_icmp_or_rst(net: Net) -> None:
    client = net.tcp(80, UNREACHABLE_AT_HOST)
    client.syn()
    net.wire.expect(
        lambda p: is_error(p) or (client.ours(p) and bool(p.flags & RST)), "error or reset"
    )


@case("RFC 792")
def unreachable_at_remote_is_told_by_icmp(net: Net) -> None:
    client = net.tcp(80, UNREACHABLE_AT_REMOTE)
    client.syn()
    error = net.wire.expect(is_error, "ICMP error")
    if error.l4[0] != 3 or error.l4[8 + 20 : 8 + 24] != client.sport.to_bytes(
        2, "big"
    ) + client.dport.to_bytes(2, "big"):
        raise CaseError("the error does not quote the SYN")
    if error.l4[8 + 24 : 8 + 28] != client.iss.to_bytes(4, "big"):
        raise CaseError("the error quotes another sequence number")


@case("RFC 9293 3.5", seconds=1.5)
def silence_stays_silence(net: Net) -> None:
    client = net.tcp(80, SILENT)
    client.syn()
    client.silence("an answer in the name of a host that is silent", 1.5)


@case("RFC 1122 4.2.3.10")
def syn_to_broadcast_or_multicast_is_ignored(net: Net) -> None:
    for address in (BROADCAST_ADDRESS, "255.255.255.255", "224.0.0.1", "239.1.2.3"):
        client = net.tcp(80, address)
        client.syn()
        client.silence(f"an answer from {address}", 0.1)
    net.wire.silence(is_error, "an error about a broadcast", 0.05)


@case("RFC 9293 3.8.3")
def syn_again_gets_the_same_answer(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.syn(mss(1460))
        first = client.take_syn_ack()
        client.send(SYN, at=client.iss, options=mss(1460))
        if client.take_syn_ack().seq != first.seq:
            raise CaseError("another ISN")
        client.send()
        listener.accept()[0].close()
        client.abort()


@case("RFC 9293 3.8.1", seconds=3.5)
def syn_ack_is_repeated_until_acknowledged(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.syn()
        first = client.take_syn_ack()
        if client.take_syn_ack(3.5).seq != first.seq:
            raise CaseError("another ISN")
        client.abort()


@case("RFC 9293 3.10.7.4 fifth")
def syn_received_refuses_a_wrong_ack(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.syn()
        client.take_syn_ack()
        client.send(ACK, ack=client.irs + 100)
        if client.expect_rst().seq != client.irs + 100:
            raise CaseError("SEQ is not SEG.ACK")
        client.send()
        server, _ = listener.accept()
        with server:
            client.push(b"still there", server)
        client.abort()


@case("RFC 9293 3.10.7.4 second")
def syn_received_ends_by_reset(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.syn()
        client.take_syn_ack()
        client.send(RST)
        client.send(ACK)
        client.expect_rst()


@case("RFC 9293 3.10.7.4")
def data_on_the_third_segment(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.syn()
        client.take_syn_ack()
        client.send(ACK | PSH, b"at once")
        server, _ = listener.accept()
        with server:
            server.settimeout(2)
            if server.recv(100) != b"at once":
                raise CaseError("other text")
        client.expect_ack()
        client.abort()


@case("RFC 9293 3.10.7.4 eighth")
def fin_on_the_third_segment(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.syn()
        client.take_syn_ack()
        client.send(ACK | FIN | PSH, b"all of it")
        server, _ = listener.accept()
        with server:
            server.settimeout(2)
            if server.recv(100) + server.recv(100) != b"all of it":
                raise CaseError("other text")
        client.expect_ack()
        client.expect_fin()
        client.send()


@case("RFC 7413, 9293 3.10.7.2")
def text_on_a_syn_arrives(net: Net) -> None:
    """Taken with the SYN, or again when it comes again: never lost, never doubled."""
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.send(SYN, b"early")
        reply = client.expect("SYN-ACK", lambda p: bool(p.flags & SYN))
        client.irs, client.rcv = reply.seq, reply.seq + 1
        if reply.ack not in (client.iss + 1, client.iss + 6):
            raise CaseError(f"acknowledges {reply.ack - client.iss}")
        client.nxt = client.iss + 6
        client.send(ACK | PSH, b"early", at=client.iss + 1)
        server, _ = listener.accept()
        with server:
            server.settimeout(2)
            if server.recv(100) != b"early":
                raise CaseError("other text")
            client.push(b" and late", server)
        client.abort()


@case("RFC 9293 3.1")
def syn_without_options(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.syn()
        options = client.take_syn_ack().options
        if set(options) - {2}:
            raise CaseError(f"options that were not offered: {options}")
        client.abort()


@case("RFC 3168 6.1.1")
def ecn_setup_syn_is_answered(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.syn(flags=SYN | ECE | CWR)
        reply = client.take_syn_ack()
        if reply.flags & CWR:
            raise CaseError("CWR on a SYN-ACK (6.1.1: only ECE)")
        client.send()
        server, _ = listener.accept()
        with server:
            client.push(b"ecn", server)
        client.abort()


@case("RFC 6528 3")
def isn_differs_between_connections(net: Net) -> None:
    numbers = []
    with net.listener() as listener:
        for _ in range(4):
            client = net.tcp(listener.getsockname()[1])
            client.syn()
            numbers.append(client.take_syn_ack().seq)
            client.abort()
    gaps = {(b - a) & 0xFFFFFFFF for a, b in itertools.pairwise(numbers)}
    if len(gaps) < 3 or any(gap < 1 << 16 for gap in gaps):
        raise CaseError(f"predictable: {numbers}")


@case("RFC 9293 3.4")
def sequence_numbers_wrap(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.open(isn=0xFFFFFFF0)
        server, _ = listener.accept()
        with server:
            client.push(b"x" * 100, server)
            client.push(b"y" * 100, server)
        client.abort()


@case("RFC 9293 3.10.7.2")
def all_options_at_once(net: Net) -> None:
    options = mss(1460) + SACK_OK + stamp(1) + wscale(7)
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.syn(options)
        found = client.take_syn_ack().options
        if set(found) != {2, 3, 4, 8}:
            raise CaseError(f"answered {sorted(found)}")
        client.abort()


@case("RFC 9293 3.1")
def reserved_bits_are_ignored(net: Net) -> None:
    from conformance.net import GUEST
    from conformance.packets import tcp

    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        segment = tcp(
            GUEST, REMOTE, client.sport, client.dport, seq=client.iss, flags=SYN, reserved=0x6
        )
        net.send4(TCP, segment)
        client.nxt += 1
        client.take_syn_ack()
        client.abort()


@case("RFC 9293 3.1")
def port_zero_is_refused(net: Net) -> None:
    client = net.tcp(0)
    client.syn()
    client.expect_rst()


@case("RFC 9293 3.10.7.2")
def syn_with_fin_does_no_harm(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.send(SYN | FIN)
        client.forget()
        other = net.tcp(listener.getsockname()[1])
        other.open()
        other.abort()
        client.send(RST, at=client.iss + 1)


@case("RFC 9293 3.10.7.4", seconds=1)
def many_half_open_disturb_nobody(net: Net) -> None:
    with net.listener() as listener:
        port = listener.getsockname()[1]
        for _ in range(5000):
            net.tcp(port, SILENT).syn()
        time.sleep(1)  # the TAP's queue, of 1,000 frames, is not what is asked about
        with net.connected() as (client, server):
            client.push(b"through", server)


@case("RFC 9293 3.10.7.4")
def another_syn_while_connecting_begins_anew(net: Net) -> None:
    """The guest restarted: its SYN has another number; sooner or later it must get through."""
    with net.listener() as listener:
        port = listener.getsockname()[1]
        client = net.tcp(port)
        client.syn()
        client.take_syn_ack()
        again = net.tcp(port, sport=client.sport)
        again.iss = again.nxt = (client.iss + 1_000_000) & 0xFFFFFFFF
        again.syn()
        reply = again.expect("an answer", lambda p: bool(p.flags & ACK))
        if reply.flags & SYN and reply.ack == again.iss + 1:
            return
        again.send(RST, at=reply.ack)  # RFC 9293 3.5.2: figure 9
        again.send(SYN, at=again.iss)
        again.take_syn_ack()
        again.abort()


@case("RFC 9293 3.1")
def port_zero_as_source_is_possible(net: Net) -> None:
    with net.listener() as listener:
        client = net.tcp(listener.getsockname()[1])
        client.sport = 0
        client.open()
        client.abort()
