"""A guest's TCP by hand: it keeps the numbers, and does nothing that it was not told."""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections.abc import Callable

from conformance.packets import ACK, FIN, PSH, RST, SYN, TCP, Packet, ip4, ip6, tcp
from conformance.wire import PATIENCE_SECONDS, QUIET_SECONDS, CaseError, Wire

_isns = itertools.count(1_000_000, 7_654_321)
MASK = 0xFFFFFFFF


def mss(value: int) -> bytes:
    """The option of RFC 9293 3.7.1."""
    return struct.pack("!BBH", 2, 4, value)


def wscale(shift: int) -> bytes:
    """The option of RFC 7323 2.2."""
    return struct.pack("!BBBB", 1, 3, 3, shift)


SACK_OK = b"\x01\x01\x04\x02"


def sack(*blocks: tuple[int, int]) -> bytes:
    """The option of RFC 2018 3."""
    body = b"".join(struct.pack("!II", start & MASK, end & MASK) for start, end in blocks)
    return struct.pack("!BBBB", 1, 1, 5, 2 + len(body)) + body


def stamp(value: int, reply: int = 0) -> bytes:
    """The option of RFC 7323 3.2."""
    return struct.pack("!BBBBII", 1, 1, 8, 10, value & MASK, reply & MASK)


