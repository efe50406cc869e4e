"""A guest that speaks in datagrams: ARP, ICMP and UDP on the link to the stack.

Every frame of the stack's waits in `inbox` until it is expected; before, it is held against what
any frame of ours must keep to, by code that shares nothing with what built it.
"""

from __future__ import annotations

import collections
import dataclasses
import struct
from typing import Any, Unpack

import dpkt

from harness.host import HostSocket
from harness.ip import (
    ETH_HLEN,
    IP6_HLEN,
    IP_HLEN,
    IP_ICMP6,
    VNET_HLEN,
    VNET_NEEDS_CSUM,
    Datagram,
    Vnet,
    build_frame,
    build_ip,
    partial_sum,
    pseudo_header,
)
from harness.net import (
    GATEWAY,
    GATEWAY6,
    GATEWAY_MAC,
    GUEST,
    GUEST6,
    GUEST_MAC,
    WORLD,
    Net,
    Settings,
    guest_of,
)

BROADCAST_MAC = b"\xff" * 6
ETH_IP = 0x0800
ETH_ARP = 0x0806
ETH_IP6 = 0x86DD
ALL_NODES6 = bytes.fromhex("ff02") + bytes(13) + b"\x01"
ICMP_UNREACHABLE = 3
ICMP_HLEN = 8
VNET_GSO_UDP_L4 = 5
UDP_CSUM_OFFSET = 6
PORT = 5000  # the guest's, unless a test says otherwise


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame of the stack's, taken apart."""

    vnet: Vnet
    dst_mac: bytes
    src_mac: bytes
    ethertype: int
    payload: bytes

    @classmethod
    def parse(cls, frame: bytes) -> Frame:
        """Take apart a frame with its virtio-net header."""
        dst_mac, src_mac, ethertype = struct.unpack_from("!6s6sH", frame, VNET_HLEN)
        return cls(Vnet.parse(frame), dst_mac, src_mac, ethertype, frame[VNET_HLEN + ETH_HLEN :])

    @property
    def arp(self) -> Any:
        """As dpkt.arp.ARP."""
        assert self.ethertype == ETH_ARP, self
        return dpkt.arp.ARP(self.payload)

    @property
    def ip(self) -> Any:
        """As dpkt.ip.IP, or dpkt.ip6.IP6."""
        assert self.ethertype in (ETH_IP, ETH_IP6), self
        return (dpkt.ip6.IP6 if self.v6 else dpkt.ip.IP)(self.payload)

    @property
    def v6(self) -> bool:
        """Of IPv6."""
        return self.ethertype == ETH_IP6

    @property
    def icmp6(self) -> bytes:
        """The ICMPv6 message."""
        datagram = Datagram.parse(self.payload)
        assert datagram.proto == IP_ICMP6, datagram
        return datagram.payload

    @property
    def udp(self) -> Any:
        """As dpkt.udp.UDP."""
        assert isinstance(self.ip.data, dpkt.udp.UDP), self.ip
        return self.ip.data

    @property
    def icmp(self) -> Any:
        """As dpkt.icmp.ICMP: `type`, `code`, and `data` by type."""
        assert isinstance(self.ip.data, dpkt.icmp.ICMP), self.ip
        return self.ip.data

    @property
    def quote(self) -> bytes:
        """What an ICMP error says it is about: an IP header and what followed it."""
        return self.payload[(IP6_HLEN if self.v6 else IP_HLEN) + ICMP_HLEN :]


# ---- what the guest sends


def ip_frame(
    dst: bytes,
    proto: int,
    payload: object,
    *,
    src: bytes = GUEST,
    src_mac: bytes = GUEST_MAC,
    dst_mac: bytes = GATEWAY_MAC,
    vnet: Vnet | None = None,
    opts: bytes = b"",
    **fields: int,
) -> bytes:
    """A frame that carries a datagram; `fields` and `opts` as dpkt.ip.IP has them, or IP6."""
    if len(dst) == 16:
        src = GUEST6 if src is GUEST else src
        return build_frame(src_mac, dst_mac, build_ip(src, dst, proto, payload, **fields), vnet)
    ip = dpkt.ip.IP(**{"src": src, "dst": dst, "p": proto, "ttl": 64, "data": payload} | fields)
    ip.opts = opts
    ip.hl = (IP_HLEN + len(opts)) // 4
    return bytes(vnet or Vnet()) + dst_mac + src_mac + struct.pack("!H", ETH_IP) + bytes(ip)


def udp_datagram(dport: int, data: bytes, sport: int = PORT) -> Any:
    """A UDP datagram whose checksum is made when it is put into an IP datagram."""
    udp = dpkt.udp.UDP(sport=sport, dport=dport, data=data)
    udp.ulen = len(udp)
    return udp


