"""Segments <-> frames, and an oracle for frames of ours that shares no code with what built them.

A frame is Ethernet behind 12 bytes of virtio-net header, as on a TAP with IFF_VNET_HDR.
"""

from __future__ import annotations

import dataclasses
import struct

import dpkt

from harness.pkt import Segment

VNET_HLEN = 12
VNET_NEEDS_CSUM = 1
VNET_GSO_TCPV4 = 1
ETH_HLEN = 14
IP_HLEN = 20
TCP_CSUM_OFFSET = 16
IP_TCP = dpkt.ip.IP_PROTO_TCP

_VNET = struct.Struct("<BBHHHHH")  # flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, 0
_TS = struct.Struct("!BBBBII")


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


def checksum_holds(data: bytes) -> bool:
    """The ones' complement sum of all words is all ones (RFC 1071), so a multiple of 65535."""
    value = int.from_bytes(data + b"\0" * (len(data) % 2), "big")
    return value % 0xFFFF == 0 and value != 0


def pseudo_header(src: bytes, dst: bytes, proto: int, length: int) -> bytes:
    """What an upper-layer checksum covers beside the payload (RFC 9293 3.1)."""
    return src + dst + struct.pack("!HH", proto, length)


def partial_sum(pseudo: bytes) -> int:
    """What stands in the checksum's place while the link has yet to make it."""
    return int.from_bytes(pseudo, "big") % 0xFFFF or 0xFFFF


# Segments to frames


def options_of(segment: Segment) -> bytes:
    """The options, padded to whole words."""
    out = b""
    if segment.mss is not None:
        out += struct.pack("!BBH", 2, 4, segment.mss)
    if segment.sack_ok:
        out += b"\x04\x02"
    if segment.ts is not None:
        out += _TS.pack(1, 1, 8, 10, *segment.ts)
    if segment.wscale is not None:
        out += struct.pack("!BBB", 3, 3, segment.wscale)
    if segment.sack:
        out += struct.pack("!BB", 5, 2 + 8 * len(segment.sack))
        out += b"".join(struct.pack("!II", start, end) for start, end in segment.sack)
    out += segment.raw_options
    return out + b"\x01" * (-len(out) % 4)


def build_segment(segment: Segment) -> dpkt.tcp.TCP:
    """The segment, its checksum not yet set."""
    options = options_of(segment)
    return dpkt.tcp.TCP(
        sport=segment.src_port,
        dport=segment.dst_port,
        seq=segment.seq,
        ack=segment.ack,
        off=5 + len(options) // 4,
        flags=segment.flags,
        win=segment.win,
        urp=segment.urg,
        opts=options,
        data=segment.text,
    )


def build_ip(src: bytes, dst: bytes, proto: int, data: object) -> bytes:
    """An IPv4 datagram, with checksums."""
    ip = dpkt.ip.IP(src=src, dst=dst, p=proto, ttl=64, df=1, data=data)
    ip.len = len(ip)
    return bytes(ip)


def build_frame(src_mac: bytes, dst_mac: bytes, datagram: bytes, vnet: Vnet | None = None) -> bytes:
    """A frame that carries an IPv4 datagram."""
    return bytes(vnet or Vnet()) + dst_mac + src_mac + b"\x08\x00" + datagram


def train_header(segment: Segment) -> Vnet:
    """What announces a train of segments that the link has yet to cut."""
    hdr_len = ETH_HLEN + IP_HLEN + 20 + len(options_of(segment))
    return Vnet(
        VNET_NEEDS_CSUM, VNET_GSO_TCPV4, hdr_len, segment.gso, ETH_HLEN + IP_HLEN, TCP_CSUM_OFFSET
    )


# Frames to segments


def _options(tcp: dpkt.tcp.TCP, fields: dict[str, object]) -> None:
    for kind, data in dpkt.tcp.parse_opts(tcp.opts):
        if kind == dpkt.tcp.TCP_OPT_MSS:
            fields["mss"] = int.from_bytes(data, "big")
        elif kind == dpkt.tcp.TCP_OPT_WSCALE:
            fields["wscale"] = data[0]
        elif kind == dpkt.tcp.TCP_OPT_SACKOK:
            fields["sack_ok"] = True
        elif kind == dpkt.tcp.TCP_OPT_TIMESTAMP:
            fields["ts"] = struct.unpack("!II", data)
        elif kind == dpkt.tcp.TCP_OPT_SACK:
            numbers = struct.unpack(f"!{len(data) // 4}I", data)
            fields["sack"] = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        elif kind not in (dpkt.tcp.TCP_OPT_EOL, dpkt.tcp.TCP_OPT_NOP):
            raise AssertionError(f"an option of kind {kind}, which nobody agreed on")


def parse_segment(data: bytes, gso: int = 0) -> Segment:
    """A segment as it stands behind its IP header."""
    tcp = dpkt.tcp.TCP(data)
    fields: dict[str, object] = {}
    _options(tcp, fields)
    return Segment(
        src_port=tcp.sport,
        dst_port=tcp.dport,
        flags=tcp.flags,
        seq=tcp.seq,
        ack=tcp.ack,
        win=tcp.win,
        urg=tcp.urp,
        text=bytes(tcp.data),
        gso=gso,
        **fields,  # type: ignore[arg-type]
    )


def check_ip(frame: bytes) -> bytes:
    """The IPv4 datagram of a frame of ours, whose lengths and checksums hold."""
    vnet = Vnet.parse(frame)
    datagram = frame[VNET_HLEN + ETH_HLEN :]
    header, payload = datagram[:IP_HLEN], datagram[IP_HLEN:]
    assert header[0] == 0x45, "our IP headers have no options"
    assert int.from_bytes(header[2:4], "big") == len(datagram), "IP's total length"
    assert checksum_holds(header), "IP's checksum"
    proto = header[9]
    pseudo = pseudo_header(header[12:16], header[16:20], proto, len(payload))
    if vnet.flags & VNET_NEEDS_CSUM:
        assert vnet.csum_start == ETH_HLEN + IP_HLEN, "where the checksum begins"
        field = int.from_bytes(payload[vnet.csum_offset : vnet.csum_offset + 2], "big")
        assert field in (partial_sum(pseudo), partial_sum(pseudo) % 0xFFFF), "partial sum"
    elif proto == dpkt.ip.IP_PROTO_ICMP:
        assert checksum_holds(payload), "ICMP's checksum"
    elif proto == IP_TCP or payload[6:8] != b"\0\0":
        assert checksum_holds(pseudo + payload), "upper-layer checksum"
    if vnet.gso_size:
        assert vnet.flags & VNET_NEEDS_CSUM, "a train needs its checksums made"
        assert len(payload) > vnet.gso_size, "a train of one"
    return datagram
