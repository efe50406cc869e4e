"""Ports of the host that lead to the guest, TCP and UDP; the guest is the server here."""

from __future__ import annotations

import socket
import threading
import time

from conformance.endpoint import Tcp, mss
from conformance.net import GUEST, Net, is_udp
from conformance.packets import ACK, FIN, ICMP, PSH, RST, SYN, TCP, UDP, Packet, icmp
from conformance.suite import case
from conformance.wire import CaseError
from lab.topology import REMOTE


def is_syn(packet: Packet, port: int) -> bool:
    return packet.proto == TCP and packet.ports[1] == port and packet.flags & (SYN | ACK) == SYN


class Client:
    """A client of the remote's that connects to a forwarded port by itself."""

    def __init__(self, net: Net, port: int) -> None:
        where = net.forward("tcp", port)
        self.socket = net.bed.remote.new_socket()
        self.socket.settimeout(4)
        self.error: OSError | None = None
        self.thread = threading.Thread(target=self._connect, args=(where,))
        self.thread.start()

    def _connect(self, where: tuple[str, int]) -> None:
        try:
            self.socket.connect(where)
        except OSError as error:
            self.error = error

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.thread.join()
        self.socket.close()


def accept(net: Net, port: int, options: bytes = b"") -> Tcp:
    """Take the SYN that comes for `port`, and finish the handshake as the guest."""
    syn = net.wire.expect(lambda p: is_syn(p, port), "SYN")
    server = Tcp(net.wire, GUEST, syn.src, port, syn.ports[0])
    server.peer_syn = syn
    server.irs, server.rcv = syn.seq, (syn.seq + 1) & 0xFFFFFFFF
    server.send(SYN | ACK, options=options)
    server.expect_ack()
    return server


@case("RFC 9293 3.5")
def a_client_reaches_the_guest(net: Net) -> None:
    port = net.port
    with Client(net, port) as client:
        server = accept(net, port, mss(1460))
        client.thread.join()
        client.socket.sendall(b"hello")
        if server.expect_data(5) != b"hello":
            raise CaseError("other text")
        server.push(b"welcome", client.socket)
        server.abort()


@case("RFC 9293 3.5")
def the_guest_sees_who_calls(net: Net) -> None:
    port = net.port
    with Client(net, port):
        server = accept(net, port)
        if server.dst != REMOTE:
            raise CaseError(f"a client of {server.dst}, not {REMOTE}")
        server.abort()


@case("RFC 9293 3.10.7.3")
def a_guest_that_refuses_ends_the_client(net: Net) -> None:
    port = net.port
    with Client(net, port) as client:
        syn = net.wire.expect(lambda p: is_syn(p, port), "SYN")
        server = Tcp(net.wire, GUEST, syn.src, port, syn.ports[0])
        server.irs, server.rcv = syn.seq, syn.seq + 1
        server.send(RST | ACK, at=0)
        client.thread.join()
        try:
            if client.error is None and client.socket.recv(1):
                raise CaseError("text from nobody")
        except OSError:
            return


@case("RFC 9293 3.8.1", seconds=3)
def a_syn_to_the_guest_is_repeated(net: Net) -> None:
    port = net.port
    with Client(net, port):
        first = net.wire.expect(lambda p: is_syn(p, port), "SYN")
        again = net.wire.expect(lambda p: is_syn(p, port), "SYN again", 3.5)
        if first.seq != again.seq:
            raise CaseError("another ISN")
        server = Tcp(net.wire, GUEST, first.src, port, first.ports[0])
        server.irs, server.rcv = first.seq, first.seq + 1
        server.send(SYN | ACK)
        server.abort()


@case("RFC 9293 3.10.7.3")
def syn_sent_refuses_a_wrong_ack(net: Net) -> None:
    port = net.port
    with Client(net, port):
        syn = net.wire.expect(lambda p: is_syn(p, port), "SYN")
        server = Tcp(net.wire, GUEST, syn.src, port, syn.ports[0])
        server.irs, server.rcv = syn.seq, (syn.seq + 1) & 0xFFFFFFFF
        server.send(SYN | ACK, at=5, ack=syn.seq + 100)
        if server.expect_rst().seq != (syn.seq + 100) & 0xFFFFFFFF:
            raise CaseError("SEQ is not SEG.ACK")
        server.send(SYN | ACK)
        server.expect_ack()
        server.abort()


@case("RFC 9293 3.10.7.3")
def syn_sent_ignores_a_reset_without_ack(net: Net) -> None:
    port = net.port
    with Client(net, port) as client:
        syn = net.wire.expect(lambda p: is_syn(p, port), "SYN")
        server = Tcp(net.wire, GUEST, syn.src, port, syn.ports[0])
        server.irs, server.rcv = syn.seq, (syn.seq + 1) & 0xFFFFFFFF
        server.send(RST, at=0)
        server.send(RST | ACK, at=0, ack=syn.seq + 77)
        server.send(SYN | ACK)
        server.expect_ack()
        client.thread.join()
        server.push(b"alive", client.socket)
        server.abort()


