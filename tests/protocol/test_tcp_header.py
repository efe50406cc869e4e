"""Headers that are none, and the notation against scapy's reading of the same bytes."""

from __future__ import annotations

import dataclasses

import pytest
from scapy.layers.inet import IP, TCP

from harness.ip import build_ip
from harness.net import GUEST, WORLD
from harness.peer import Peer
from harness.pkt import Segment, parse, render
from harness.tcp import Tcp
from harness.wire import build_segment, options_of, parse_segment
from slirp.core.stats import Drop

GOOD = bytes(build_segment(Segment(40000, 80, 0x02, 1, win=100, mss=1460)))


@pytest.mark.parametrize(
    "segment",
    [
        b"",
        GOOD[:19],
        GOOD[:12] + b"\x40" + GOOD[13:],  # offset below the header's own length
        GOOD[:12] + b"\xf0" + GOOD[13:],  # offset beyond the segment
    ],
)
def test_malformed_header(tcp: Tcp, segment: bytes) -> None:
    """RFC 9293 3.1: what is no header is dropped, and answered by nothing."""
    tcp.send_ip(WORLD, 6, segment)
    tcp.dropped(Drop.DROP_TCP_MALFORMED)
    assert tcp.stat("frames_to_guest") == 0


@pytest.mark.parametrize("segment", [b"\0\0" + GOOD[2:], GOOD[:2] + b"\0\0" + GOOD[4:]])
def test_port_zero_is_a_port(tcp: Tcp, segment: bytes) -> None:
    """RFC 9293 3.1 gives 0 no meaning: a router passes it, and the far host refuses it."""
    tcp.send_ip(WORLD, 6, build_segment(parse_segment(segment)))
    assert tcp.host.called("tcp_connect") == [(WORLD, int.from_bytes(segment[2:4], "big"))]


@pytest.mark.parametrize("at", [0, 5, 13, 20, 23])
def test_bad_checksum(tcp: Tcp, at: int) -> None:
    """RFC 9293 3.1 MUST-3: one bit is enough."""
    datagram = bytearray(build_ip(GUEST, WORLD, 6, build_segment(parse_segment(GOOD))))
    segment = datagram[20:]
    segment[at] ^= 1
    tcp.send_ip(WORLD, 6, bytes(segment))
    tcp.dropped(Drop.DROP_TCP_BAD_CHECKSUM)
    assert not tcp.host.called("tcp_connect")


@pytest.mark.parametrize(
    "notation",
    [
        "S 0:0(0) win 65535 <mss 1460,sackOK,TS val 7 ecr 0,wscale 7>",
        "S. 0:0(0) ack 1 win 1000 <mss 65495>",
        "P. 1:11(10) ack 1 win 0",
        "PU. 4000000000:4000000010(10) ack 3000000000 win 5 urg 3",
        ". 1:1(0) ack 1 win 9 <sack 100:200 300:400 500:600>",
        ". 1:1(0) ack 1 win 9 <TS val 4294967295 ecr 5,sack 100:200>",
        "R 5:5(0) win 0",
        "FEW. 5:5(0) ack 5 win 1",
    ],
)
def test_notation_is_what_scapy_reads(tcp: Tcp, notation: str) -> None:
    """The harness's frames by a second hand; and the notation comes back as it was."""
    peer = Peer(tcp, isn=0)
    segment = peer.segment(parse(notation), None, b"")
    datagram = build_ip(GUEST, WORLD, 6, build_segment(segment))
    read = IP(datagram)[TCP]
    options = dict(read.options)
    assert (read.seq, int(read.flags), read.window) == (segment.seq, segment.flags, segment.win)
    assert read.ack == segment.ack
    assert read.urgptr == segment.urg
    assert options.get("MSS") == segment.mss
    assert options.get("WScale") == segment.wscale
    assert options.get("Timestamp") == segment.ts
    assert ("SAckOK" in options) == segment.sack_ok
    assert tuple(options.get("SAck", ())) == tuple(sum(segment.sack, ()))
    assert bytes(read.payload) == segment.text
    again = parse_segment(datagram[20:])
    assert again == dataclasses.replace(segment)
    assert render(again, 0, 0) == notation
    assert len(options_of(again)) % 4 == 0


@pytest.mark.parametrize(
    "notation", ["", "X 1:1(0)", "P. 1:10(10) ack 1", "P. 1:2(1) ack", "S <mss>", "S <tfo>"]
)
def test_notation_refuses_nonsense(notation: str) -> None:
    """A slip of the pen in a test is an error, never another test."""
    with pytest.raises(ValueError, match=r".*"):
        parse(notation)