class Tcp:
    """One connection of the guest's.

    nxt: the next number to be sent. rcv: the next number expected, kept by expect_data and
    expect_fin. ts: TSval to be sent when time-stamps were agreed on, else None. Segments of the far
    side are taken in the order in which they come.
    """

    def __init__(self, wire: Wire, src: str, dst: str, sport: int, dport: int) -> None:
        self.wire, self.src, self.dst, self.sport, self.dport = wire, src, dst, sport, dport
        self.iss = next(_isns) & MASK
        self.nxt = self.iss
        self.irs = self.rcv = 0
        self.win = 65535
        self.ts: int | None = None
        self.ts_recent = 0
        self.peer_syn: Packet | None = None

    # Out

    def send(
        self,
        flags: int = ACK,
        data: bytes = b"",
        *,
        at: int | None = None,
        ack: int | None = None,
        win: int | None = None,
        options: bytes | None = None,
        urg: int = 0,
        csum: int | None = None,
        words: int | None = None,
        tos: int = 0,
    ) -> None:
        """A segment at `at`, an absolute number; it is what moves nxt when that is not given."""
        seq = self.nxt if at is None else at
        if options is None:
            options = b"" if self.ts is None else stamp(self.ts, self.ts_recent)
        segment = tcp(
            self.src, self.dst, self.sport, self.dport, seq=seq,
            ack=(self.rcv if ack is None else ack) if flags & ACK else 0,
            flags=flags, win=self.win if win is None else win, urg=urg, options=options,
            data=data, csum=csum, words=words,
        )  # fmt: skip
        if ":" in self.src:
            self.wire.send(ip6(self.src, self.dst, TCP, segment))
        else:
            self.wire.send(ip4(self.src, self.dst, TCP, segment, df=True, tos=tos))
        if at is None and csum is None and words is None and not flags & RST:
            self.nxt = (self.nxt + len(data) + bool(flags & SYN) + bool(flags & FIN)) & MASK

    # In

    def ours(self, packet: Packet) -> bool:
        """A segment of this connection."""
        return (
            packet.proto == TCP
            and packet.src == self.dst
            and packet.dst == self.src
            and packet.ports == (self.dport, self.sport)
        )

    def expect(
        self,
        what: str,
        match: Callable[[Packet], bool] = lambda _: True,
        seconds: float = PATIENCE_SECONDS,
    ) -> Packet:
        """The first segment that fits."""
        found = self.wire.expect(lambda p: self.ours(p) and match(p), what, seconds)
        if found.ts and self.ts is not None:
            self.ts_recent = found.ts[0]
        return found

    def expect_ack(self, number: int | None = None, seconds: float = PATIENCE_SECONDS) -> Packet:
        """An acknowledgement of `number`, by default of all that was sent."""
        wanted = self.nxt if number is None else number & MASK
        return self.expect(
            f"ACK of {wanted}",
            lambda p: p.flags & (ACK | RST | SYN) == ACK and p.ack == wanted,
            seconds,
        )

    def expect_rst(self, seconds: float = PATIENCE_SECONDS) -> Packet:
        """A reset."""
        return self.expect("RST", lambda p: bool(p.flags & RST), seconds)

    def expect_data(self, size: int, seconds: float = 3.0, acknowledge: bool = True) -> bytes:
        """`size` octets in order, by any number of segments."""
        deadline, text = time.monotonic() + seconds, b""
        while len(text) < size:
            left = max(deadline - time.monotonic(), 0)
            packet = self.expect("data", lambda p: bool(p.data) and not p.flags & RST, left)
            skip = (self.rcv - packet.seq) & MASK
            if skip < len(packet.data):
                text += packet.data[skip:]
                self.rcv = (packet.seq + len(packet.data)) & MASK
            if packet.flags & FIN:
                self.wire.waiting.insert(0, packet)
            if acknowledge:
                self.send()
        return text

    def expect_fin(self, seconds: float = PATIENCE_SECONDS) -> Packet:
        """A FIN at the next number."""
        packet = self.expect("FIN", lambda p: bool(p.flags & FIN), seconds)
        end = (packet.seq + len(packet.data)) & MASK
        if end != self.rcv:
            raise CaseError(f"FIN at {end}, not at {self.rcv}")
        self.rcv = (self.rcv + 1) & MASK
        return packet

    def silence(self, what: str, seconds: float = QUIET_SECONDS, data_only: bool = False) -> None:
        """No segment of this connection for so long."""
        self.wire.silence(lambda p: self.ours(p) and (not data_only or bool(p.data)), what, seconds)

    def forget(self) -> None:
        """What has come until now is of no interest."""
        self.wire.all(self.ours, 0.03)

    # Whole exchanges

    def syn(self, options: bytes = b"", flags: int = SYN, win: int | None = None) -> None:
        """The first segment."""
        self.send(flags, options=options, win=win)

    def take_syn_ack(self, seconds: float = PATIENCE_SECONDS) -> Packet:
        """The answer to it."""
        packet = self.expect("SYN-ACK", lambda p: p.flags & (SYN | ACK) == SYN | ACK, seconds)
        if packet.ack != (self.iss + 1) & MASK:
            raise CaseError(f"SYN-ACK acknowledges {packet.ack}, not {self.iss + 1}")
        self.peer_syn = packet
        self.irs = packet.seq
        self.rcv = (self.irs + 1) & MASK
        return packet

    def open(
        self, options: bytes = b"", win: int = 65535, ts: int | None = None, isn: int | None = None
    ) -> Packet:
        """The handshake; `ts` offers time-stamps."""
        if isn is not None:
            self.iss = self.nxt = isn
        self.win = win
        if ts is not None:
            options += stamp(ts)
        self.syn(options)
        reply = self.take_syn_ack()
        if ts is not None:
            if reply.ts is None:
                raise CaseError("no time-stamps in the SYN-ACK (RFC 7323 3.2)")
            self.ts, self.ts_recent = ts, reply.ts[0]
        self.send()
        return reply

    def abort(self) -> None:
        """Leave nothing behind."""
        if self.rcv:
            self.send(RST | ACK)

    def push(self, data: bytes, server: socket.socket) -> None:
        """Data that arrives and is acknowledged."""
        self.send(ACK | PSH, data)
        got = b""
        while len(got) < len(data):
            piece = server.recv(65536)
            if not piece:
                raise CaseError("the far end saw the end of the stream")
            got += piece
        if got != data:
            raise CaseError(f"the far end read {got[:40]!r}")
        self.expect_ack()
