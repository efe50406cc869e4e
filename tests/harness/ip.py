"""IP of both families, by code that shares nothing with the stack: parse, build, check, reassemble.

A frame is Ethernet behind 12 bytes of virtio-net header; a datagram is what follows Ethernet.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import dpkt

VNET_HLEN = 12
VNET_NEEDS_CSUM = 1
ETH_HLEN = 14
IP_HLEN = 20
IP6_HLEN = 40
FRAGMENT_HLEN = 8
IP_FRAGMENT = 44
IP_TCP = dpkt.ip.IP_PROTO_TCP
IP_ICMP6 = dpkt.ip.IP_PROTO_ICMP6

_VNET = struct.Struct("<BBHHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, 0


@dataclasses.dataclass(frozen=True, slots=True)
class Vnet:
    """A virtio-net header."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0

    def __bytes__(self) -> bytes:
        return _VNET.pack(*dataclasses.astuple(self), 0)

    @classmethod
    def parse(cls, frame: bytes) -> Vnet:
        """The header that `frame` begins with."""
        return cls(*_VNET.unpack_from(frame)[:6])


@dataclasses.dataclass(frozen=True)
class Datagram:
    """What an IP header says, and what follows it; a piece's payload is the piece."""

    v6: bool
    src: bytes
    dst: bytes
    proto: int
    payload: bytes
    header_bytes: int
    ident: int = 0
    offset: int = 0  # bytes
    more: bool = False

    @property
    def piece(self) -> bool:
        """Whether it is a fragment."""
        return self.more or self.offset > 0

    @classmethod
    def parse(cls, data: bytes) -> Datagram:
        """A datagram of ours, whose lengths and header checksum hold."""
        if data[0] >> 4 == 6:
            assert int.from_bytes(data[4:6], "big") == len(data) - IP6_HLEN, "payload length"
            proto, at, fragment, ident = data[6], IP6_HLEN, 0, 0
            if proto == IP_FRAGMENT:
                proto, fragment, ident = struct.unpack_from("!BxHI", data, at)
                at += FRAGMENT_HLEN
            assert not fragment & 6, "reserved bits"
            where = (ident, fragment & 0xFFF8, bool(fragment & 1))
            return cls(True, data[8:24], data[24:40], proto, data[at:], at, *where)
        assert data[0] == 0x45, "our IP headers have no options"
        assert int.from_bytes(data[2:4], "big") == len(data), "IP's total length"
        assert checksum_holds(data[:IP_HLEN]), "IP's checksum"
        ident, fragment = struct.unpack_from("!HH", data, 4)
        where = (ident, (fragment & 0x1FFF) * 8, bool(fragment & 0x2000))
        return cls(False, data[12:16], data[16:20], data[9], data[IP_HLEN:], IP_HLEN, *where)


def checksum_holds(data: bytes) -> bool:
    """The ones' complement sum of all words is all ones (RFC 1071), so a multiple of 65535."""
    value = int.from_bytes(data + b"\0" * (len(data) % 2), "big")
    return value % 0xFFFF == 0 and value != 0


def pseudo_header(src: bytes, dst: bytes, proto: int, length: int) -> bytes:
    """What an upper-layer checksum covers beside the payload (RFC 9293 3.1, RFC 8200 8.1)."""
    return src + dst + struct.pack("!II", length, proto)


def partial_sum(pseudo: bytes) -> int:
    """What stands in the checksum's place while the link has yet to make it."""
    return int.from_bytes(pseudo, "big") % 0xFFFF or 0xFFFF


def build_ip(src: bytes, dst: bytes, proto: int, data: object, **fields: Any) -> bytes:
    """A datagram, with checksums; `fields` as dpkt's IP or IP6 has them."""
    if len(dst) == 16:
        packed = bytes(data)  # type: ignore[call-overload]
        fields = {"hlim": fields.pop("ttl", 64), "plen": len(packed), "nxt": proto} | fields
        return bytes(
            dpkt.ip6.IP6(src=src, dst=dst, data=_checksummed6(src, dst, proto, packed), **fields)
        )
    ip = dpkt.ip.IP(
        **{"src": src, "dst": dst, "p": proto, "ttl": 64, "df": 1, "data": data} | fields
    )
    ip.len = len(ip)
    return bytes(ip)


_CSUM_AT = {IP_TCP: 16, dpkt.ip.IP_PROTO_UDP: 6, IP_ICMP6: 2}


def _checksummed6(src: bytes, dst: bytes, proto: int, packed: bytes) -> bytes:
    """dpkt makes IPv6's upper-layer checksums for some protocols only: fill in a zero one."""
    at = _CSUM_AT.get(proto)
    if at is None or packed[at : at + 2] != b"\0\0":
        return packed
    total = dpkt.in_cksum(pseudo_header(src, dst, proto, len(packed)) + packed)
    return packed[:at] + struct.pack("!H", total or 0xFFFF) + packed[at + 2 :]


