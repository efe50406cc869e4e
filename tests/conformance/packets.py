"""Frames built field by field, so that any field can lie, and frames taken apart and checked."""

from __future__ import annotations

import dataclasses
import ipaddress
import struct
from functools import cached_property

ETH_IP, ETH_ARP, ETH_IP6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP, FRAGMENT, ICMP6 = 1, 6, 17, 44, 58
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
BROADCAST = b"\xff" * 6


def packed(address: str) -> bytes:
    """4 or 16 octets of an address in text."""
    return ipaddress.ip_address(address).packed


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = int.from_bytes(data + b"\0" * (len(data) % 2), "big")
    return ~(total % 0xFFFF or (0xFFFF if total else 0)) & 0xFFFF


def pseudo(src: str, dst: str, proto: int, length: int) -> bytes:
    """What an upper-layer checksum covers beside the payload."""
    return packed(src) + packed(dst) + struct.pack("!II", length, proto)


def eth(payload: bytes, dst: bytes, src: bytes, kind: int = ETH_IP) -> bytes:
    """A frame."""
    return dst + src + struct.pack("!H", kind) + payload


def ip4(
    src: str,
    dst: str,
    proto: int,
    payload: bytes,
    *,
    ttl: int = 64,
    tos: int = 0,
    ident: int = 0x1234,
    df: bool = False,
    more: bool = False,
    offset: int = 0,
    options: bytes = b"",
    version: int = 4,
    words: int | None = None,
    total: int | None = None,
    csum: int | None = None,
    evil: bool = False,
) -> bytes:
    """A datagram; `offset` in octets; `words`, `total` and `csum` replace the true ones."""
    options += b"\0" * (-len(options) % 4)
    length = 20 + len(options)
    header = struct.pack(
        "!BBHHHBBH4s4s",
        version << 4 | (length // 4 if words is None else words),
        tos,
        length + len(payload) if total is None else total,
        ident,
        evil << 15 | df << 14 | more << 13 | offset // 8,
        ttl,
        proto,
        0,
        packed(src),
        packed(dst),
    )
    header += options
    right = checksum(header)
    return header[:10] + struct.pack("!H", right if csum is None else csum) + header[12:] + payload


def ip6(
    src: str, dst: str, proto: int, payload: bytes, *, hops: int = 64, length: int | None = None
) -> bytes:
    """A datagram of IPv6."""
    header = struct.pack("!IHBB", 6 << 28, len(payload) if length is None else length, proto, hops)
    return header + packed(src) + packed(dst) + payload


def tcp(
    src: str,
    dst: str,
    sport: int,
    dport: int,
    *,
    seq: int = 0,
    ack: int = 0,
    flags: int = SYN,
    win: int = 65535,
    urg: int = 0,
    options: bytes = b"",
    data: bytes = b"",
    words: int | None = None,
    csum: int | None = None,
    reserved: int = 0,
) -> bytes:
    """A segment; `words` and `csum` replace the true ones."""
    options += b"\x01" * (-len(options) % 4)
    offset = 5 + len(options) // 4 if words is None else words
    segment = struct.pack(
        "!HHIIBBHHH", sport, dport, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, offset << 4 | reserved,
        flags, win, 0, urg,
    ) + options + data  # fmt: skip
    right = checksum(pseudo(src, dst, TCP, len(segment)) + segment)
    return segment[:16] + struct.pack("!H", right if csum is None else csum) + segment[18:]


def udp(
    src: str,
    dst: str,
    sport: int,
    dport: int,
    data: bytes = b"",
    *,
    length: int | None = None,
    csum: int | None = None,
) -> bytes:
    """A datagram; `length` and `csum` replace the true ones."""
    size = 8 + len(data) if length is None else length
    head = struct.pack("!HHHH", sport, dport, size, 0)
    right = checksum(pseudo(src, dst, UDP, 8 + len(data)) + head + data) or 0xFFFF
    return head[:6] + struct.pack("!H", right if csum is None else csum) + data


def icmp(kind: int, code: int, rest: bytes, data: bytes = b"", csum: int | None = None) -> bytes:
    """A message of ICMP."""
    body = struct.pack("!BBH", kind, code, 0) + rest + data
    right = checksum(body) if csum is None else csum
    return body[:2] + struct.pack("!H", right) + body[4:]


def icmp6(src: str, dst: str, kind: int, code: int, body: bytes, csum: int | None = None) -> bytes:
    """A message of ICMPv6; `body` is all behind the checksum."""
    message = struct.pack("!BBH", kind, code, 0) + body
    right = checksum(pseudo(src, dst, ICMP6, len(message)) + message)
    return message[:2] + struct.pack("!H", right if csum is None else csum) + message[4:]


def echo(ident: int, number: int, data: bytes = b"ping") -> bytes:
    """An echo request of ICMP."""
    return icmp(8, 0, struct.pack("!HH", ident, number), data)


def arp(
    sender_mac: bytes,
    sender: str,
    target: str,
    *,
    operation: int = 1,
    target_mac: bytes = bytes(6),
    hardware: int = 1,
    protocol: int = ETH_IP,
    sizes: tuple[int, int] = (6, 4),
) -> bytes:
    """ARP for Ethernet and IPv4, or what claims to be."""
    head = struct.pack("!HHBBH", hardware, protocol, *sizes, operation)
    return head + sender_mac + packed(sender) + target_mac + packed(target)


def dns_query(name: str, ident: int, kind: int = 1, edns: int = 0) -> bytes:
    """A query, with an OPT record that offers `edns` octets when that is not 0."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    question = labels + struct.pack("!BHH", 0, kind, 1)
    extra = struct.pack("!BHHIH", 0, 41, edns, 0, 0) if edns else b""
    return struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, bool(edns)) + question + extra


@dataclasses.dataclass(frozen=True)
class Packet:
    """A frame from the daemon. Lengths and checksums are judged by `faults`."""

    frame: bytes

    @cached_property
    def kind(self) -> int:
        """EtherType."""
        return int.from_bytes(self.frame[12:14], "big")

    @cached_property
    def l3(self) -> bytes:
        """Behind Ethernet, without padding."""
        data = self.frame[14:]
        if self.kind == ETH_IP:
            return data[: int.from_bytes(data[2:4], "big")]
        if self.kind == ETH_IP6:
            return data[: 40 + int.from_bytes(data[4:6], "big")]
        return data

    @cached_property
    def src(self) -> str:
        """IP's source address, or ""."""
        return self._address(12, 8)

    @cached_property
    def dst(self) -> str:
        """IP's destination address, or ""."""
        return self._address(16, 24)

    def _address(self, at4: int, at6: int) -> str:
        if self.kind == ETH_IP:
            return str(ipaddress.ip_address(self.l3[at4 : at4 + 4]))
        return str(ipaddress.ip_address(self.l3[at6 : at6 + 16])) if self.kind == ETH_IP6 else ""

    @cached_property
    def proto(self) -> int:
        """IP's protocol; -1 when it is no datagram."""
        return {ETH_IP: self.l3[9], ETH_IP6: self.l3[6]}.get(self.kind, -1)

    @cached_property
    def ttl(self) -> int:
        """TTL or hop limit."""
        return self.l3[8] if self.kind == ETH_IP else self.l3[7]

    @cached_property
    def l4(self) -> bytes:
        """Behind the IP header."""
        return self.l3[(self.l3[0] & 15) * 4 :] if self.kind == ETH_IP else self.l3[40:]

    @cached_property
    def fragment(self) -> tuple[int, bool]:
        """Offset in octets, and whether more follow."""
        word = int.from_bytes(self.l3[6:8], "big")
        return ((word & 0x1FFF) * 8, bool(word & 0x2000)) if self.kind == ETH_IP else (0, False)

    @cached_property
    def ports(self) -> tuple[int, int]:
        """Source and destination of UDP or TCP."""
        source, dest = struct.unpack_from("!HH", self.l4)
        return source, dest

    @cached_property
    def seq(self) -> int:
        """SEG.SEQ."""
        return int.from_bytes(self.l4[4:8], "big")

    @cached_property
    def ack(self) -> int:
        """SEG.ACK."""
        return int.from_bytes(self.l4[8:12], "big")

    @cached_property
    def flags(self) -> int:
        """The flags of a segment."""
        return self.l4[13]

    @cached_property
    def win(self) -> int:
        """The window field as it stands."""
        return int.from_bytes(self.l4[14:16], "big")

    @cached_property
    def data(self) -> bytes:
        """Payload of TCP or UDP."""
        return self.l4[8:] if self.proto == UDP else self.l4[(self.l4[12] >> 4) * 4 :]

    @cached_property
    def options(self) -> dict[int, bytes]:
        """TCP's options by kind."""
        raw, found, at = self.l4[20 : (self.l4[12] >> 4) * 4], {}, 0
        while at < len(raw) and raw[at]:
            if raw[at] == 1:
                at += 1
                continue
            length = raw[at + 1] if at + 1 < len(raw) else 0
            if length < 2:
                break
            found[raw[at]] = raw[at + 2 : at + length]
            at += length
        return found

    @cached_property
    def sack(self) -> list[tuple[int, int]]:
        """The SACK blocks in their order."""
        raw = self.options.get(5, b"")
        numbers = struct.unpack_from(f"!{len(raw) // 8 * 2}I", raw)
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    @cached_property
    def ts(self) -> tuple[int, int] | None:
        """TSval and TSecr."""
        if len(self.options.get(8, b"")) != 8:
            return None
        value, reply = struct.unpack("!II", self.options[8])
        return value, reply

    def faults(self) -> str:
        """What is wrong with lengths and checksums; nothing is "" (fragments: header only)."""
        if self.kind == ETH_IP:
            if len(self.l3) < 20 or len(self.l3) != int.from_bytes(self.l3[2:4], "big"):
                return "IPv4 length"
            if checksum(self.l3[: (self.l3[0] & 15) * 4]):
                return "IPv4 checksum"
            if self.fragment != (0, False):
                return ""
        if self.kind not in (ETH_IP, ETH_IP6) or self.proto == FRAGMENT:
            return ""
        body = self.l4
        if self.proto == ICMP:
            return "ICMP checksum" if checksum(body) else ""
        if self.proto == UDP and self.kind == ETH_IP and body[6:8] == b"\0\0":
            return ""
        if self.proto in (TCP, UDP, ICMP6):
            covered = pseudo(self.src, self.dst, self.proto, len(body)) + body
            return f"checksum of protocol {self.proto}" if checksum(covered) else ""
        return ""

    def __str__(self) -> str:
        if self.kind == ETH_ARP:
            return f"ARP {self.l3.hex()}"
        if self.kind not in (ETH_IP, ETH_IP6):
            return f"frame of kind {self.kind:#x}"
        where = f"{self.src} > {self.dst}"
        if self.proto == TCP and self.fragment[0] == 0:
            letters = "".join(x for bit, x in enumerate("FSRPAUEC") if self.flags >> bit & 1)
            text = f"TCP {self.ports} {letters} seq {self.seq} ack {self.ack} win {self.win}"
            return f"{where} {text} {len(self.data)} octets {self.options}"
        return f"{where} protocol {self.proto} {self.fragment} {self.l4[:40].hex()}"