def udp_train(
    dst: bytes, dport: int, data: bytes, segment_bytes: int, sport: int = PORT, src: bytes = GUEST
) -> bytes:
    """A frame with a train of datagrams, checksums left to the link (virtio 1.2, 5.1.6.2)."""
    udp = udp_datagram(dport, data, sport)
    src = GUEST6 if len(dst) == 16 and src is GUEST else src
    pseudo = pseudo_header(src, dst, dpkt.ip.IP_PROTO_UDP, len(udp))
    udp.sum = partial_sum(pseudo) % 0xFFFF
    start = ETH_HLEN + (IP6_HLEN if len(dst) == 16 else IP_HLEN)
    vnet = Vnet(VNET_NEEDS_CSUM, VNET_GSO_UDP_L4, start + 8, segment_bytes, start, UDP_CSUM_OFFSET)
    return ip_frame(dst, dpkt.ip.IP_PROTO_UDP, udp, vnet=vnet)


def echo6(ident: int = 7, seq: int = 1, data: bytes = b"ping", icmp_type: int = 128) -> bytes:
    """An ICMPv6 echo request, or what looks like one; its checksum is made with the datagram."""
    return struct.pack("!BBHHH", icmp_type, 0, 0, ident, seq) + data


def echo(ident: int = 7, seq: int = 1, data: bytes = b"ping", icmp_type: int = 8) -> bytes:
    """An echo request, or whatever ICMP message that looks like one, with its checksum."""
    body = dpkt.icmp.ICMP.Echo(id=ident, seq=seq, data=data)
    return bytes(dpkt.icmp.ICMP(type=icmp_type, data=body))


