"""What the virtio-net header says of checksums and segmentation, both ways (virtio 1.2, 5.1.6)."""

from __future__ import annotations

import dataclasses
import errno
import struct
from collections.abc import Callable

import dpkt
import pytest
from scapy.layers.inet import IP

from harness.ip import (
    ETH_HLEN,
    IP_HLEN,
    VNET_HLEN,
    Vnet,
    checksum_holds,
    partial_sum,
    pseudo_header,
)
from harness.lan import PORT, Frame, Lan, echo, ip_frame, udp_datagram, udp_train
from harness.net import GATEWAY, GUEST, WORLD
from harness.pkt import parse
from harness.tcp import Tcp
from slirp.core.stats import Drop

CSUM, TSO4, TSO6, ECN, USO4, USO6 = 1, 2, 4, 8, 32, 64
OFFLOADS = [0, CSUM, CSUM | TSO4 | TSO6 | ECN, CSUM | TSO4 | TSO6 | ECN | USO4 | USO6]
NEEDS_CSUM, DATA_VALID = 1, 2
GSO_TCP4, GSO_UDP, GSO_TCP6, GSO_UDP_L4, GSO_ECN = 1, 3, 4, 5, 0x80
L4 = ETH_HLEN + IP_HLEN
TCP, UDP = dpkt.ip.IP_PROTO_TCP, dpkt.ip.IP_PROTO_UDP
MTU = 1500


def finished(frame: Frame) -> bytes:
    """The datagram with its checksum as whoever the offload leaves it to makes it: sum from
    csum_start to the end, the complement stored at csum_offset.
    """
    datagram = bytearray(frame.payload)
    if frame.vnet.flags & NEEDS_CSUM:
        start = frame.vnet.csum_start - ETH_HLEN
        at = start + frame.vnet.csum_offset
        datagram[at : at + 2] = struct.pack("!H", dpkt.in_cksum(bytes(datagram[start:])))
    return bytes(datagram)


def agrees_with_scapy(datagram: bytes) -> bool:
    """Scapy, told to make all checksums and lengths anew, makes the same bytes."""
    packet = IP(datagram)
    for layer in (packet, packet.payload):
        for field in ("chksum", "len", "ihl", "dataofs"):
            if field in layer.fields:
                delattr(layer, field)
    return bytes(packet) == datagram


def frames_of_every_kind(lan: Lan) -> list[Frame]:
    """Replies, errors, datagrams, trains, and what TCP says when it opens, refuses and sends."""
    for size in (0, 1, 31, 32, MTU - 28, 4000):
        lan.ping(GATEWAY, data=b"\xa5" * size)
    lan.send(WORLD, 132, b"SCTP")
    lan.udp(WORLD, 53)
    socket = lan.host.newest
    for size in (0, 1, 2, 3, 1471, 1472, 9000):
        socket.datagram(WORLD, 53, b"\x5a" * size)
    socket.datagram(WORLD, 53, b"train" * 1000, 1111)
    socket.report(errno.ECONNREFUSED, 3, 3, WORLD, 53)
    lan.send(WORLD, TCP, dpkt.tcp.TCP(sport=40000, dport=80, seq=1, flags=dpkt.tcp.TH_ACK))
    lan.send(WORLD, TCP, dpkt.tcp.TCP(sport=40001, dport=80, seq=1, flags=dpkt.tcp.TH_SYN))
    lan.host.newest.connected()
    iss = lan.inbox[-1].ip.data.seq
    lan.send(
        WORLD,
        TCP,
        dpkt.tcp.TCP(sport=40001, dport=80, seq=2, ack=iss + 1, win=65535, flags=dpkt.tcp.TH_ACK),
    )
    lan.host.newest.feed(b"odd" * 1111)
    frames = list(lan.inbox)
    lan.inbox.clear()
    lan.dropped(Drop.DROP_IP4_PROTO_UNKNOWN, Drop.DROP_TCP_NO_CONNECTION)
    return frames