def build_frame(src_mac: bytes, dst_mac: bytes, datagram: bytes, vnet: Vnet | None = None) -> bytes:
    """A frame that carries a datagram."""
    ethertype = b"\x86\xdd" if datagram[:1] and datagram[0] >> 4 == 6 else b"\x08\x00"
    return bytes(vnet or Vnet()) + dst_mac + src_mac + ethertype + datagram


def check_upper(datagram: Datagram, vnet: Vnet) -> None:
    """The checksum of what a whole datagram of ours carries holds, or is left to the link."""
    payload, proto = datagram.payload, datagram.proto
    pseudo = pseudo_header(datagram.src, datagram.dst, proto, len(payload))
    if vnet.flags & VNET_NEEDS_CSUM:
        assert vnet.csum_start == ETH_HLEN + datagram.header_bytes, "where the checksum begins"
        field = int.from_bytes(payload[vnet.csum_offset : vnet.csum_offset + 2], "big")
        assert field in (partial_sum(pseudo), partial_sum(pseudo) % 0xFFFF), "partial sum"
    elif proto == dpkt.ip.IP_PROTO_ICMP:
        assert checksum_holds(payload), "ICMP's checksum"
    elif proto in (IP_TCP, IP_ICMP6) or payload[6:8] != b"\0\0":
        assert checksum_holds(pseudo + payload), "upper-layer checksum"
    if vnet.gso_size:
        assert vnet.flags & VNET_NEEDS_CSUM, "a train needs its checksums made"
        assert len(payload) > vnet.gso_size, "a train of one"


class Reassembler:
    """Puts the stack's fragments together again, and holds them to the MTU and the rules."""

    def __init__(self, mtu: int) -> None:
        self._mtu = mtu
        self._pieces: dict[tuple[object, ...], list[Datagram]] = {}

    def take(self, frame: bytes) -> bytes | None:
        """A frame with a whole datagram, checked; None while pieces are missing."""
        vnet = Vnet.parse(frame)
        data = frame[VNET_HLEN + ETH_HLEN :]
        datagram = Datagram.parse(data)
        assert vnet.gso_size or len(data) <= self._mtu, f"{len(data)} bytes over the MTU"
        if not datagram.piece:
            check_upper(datagram, vnet)
            return frame
        assert vnet == Vnet(), "a piece has nothing for the link to do"
        assert datagram.v6 or not data[6] & 0x40, "a piece that may not be cut"
        key = (datagram.src, datagram.dst, datagram.proto, datagram.ident)
        pieces = self._pieces.setdefault(key, [])
        assert datagram.offset == sum(len(piece.payload) for piece in pieces), "pieces in order"
        pieces.append(datagram)
        if datagram.more:
            assert not len(datagram.payload) % 8, "eights of bytes"
            return None
        return self._whole(frame, self._pieces.pop(key))

    @staticmethod
    def _whole(frame: bytes, pieces: list[Datagram]) -> bytes:
        last = pieces[-1]
        payload = b"".join(piece.payload for piece in pieces)
        check_upper(dataclasses.replace(last, payload=payload), Vnet())
        if last.v6:
            header = bytearray(frame[VNET_HLEN + ETH_HLEN :][:IP6_HLEN])
            header[4:7] = struct.pack("!HB", len(payload), last.proto)
        else:
            header = bytearray(frame[VNET_HLEN + ETH_HLEN :][:IP_HLEN])
            header[2:4] = struct.pack("!H", IP_HLEN + len(payload))
            header[6:8] = header[10:12] = b"\0\0"
            header[10:12] = struct.pack("!H", dpkt.in_cksum(bytes(header)))
        return frame[: VNET_HLEN + ETH_HLEN] + bytes(header) + payload


def cut(datagram: bytes, room: int, ident: int = 7) -> list[bytes]:
    """A datagram of the guest's in pieces of `room` bytes of payload, a multiple of eight."""
    v6 = datagram[0] >> 4 == 6
    hlen = IP6_HLEN if v6 else (datagram[0] & 15) * 4
    header, payload = bytearray(datagram[:hlen]), datagram[hlen:]
    pieces = []
    for at in range(0, max(len(payload), 1), room):
        more = at + room < len(payload)
        piece = payload[at : at + room]
        pieces.append(fragment(bytes(header), piece, at, more, ident))
    return pieces


def fragment(header: bytes, piece: bytes, at: int, more: bool, ident: int = 7) -> bytes:
    """One piece behind that IP header, made to say so."""
    out = bytearray(header)
    if header[0] >> 4 == 6:
        out[4:6] = struct.pack("!H", FRAGMENT_HLEN + len(piece))
        out[6] = IP_FRAGMENT
        return bytes(out) + struct.pack("!BxHI", header[6], at | more, ident) + piece
    out[2:4] = struct.pack("!H", len(out) + len(piece))
    out[4:8] = struct.pack("!HH", ident, at // 8 | more << 13)
    out[10:12] = b"\0\0"
    out[10:12] = struct.pack("!H", dpkt.in_cksum(bytes(out)))
    return bytes(out) + piece