@case("RFC 9293 3.5")
def both_ways_close(net: Net) -> None:
    port = net.port
    with Client(net, port) as client:
        server = accept(net, port)
        client.thread.join()
        client.socket.shutdown(socket.SHUT_WR)
        server.expect_fin()
        server.send()
        server.push(b"after", client.socket)
        server.send(FIN | ACK)
        server.expect_ack()
        if client.socket.recv(1):
            raise CaseError("more came")


@case("RFC 9293 3.10.7.3")
def a_guest_that_speaks_first(net: Net) -> None:
    port = net.port
    with Client(net, port) as client:
        server = accept(net, port)
        client.thread.join()
        server.push(b"220 ready", client.socket)
        server.abort()


@case("RFC 9293 3.10.7.3")
def a_syn_ack_without_options(net: Net) -> None:
    """Nothing is agreed on that the guest did not answer."""
    port = net.port
    with Client(net, port) as client:
        server = accept(net, port)
        client.thread.join()
        client.socket.sendall(b"z" * 3000)
        while server.rcv - server.irs < 3001:
            packet = server.expect("data", lambda p: bool(p.data))
            if packet.options or len(packet.data) > 536:
                raise CaseError(f"{packet}")
            server.rcv = packet.seq + len(packet.data)
            server.send()
        server.abort()


@case("RFC 768")
def a_udp_client_reaches_the_guest(net: Net) -> None:
    port = net.port
    where = net.forward("udp", port)
    with net.udp_server() as client:
        client.sendto(b"question", where)
        packet = net.wire.expect(lambda p: is_udp(p, port), "datagram")
        if packet.data != b"question" or packet.src != REMOTE:
            raise CaseError(f"{packet}")
        net.send_udp(port, packet.ports[0], b"answer", dst=packet.src)
        text, peer = client.recvfrom(100)
        if text != b"answer" or peer != where:
            raise CaseError(f"{text!r} from {peer}")


@case("RFC 768")
def two_udp_clients_are_told_apart(net: Net) -> None:
    port = net.port
    where = net.forward("udp", port)
    with net.udp_server() as one, net.udp_server() as two:
        one.sendto(b"1", where)
        two.sendto(b"2", where)
        for _ in range(2):
            packet = net.wire.expect(lambda p: is_udp(p, port), "datagram")
            net.send_udp(port, packet.ports[0], packet.data, dst=packet.src)
        if one.recv(10) != b"1" or two.recv(10) != b"2":
            raise CaseError("mixed up")


@case("RFC 768")
def empty_and_large_datagrams_to_a_forward(net: Net) -> None:
    port = net.port
    where = net.forward("udp", port)
    with net.udp_server() as client:
        client.sendto(b"", where)
        if net.wire.expect(lambda p: is_udp(p, port), "datagram").data:
            raise CaseError("not empty")
        client.sendto(b"l" * 4000, where)
        size = 0
        while size < 4008:
            piece = net.wire.expect(lambda p: p.proto == UDP and len(p.l4) > 8, "a piece")
            size += len(piece.l4)


@case("RFC 1122 4.1.3.3")
def a_closed_udp_port_of_the_guest_does_no_harm(net: Net) -> None:
    port = net.port
    where = net.forward("udp", port)
    with net.udp_server() as client:
        client.sendto(b"1", where)
        packet = net.wire.expect(lambda p: is_udp(p, port), "datagram")
        net.send4(ICMP, icmp(3, 3, bytes(4), packet.l3[:28]), packet.src)
        time.sleep(0.05)
        try:
            client.sendto(b"2", where)
        except ConnectionRefusedError:
            client.sendto(b"2", where)
        if net.wire.expect(lambda p: is_udp(p, port), "datagram").data != b"2":
            raise CaseError("other text")


@case("RFC 9293 3.8.6")
def a_slow_guest_holds_the_client_back(net: Net) -> None:
    port = net.port
    with Client(net, port) as client:
        server = accept(net, port, mss(1000))
        client.thread.join()
        server.win = 2000
        server.send(ACK | PSH, b"x")
        server.wire.all(server.ours, 0.1)
        client.socket.sendall(b"z" * 50_000)
        got = server.wire.all(lambda p: server.ours(p) and bool(p.data), 0.3)
        edge = max(((p.seq + len(p.data) - server.rcv) & 0xFFFFFFFF for p in got), default=0)
        if not 1000 <= edge <= 2000:
            raise CaseError(f"{edge} octets into a window of 2000")
        server.abort()


@case("RFC 9293 3.5 figure 8")
def both_open_at_once(net: Net) -> None:
    """The guest's SYN crosses the one of the client."""
    port = net.port
    with Client(net, port) as client:
        syn = net.wire.expect(lambda p: is_syn(p, port), "SYN")
        server = Tcp(net.wire, GUEST, syn.src, port, syn.ports[0])
        server.syn()
        reply = server.expect("SYN-ACK", lambda p: p.flags & (SYN | ACK) == SYN | ACK)
        server.irs, server.rcv = syn.seq, (syn.seq + 1) & 0xFFFFFFFF
        if reply.ack != server.nxt or reply.seq != syn.seq:
            raise CaseError(f"{reply}")
        server.send(SYN | ACK, at=server.iss)
        server.send()
        client.thread.join()
        server.push(b"open", client.socket)
        server.abort()