@pytest.mark.parametrize("offload", OFFLOADS)
def test_every_checksum_of_ours(make_lan: Callable[..., Lan], offload: int) -> None:
    """Complete, or so that whoever the offload leaves it to completes it rightly."""
    frames = frames_of_every_kind(make_lan(offload=offload))
    assert {frame.payload[9] for frame in frames} == {1, TCP, UDP}
    for frame in frames:
        datagram = finished(frame)
        proto, payload = datagram[9], datagram[IP_HLEN:]
        assert checksum_holds(datagram[:IP_HLEN])
        if proto == 1:
            assert checksum_holds(payload)
        else:
            assert checksum_holds(pseudo_header(WORLD, GUEST, proto, len(payload)) + payload)
        if not frame.vnet.gso_size:
            assert agrees_with_scapy(datagram)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_nothing_is_asked_of_a_guest_that_it_did_not_offer(
    make_lan: Callable[..., Lan], offload: int
) -> None:
    for frame in frames_of_every_kind(make_lan(offload=offload)):
        proto = frame.payload[9]
        whole = len(frame.payload) <= MTU or frame.vnet.gso_size
        assert bool(frame.vnet.flags) == bool(offload & CSUM and proto != 1 and whole)
        allowed = {0, GSO_TCP4 * bool(offload & TSO4), GSO_UDP_L4 * bool(offload & USO4)}
        assert frame.vnet.gso_type in allowed
        assert bool(frame.vnet.gso_size) == bool(frame.vnet.gso_type)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_text_of_the_host_is_whole(make_lan: Callable[..., Lan], offload: int) -> None:
    frames = [f for f in frames_of_every_kind(make_lan(offload=offload)) if f.payload[9] == TCP]
    segments = sorted((f.ip.data.seq, bytes(f.ip.data.data)) for f in frames if f.ip.data.data)
    assert b"".join(text for _, text in segments) == b"odd" * 1111
    assert len(segments) == (1 if offload & TSO4 else 7)  # an MSS of 536: the SYN named none


# ---- checksums of the guest's


def udp_frame(total: int, vnet: Vnet) -> bytes:
    """A UDP datagram with that checksum."""
    udp = udp_datagram(53, b"query")
    udp.sum = total
    return ip_frame(WORLD, UDP, bytes(udp), vnet=vnet)


def tcp_frame(total: int, vnet: Vnet) -> bytes:
    """A SYN with that checksum."""
    syn = dpkt.tcp.TCP(sport=PORT, dport=80, flags=dpkt.tcp.TH_SYN, sum=total)
    return ip_frame(WORLD, TCP, bytes(syn), vnet=vnet)