class Lan(Net):
    """A Net whose guest speaks in datagrams."""

    def __init__(self, **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        self.inbox: collections.deque[Frame] = collections.deque()

    # ---- from the stack

    def _frame(self, frame: bytes) -> None:
        """The stack sends a frame. Called from inside it: what fails is kept for `check`."""
        try:
            parsed = Frame.parse(frame)
            self.log(f"stack {parsed}")
            assert parsed.src_mac == GATEWAY_MAC
            assert frame[10:VNET_HLEN] == b"\0\0", "num_buffers is not ours to fill"
            if parsed.ethertype == ETH_ARP:
                assert parsed.vnet == Vnet()
                is_question = parsed.arp.op == dpkt.arp.ARP_OP_REQUEST
                assert is_question or not parsed.dst_mac[0] & 1, "only questions are for all"
            else:
                whole = self._whole.take(frame)
                if whole is None:
                    return
                parsed = Frame.parse(whole)
                self._check_datagram(parsed)
            self.inbox.append(parsed)
        except Exception as failure:
            self.failures.append(failure)

    def _check_datagram(self, frame: Frame) -> None:
        ip = Datagram.parse(frame.payload)
        to_group = frame.v6 and (ip.dst == ALL_NODES6 or ip.payload[0] == 135)  # a solicitation
        assert to_group or not frame.dst_mac[0] & 1, "we have nothing to say to groups"
        if ip.proto == dpkt.ip.IP_PROTO_UDP:
            assert ip.payload[6:8] != b"\0\0", "RFC 1122 4.1.3.4: we always send a checksum"
            assert int.from_bytes(ip.payload[4:6], "big") == len(ip.payload)
            assert frame.vnet.csum_offset == UDP_CSUM_OFFSET * bool(frame.vnet.flags)
        if ip.proto == dpkt.ip.IP_PROTO_ICMP and ip.payload[0] != dpkt.icmp.ICMP_ECHOREPLY:
            assert frame.vnet == Vnet()
            assert len(frame.payload) <= 576, "RFC 1812 4.3.2.3"
        if ip.proto == IP_ICMP6 and ip.payload[0] < 128:
            assert len(frame.payload) <= 1280, "RFC 4443 2.4 (c)"

    # ---- to the stack

    def send(self, dst: bytes, proto: int, payload: object, **fields: Any) -> None:
        """The guest sends an IP datagram; `fields` as ip_frame has them."""
        self.send_frame(ip_frame(dst, proto, payload, **fields))

    def udp(
        self, dst: bytes, dport: int, data: bytes = b"query", *, sport: int = PORT, **fields: Any
    ) -> None:
        """The guest sends a UDP datagram."""
        self.send(dst, dpkt.ip.IP_PROTO_UDP, udp_datagram(dport, data, sport), **fields)

    def mapped(self, dst: bytes = WORLD, dport: int = 53, sport: int = PORT) -> HostSocket:
        """The host's socket of a mapping that the guest has opened."""
        self.udp(dst, dport, sport=sport)
        return self.host.newest

    def ping(
        self, dst: bytes, ident: int = 7, seq: int = 1, data: bytes = b"ping", **fields: Any
    ) -> None:
        """The guest sends an echo request."""
        if len(dst) == 16:
            self.send(dst, IP_ICMP6, echo6(ident, seq, data), **fields)
            return
        self.send(dst, dpkt.ip.IP_PROTO_ICMP, echo(ident, seq, data), **fields)

    def arp(
        self,
        target: bytes,
        *,
        sender: bytes = GUEST,
        mac: bytes = GUEST_MAC,
        operation: int = dpkt.arp.ARP_OP_REQUEST,
        dst_mac: bytes = BROADCAST_MAC,
        trailer: bytes = bytes(18),  # Ethernet's padding to 60 bytes
    ) -> None:
        """The guest asks for, or announces, an address."""
        arp = dpkt.arp.ARP(op=operation, sha=mac, spa=sender, tha=bytes(6), tpa=target)
        header = bytes(Vnet()) + dst_mac + mac + struct.pack("!H", ETH_ARP)
        self.send_frame(header + bytes(arp) + trailer)

    def forward(self, guest_port: int, guest: bytes = GUEST) -> HostSocket:
        """A UDP port of the host that leads to the guest."""
        socket = self.host.bound()
        self.stack.add_forward("udp", socket.fd, guest, guest_port)
        return socket

    # ---- what came

    def next(self) -> Frame:
        """The next frame of the stack's."""
        assert self.inbox, f"no frame came\n{self.transcript()}"
        return self.inbox.popleft()

    def expect_nothing(self) -> None:
        """Assert that nothing (more) has come."""
        assert not self.inbox, f"not expected: {list(self.inbox)}\n{self.transcript()}"

    def expect_udp(self, src: bytes, sport: int, data: bytes, dport: int = PORT) -> Frame:
        """Assert that the next frame is that datagram, or train, for the guest."""
        frame = self.next()
        assert (frame.dst_mac, frame.ip.src, frame.ip.dst) == (GUEST_MAC, src, GUEST)
        assert (frame.udp.sport, frame.udp.dport, frame.udp.data) == (sport, dport, data)
        return frame

    def expect_echo_reply(
        self, src: bytes, ident: int = 7, seq: int = 1, data: bytes = b"ping"
    ) -> Frame:
        """Assert that the next frame is that reply to the guest."""
        frame = self.next()
        assert (frame.dst_mac, frame.ip.src, frame.ip.dst) == (GUEST_MAC, src, guest_of(src))
        if frame.v6:
            assert (
                frame.icmp6[:2] + frame.icmp6[4:] == struct.pack("!BBHH", 129, 0, ident, seq) + data
            )
            return frame
        reply = frame.icmp
        assert (reply.type, reply.code) == (dpkt.icmp.ICMP_ECHOREPLY, 0)
        assert (reply.data.id, reply.data.seq, reply.data.data) == (ident, seq, data)
        return frame

    def expect_icmp_error(
        self, code: int, src: bytes = GATEWAY, icmp_type: int = ICMP_UNREACHABLE
    ) -> Any:
        """Assert that the next frame is that error, and give the datagram that it quotes."""
        frame = self.next()
        assert (frame.dst_mac, frame.ip.src, frame.ip.dst) == (GUEST_MAC, src, GUEST)
        assert (frame.icmp.type, frame.icmp.code) == (icmp_type, code)
        quote = dpkt.ip.IP(frame.quote[:IP_HLEN])
        assert dpkt.in_cksum(frame.quote[: quote.hl * 4]) == 0, "the quoted header's checksum"
        return dpkt.ip.IP(frame.quote)

    def expect_icmp6_error(
        self, icmp_type: int, code: int, src: bytes = GATEWAY6, guest: bytes = GUEST6
    ) -> tuple[int, Datagram]:
        """As expect_icmp_error, for IPv6; first the 32 bits before the quote (MTU, pointer)."""
        frame = self.next()
        assert (frame.dst_mac, frame.ip.src, frame.ip.dst) == (GUEST_MAC, src, guest)
        assert tuple(frame.icmp6[:2]) == (icmp_type, code)
        quote = frame.quote
        declared = IP6_HLEN + int.from_bytes(quote[4:6], "big")
        if declared > len(quote):
            quote = quote[:4] + struct.pack("!H", len(quote) - IP6_HLEN) + quote[6:]
        return int.from_bytes(frame.icmp6[4:8], "big"), Datagram.parse(quote)

    def settle(self) -> None:
        """As Net.settle; no frame was left unexpected either."""
        super().settle()
        self.expect_nothing()
