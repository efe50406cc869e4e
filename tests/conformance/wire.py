"""Frames out of, and into, the guest's end of the link; what is awaited, and for how long."""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable

from conformance.packets import (
    BROADCAST,
    ETH_ARP,
    ETH_IP6,
    ICMP6,
    Packet,
    arp,
    eth,
    icmp6,
    ip6,
    packed,
)

ETH_P_ALL = 3
PACKET_OUTGOING = 4
SOL_PACKET, PACKET_IGNORE_OUTGOING = 263, 23
PATIENCE_SECONDS = 1.5
QUIET_SECONDS = 0.25
Match = Callable[[Packet], bool]


class CaseError(AssertionError):
    """The other side did not do as the case demands."""


class Wire:
    """A packet socket on the guest's interface.

    Who-has for the guest's addresses is answered by the way, unless `mute`.
    """

    def __init__(self, interface: str, mac: bytes, guest: str, guest6: str) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self.socket.bind((interface, ETH_P_ALL))
        self.mac, self.guest, self.guest6 = mac, guest, guest6
        self.gateway_mac = BROADCAST
        self.mute = False
        self.waiting: list[Packet] = []
        self.log: list[tuple[float, str, bytes]] = []
        self.started = time.monotonic()

    def close(self) -> None:
        """Give the socket back."""
        self.socket.close()

    def begin(self) -> None:
        """Forget what has come: another case begins."""
        self._read(0)
        self.waiting.clear()
        self.log.clear()
        self.mute = False
        self.started = time.monotonic()

    def story(self, last: int = 40) -> list[str]:
        """The frames since the beginning, as a failure tells them."""
        return [
            f"{at - self.started:7.3f} {way} {Packet(frame) if len(frame) > 54 else frame.hex()}"
            for at, way, frame in self.log[-last:]
        ]

    def send(self, datagram: bytes, dst: bytes | None = None, kind: int | None = None) -> None:
        """A datagram to the gateway, or whatever `kind` it is to `dst`."""
        if kind is None:
            kind = ETH_IP6 if datagram[:1] and datagram[0] >> 4 == 6 else 0x0800
        self.raw(eth(datagram, dst or self.gateway_mac, self.mac, kind))

    def raw(self, frame: bytes) -> None:
        """A frame as it is."""
        self.log.append((time.monotonic(), ">", frame))
        self.socket.send(frame)

    def expect(self, match: Match, what: str, seconds: float = PATIENCE_SECONDS) -> Packet:
        """The first frame that fits, those that do not left for later."""
        deadline = time.monotonic() + seconds
        while True:
            for at, packet in enumerate(self.waiting):
                if match(packet):
                    del self.waiting[at]
                    fault = packet.faults()
                    if fault:
                        raise CaseError(f"{what}: wrong {fault} in {packet}")
                    return packet
            left = deadline - time.monotonic()
            if left <= 0:
                raise CaseError(f"no {what} within {seconds} s")
            self._read(left)

    def silence(self, match: Match, what: str, seconds: float = QUIET_SECONDS) -> None:
        """Nothing that fits comes for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._read(left)
        for packet in self.waiting:
            if match(packet):
                raise CaseError(f"{what}: {packet}")

    def all(self, match: Match, seconds: float = QUIET_SECONDS) -> list[Packet]:
        """Everything that fits and comes within that time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._read(left)
        found = [packet for packet in self.waiting if match(packet)]
        self.waiting = [packet for packet in self.waiting if not match(packet)]
        return found

    def _read(self, seconds: float) -> None:
        if not select.select([self.socket], [], [], max(seconds, 0))[0]:
            return
        while True:
            try:
                frame = self.socket.recv(1 << 17, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            packet = Packet(frame)
            self.log.append((time.monotonic(), "<", frame))
            if self.mute or not self._answered(packet):
                self.waiting.append(packet)

    def _answered(self, packet: Packet) -> bool:
        """It asked where the guest is."""
        if packet.kind == ETH_ARP and packet.l3[6:8] == b"\0\1":
            if packet.l3[24:28] != packed(self.guest):
                return False
            asker = packet.l3[8:14]
            sender = socket.inet_ntoa(packet.l3[14:18])
            reply = arp(self.mac, self.guest, sender, operation=2, target_mac=asker)
            self.raw(eth(reply, asker, self.mac, ETH_ARP))
            return True
        if packet.proto == ICMP6 and packet.l4[0] == 135:
            target = socket.inet_ntop(socket.AF_INET6, packet.l4[8:24])
            if target != self.guest6 or packet.src == "::":
                return False
            body = struct.pack("!I", 0x60000000) + packed(target) + b"\x02\x01" + self.mac
            message = icmp6(target, packet.src, 136, 0, body)
            self.send(ip6(target, packet.src, ICMP6, message, hops=255), packet.frame[6:12])
            return True
        return False