def icmp_frame(total: int, vnet: Vnet) -> bytes:
    """An echo request with that checksum."""
    message = bytearray(echo())
    message[2:4] = struct.pack("!H", total)
    return ip_frame(WORLD, 1, bytes(message), vnet=vnet)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A protocol: its frames, where its checksum is, and what becomes of a wrong one."""

    frame: Callable[[int, Vnet], bytes]
    offset: int
    drop: Drop


KINDS = {
    "udp": Kind(udp_frame, 6, Drop.DROP_UDP_BAD_CHECKSUM),
    "tcp": Kind(tcp_frame, 16, Drop.DROP_TCP_BAD_CHECKSUM),
    "icmp": Kind(icmp_frame, 2, Drop.DROP_ICMP_BAD_CHECKSUM),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_wrong_and_not_vouched_for(lan: Lan, kind: Kind) -> None:
    lan.send_frame(kind.frame(0xDEAD, Vnet()))
    lan.dropped(kind.drop)
    assert not lan.host.calls


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_vouched_for_as_verified(lan: Lan, kind: Kind) -> None:
    """VIRTIO_NET_HDR_F_DATA_VALID."""
    lan.send_frame(kind.frame(0xDEAD, Vnet(DATA_VALID)))
    assert lan.host.newest


@pytest.mark.parametrize("name", ["udp", "tcp"])
def test_left_to_be_finished(lan: Lan, name: str) -> None:
    """VIRTIO_NET_HDR_F_NEEDS_CSUM: between guest and us no wire can damage it."""
    kind = KINDS[name]
    lan.send_frame(kind.frame(0x1234, Vnet(NEEDS_CSUM, csum_start=L4, csum_offset=kind.offset)))
    assert lan.host.newest


def test_icmp_left_to_be_finished(lan: Lan) -> None:
    """Unheard of, but the same rule: zero is the sum of no pseudo-header."""
    lan.send_frame(icmp_frame(0, Vnet(NEEDS_CSUM, csum_start=L4, csum_offset=2)))
    assert lan.host.newest.sent[0].data == echo()


@pytest.mark.parametrize("outer_checksum", [False, True])
@pytest.mark.parametrize("padding", [b"", bytes(20)])
def test_inner_checksum_left_to_be_finished(lan: Lan, outer_checksum: bool, padding: bytes) -> None:
    """A tunnel of the guest's (VXLAN, say) leaves us the checksum of the packet inside: it goes out
    finished, and the outer one is held against the finished whole (RFC 7348, Linux's local checksum
    offload).
    """
    inner = udp_datagram(7, b"inside!", sport=8)
    inner_pseudo = pseudo_header(GUEST, WORLD, UDP, len(inner))
    partial, complete = dpkt.udp.UDP(bytes(inner)), dpkt.udp.UDP(bytes(inner))
    partial.sum = partial_sum(inner_pseudo) % 0xFFFF
    complete.sum = dpkt.in_cksum(inner_pseudo + bytes(inner))
    shim = b"VXLAN---"
    outer = udp_datagram(4789, shim + bytes(complete))
    pseudo = pseudo_header(GUEST, WORLD, UDP, len(outer))
    total = dpkt.in_cksum(pseudo + bytes(outer)) if outer_checksum else 0
    outer.data, outer.sum = shim + bytes(partial), total
    vnet = Vnet(NEEDS_CSUM, csum_start=L4 + 8 + len(shim), csum_offset=6)
    lan.send_frame(ip_frame(WORLD, UDP, bytes(outer), vnet=vnet) + padding)
    assert lan.host.newest.sent[0].data == shim + bytes(complete)


def test_inner_checksum_of_zero_is_all_ones(lan: Lan) -> None:
    """RFC 768, inside as outside: zero would mean that there is none."""
    inner = udp_datagram(7, b"", sport=8)
    inner.sum = 0xFFFF ^ (7 + 8 + 8)  # so that the whole sums to all ones, its complement to zero
    vnet = Vnet(NEEDS_CSUM, csum_start=L4 + 8, csum_offset=6)
    lan.send_frame(ip_frame(WORLD, UDP, bytes(udp_datagram(4789, bytes(inner))), vnet=vnet))
    assert lan.host.newest.sent[0].data[6:8] == b"\xff\xff"


def test_outer_checksum_beside_an_unfinished_inner_one_is_verified(lan: Lan) -> None:
    outer = udp_datagram(4789, bytes(20))
    outer.sum = 0xDEAD
    vnet = Vnet(NEEDS_CSUM, csum_start=L4 + 8, csum_offset=6)
    lan.send_frame(ip_frame(WORLD, UDP, bytes(outer), vnet=vnet))
    lan.dropped(Drop.DROP_UDP_BAD_CHECKSUM)


@pytest.mark.parametrize(
    ("csum_start", "csum_offset"),
    [
        (0, 0),
        (0, 6),
        (ETH_HLEN, 10),  # IP's own is never left
        (L4 - 1, 6),
        (L4, 12),  # one byte of the field lies beyond
        (L4 + 12, 0),
        (L4 + 13, 0),
        (L4, 0xFFFF),
        (0xFFFF, 0),
        (0xFFFF, 0xFFFF),
    ],
)
def test_field_that_is_not_in_the_datagram(lan: Lan, csum_start: int, csum_offset: int) -> None:
    """13 bytes of UDP: what is to be summed and where it is put has to lie in them."""
    vnet = Vnet(NEEDS_CSUM, csum_start=csum_start, csum_offset=csum_offset)
    lan.send_frame(udp_frame(0, vnet))
    lan.dropped(Drop.DROP_VNET_MALFORMED)


# ---- trains of the guest's


@pytest.mark.parametrize("ecn", [0, GSO_ECN])
def test_train_of_segments_goes_to_the_host_whole(make_tcp: Callable[..., Tcp], ecn: int) -> None:
    """TSO: one frame, one send(), whatever the MTU."""
    tcp = make_tcp(offload=OFFLOADS[-1])
    g = tcp.established()
    train = g.segment(parse("P. 1:40001(40000) ack 1 <gso 1448>"), None, b"")
    frame = bytearray(g.frame(train))
    frame[1] |= ecn
    g.conduct.guest_sent(train)
    tcp.send_frame(bytes(frame))
    assert tcp.host.called("tcp_send") == [(g.fd, 40000)]
    assert g.socket.received == train.text
    g.expect(". 1:1(0) ack 40001")


@pytest.mark.parametrize(
    "vnet",
    [
        Vnet(NEEDS_CSUM, GSO_TCP4, 42, 100, L4, 6),
        Vnet(NEEDS_CSUM, GSO_TCP6, 42, 100, L4, 6),
        Vnet(NEEDS_CSUM, GSO_UDP, 42, 100, L4, 6),  # UFO: fragments, never offered
        Vnet(NEEDS_CSUM, 2, 42, 100, L4, 6),
        Vnet(NEEDS_CSUM, 6, 42, 100, L4, 6),
        Vnet(NEEDS_CSUM, 0x7F, 42, 100, L4, 6),
        Vnet(NEEDS_CSUM, GSO_UDP_L4, 42, 0, L4, 6),  # a train of segments without size
        Vnet(NEEDS_CSUM, GSO_UDP_L4, 42, 100, L4 + 8, 2),  # in a tunnel: never offered
    ],
)
def test_train_that_contradicts_its_frame(lan: Lan, vnet: Vnet) -> None:
    lan.send_frame(ip_frame(WORLD, UDP, bytes(udp_datagram(53, bytes(300))), vnet=vnet))
    lan.dropped(Drop.DROP_VNET_MALFORMED)


@pytest.mark.parametrize("gso_type", [GSO_TCP6, GSO_UDP, GSO_UDP_L4])
def test_train_of_segments_that_contradicts_its_frame(lan: Lan, gso_type: int) -> None:
    vnet = Vnet(NEEDS_CSUM, gso_type, 54, 1448, L4, 16)
    lan.send_frame(tcp_frame(0, vnet))
    lan.dropped(Drop.DROP_VNET_MALFORMED)


def test_train_in_a_frame_of_no_datagram(lan: Lan) -> None:
    """Where nothing is to be cut, the header has no say."""
    frame = bytearray(udp_train(WORLD, 53, bytes(300), 100))
    frame[VNET_HLEN + 12 : VNET_HLEN + 14] = b"\x86\xdd"
    lan.send_frame(bytes(frame))
    lan.dropped(Drop.DROP_IP6_MALFORMED)


def test_train_whose_checksum_is_whole(lan: Lan) -> None:
    """Not left to be finished, so verified as any other."""
    udp = udp_datagram(53, bytes(300))
    vnet = Vnet(0, GSO_UDP_L4, L4 + 8, 100)
    lan.send_frame(ip_frame(WORLD, UDP, udp, vnet=vnet))
    assert lan.host.newest.sent[0].segment_bytes == 100
    udp.sum = 0xDEAD
    lan.send_frame(ip_frame(WORLD, UDP, bytes(udp), vnet=vnet))
    lan.dropped(Drop.DROP_UDP_BAD_CHECKSUM)
