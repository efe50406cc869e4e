"""TCP segments <-> bytes, by code that shares nothing with the stack. IP is in ip.py."""

from __future__ import annotations

import struct

import dpkt

from harness.ip import ETH_HLEN, IP6_HLEN, IP_HLEN, VNET_NEEDS_CSUM, Vnet
from harness.pkt import Segment

VNET_GSO_TCPV4 = 1
VNET_GSO_TCPV6 = 4
TCP_CSUM_OFFSET = 16

_TS = struct.Struct("!BBBBII")


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


def train_header(segment: Segment, v6: bool = False) -> Vnet:
    """What announces a train of segments that the link has yet to cut."""
    start = ETH_HLEN + (IP6_HLEN if v6 else IP_HLEN)
    hdr_len = start + 20 + len(options_of(segment))
    gso = VNET_GSO_TCPV6 if v6 else VNET_GSO_TCPV4
    return Vnet(VNET_NEEDS_CSUM, gso, hdr_len, segment.gso, start, TCP_CSUM_OFFSET)


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
