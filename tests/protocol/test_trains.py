"""Trains of datagrams (train.pxd): what follows one another and is alike travels as one."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from typing import Any

import dpkt
import pytest

from harness.host import Datagram
from harness.ip import Vnet
from harness.lan import PORT, Lan, echo, ip_frame, udp_datagram
from harness.net import GATEWAY, GUEST, GUEST_MAC, WORLD, WORLD6
from harness.wired import FRAME_MAX, IP_RECVTTL, Wired, peer, port_of
from slirp.core.stats import Drop

OTHER_WORLD = bytes((198, 51, 100, 7))
CLIENT = bytes((192, 0, 2, 200))
USO = 1 | 32  # TUN_F_CSUM, TUN_F_USO4
UDP_GRO = 104  # linux/udp.h
IP_AT, UDP_AT = 12 + 14, 12 + 14 + 20  # in a frame with its virtio header
UNVERIFIED, VERIFIED = Vnet(), Vnet(flags=2)  # VIRTIO_NET_HDR_F_DATA_VALID


# ---- host to guest


def enter(
    make_lan: Callable[..., Lan], offload: int, *waiting: Datagram, mtu: int = 1500
) -> list[tuple[bytes, int]]:
    """What the guest gets of what waits at a socket: each frame's payload and segment size."""
    lan = make_lan(offload=offload, mtu=mtu)
    *before, last = waiting
    lan.mapped().datagrams.extend(before)
    lan.host.newest.datagram(last.addr, last.port, last.data, last.segment_bytes)
    frames = [(frame.udp.data, frame.vnet.gso_size) for frame in lan.inbox]
    lan.inbox.clear()
    return frames


def block(size: int, fill: int = 0, port: int = 53, segment_bytes: int = 0) -> Datagram:
    return Datagram(WORLD, port, bytes((n * 7 + fill) & 0xFF for n in range(size)), segment_bytes)


def test_what_waits_enters_as_a_train(make_lan: Callable[..., Lan]) -> None:
    """Alike but for the last, which may be shorter and is the last then."""
    waiting = [block(1200, 1), block(1200, 2), block(700, 3), block(700, 4), block(700, 5)]
    whole = [b"".join(d.data for d in part) for part in (waiting[:3], waiting[3:])]
    assert enter(make_lan, USO, *waiting) == [(whole[0], 1200), (whole[1], 700)]


@pytest.mark.parametrize("dst", [WORLD, WORLD6])
@pytest.mark.parametrize("size", [1473, 2000, 9000])
def test_train_of_more_than_the_mtu_enters_in_fragments(
    make_lan: Callable[..., Lan], dst: bytes, size: int
) -> None:
    """Each datagram as it would alone; the harness reassembles, and holds pieces to the MTU."""
    lan = make_lan(offload=USO | 64)
    lan.mapped(dst)
    parts = [block(size, fill).data for fill in range(6)] + [block(10, 7).data]
    lan.host.newest.datagram(dst, 53, b"".join(parts), size)
    seen = [(frame.ip.data.data, frame.vnet.gso_size) for frame in lan.inbox]
    lan.inbox.clear()
    assert seen == [(part, 0) for part in parts]
    assert lan.stat("frags_sent") >= 6 * 2


@pytest.mark.parametrize(("dst", "size"), [(WORLD, 1472), (WORLD6, 1452)])
def test_train_of_just_the_mtu_enters_whole(
    make_lan: Callable[..., Lan], dst: bytes, size: int
) -> None:
    lan = make_lan(offload=USO | 64)
    lan.mapped(dst)
    lan.host.newest.datagram(dst, 53, bytes(3 * size), size)
    assert [frame.vnet.gso_size for frame in lan.inbox] == [size]
    lan.inbox.clear()


def test_what_waits_enters_one_by_one_elsewhere(make_lan: Callable[..., Lan]) -> None:
    waiting = [block(1200, 1), block(1200, 2), block(700, 3)]
    assert enter(make_lan, 1, *waiting) == [(d.data, 0) for d in waiting]


@pytest.mark.parametrize(
    "second",
    [
        block(101),
        block(0),
        block(100, port=54),
        Datagram(OTHER_WORLD, 53, bytes(100)),
        block(200, segment_bytes=100),
        Datagram(WORLD, 53, bytes(100), ttl=7),
        Datagram(WORLD, 53, bytes(100), tos=2),
    ],
)
def test_what_differs_enters_by_itself(make_lan: Callable[..., Lan], second: Datagram) -> None:
    lan = make_lan(offload=USO)
    lan.mapped().datagrams.append(block(100))
    lan.host.newest.datagrams.append(second)
    lan.host.newest.datagram(WORLD, 55, b"last")
    assert [frame.udp.data for frame in lan.inbox] == [block(100).data, second.data, b"last"]
    lan.inbox.clear()


def test_datagram_joins_a_train_of_the_hosts_kernel(make_lan: Callable[..., Lan]) -> None:
    frames = enter(make_lan, USO, block(200, 1, segment_bytes=100), block(60, 2))
    assert frames == [(block(200, 1).data + block(60, 2).data, 100)]


@pytest.mark.parametrize(("size", "per_train"), [(100, 44), (1488, 44), (1489, 43), (3000, 21)])
def test_trains_are_no_longer_than_a_datagram_may_be(
    make_lan: Callable[..., Lan], size: int, per_train: int
) -> None:
    """RFC 791: 65,535 bytes with all headers. Nothing is lost."""
    waiting = [block(size, n) for n in range(44)]
    frames = enter(make_lan, USO, *waiting, mtu=9000)
    assert len(frames[0][0]) == per_train * size
    assert b"".join(data for data, _ in frames) == b"".join(d.data for d in waiting)


def test_trains_that_wait_have_their_turns(make_lan: Callable[..., Lan]) -> None:
    """256 KiB of one socket for an event, so that it does not starve the others."""
    waiting = [block(60_000, n, segment_bytes=1200) for n in range(7)]
    assert [len(data) for data, _ in enter(make_lan, USO, *waiting)] == [60_000] * 5


def test_clients_of_a_port_have_trains_of_their_own(make_lan: Callable[..., Lan]) -> None:
    lan = make_lan(offload=USO)
    forward = lan.forward(53)
    for port in (4000, 4000, 4001):
        forward.datagrams.append(Datagram(CLIENT, port, bytes(10)))
    forward.datagram(CLIENT, 4001, bytes(9))
    assert [(f.udp.sport, len(f.udp.data), f.vnet.gso_size) for f in lan.inbox] == [
        (4000, 20, 10),
        (4001, 19, 10),
    ]
    lan.inbox.clear()


# ---- guest to host


def sizes_of(bound: socket.socket, total: int) -> list[int]:
    """The lengths of the datagrams that come, until they are `total` octets together."""
    sizes: list[int] = []
    while sum(sizes) < total:
        sizes.append(len(bound.recv(FRAME_MAX)))
    return sizes


@pytest.mark.parametrize(
    ("sizes", "calls"),
    [
        ([300], [300]),
        ([300, 300, 300], [900]),
        ([300, 300, 20, 300], [620, 300]),
        ([20, 300, 300], [20, 600]),
        ([300, 0, 300], [300, 300]),
        ([1400] * 50, [1400 * 44, 1400 * 6]),
        ([1] * 100, [44, 44, 12]),
        ([1473, 1473], [1473, 1473]),
    ],
)
def test_datagrams_of_a_batch_leave_as_trains(
    wired: Wired, sizes: list[int], calls: list[int]
) -> None:
    """One UDP_SEGMENT for what follows one another and is alike; the host's peer sees datagrams,
    or with UDP_GRO what the kernel did not have to cut.
    """
    with peer() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        wired.udp(port_of(server), b"first")
        wired.flush()
        assert server.recv(9) == b"first"
        for gro in (0, 1):
            server.setsockopt(socket.IPPROTO_UDP, UDP_GRO, gro)
            for size in sizes:
                wired.udp(port_of(server), bytes(size))
            wired.flush()
            came = sizes_of(server, sum(sizes))
            assert [size for size in came if size] == (calls if gro else [n for n in sizes if n])


def test_trains_to_several_destinations(wired: Wired) -> None:
    with peer() as one, peer() as other:
        for _ in range(3):
            wired.udp(port_of(one), b"1" * 100)
            wired.udp(port_of(other), b"2" * 100)
        wired.flush()
        for server, fill in ((one, b"1"), (other, b"2")):
            assert [server.recv(200) for _ in range(3)] == [fill * 100] * 3


# Frames that are no more than likely to continue a train: each is a datagram of 100 octets between
# two that are alike, and differs from them in one thing.


def alike(port: int, vnet: Vnet, fill: bytes = b"-", **fields: Any) -> bytes:
    datagram = udp_datagram(port, fill * 100, fields.pop("sport", PORT))
    return ip_frame(GATEWAY, dpkt.ip.IP_PROTO_UDP, datagram, vnet=vnet, **fields)


def patched(at: int, value: bytes, fix: bool = True) -> Callable[[int, Vnet], bytes]:
    """The frame with other octets there; `fix`: with its IP header's checksum made anew."""

    def make(port: int, vnet: Vnet) -> bytes:
        frame = bytearray(alike(port, vnet))
        frame[at : at + len(value)] = value
        if fix:
            frame[IP_AT + 10 : IP_AT + 12] = bytes(2)
            header = bytes(frame[IP_AT:UDP_AT])
            frame[IP_AT + 10 : IP_AT + 12] = struct.pack("!H", dpkt.in_cksum(header))
        return bytes(frame)

    return make


def with_fields(**fields: Any) -> Callable[[int, Vnet], bytes]:
    return lambda port, vnet: alike(port, vnet, **fields)


DIFFERENT: dict[str, Callable[[int, Vnet], bytes]] = {
    "nothing": alike,
    "payload": with_fields(fill=b"+"),
    "identification": with_fields(id=7),
    "class": with_fields(tos=0x28),
    "life": with_fields(ttl=9),
    "cutting": with_fields(df=1),
    "first piece of a datagram": with_fields(mf=1),
    "options": with_fields(opts=b"\1\1\1\1"),
    "protocol": patched(IP_AT + 9, b"\x84"),
    "version": patched(IP_AT, b"\x55"),
    "header checksum": patched(IP_AT + 10, b"\0\1", fix=False),
    "length of the datagram, beyond the frame": patched(IP_AT + 2, struct.pack("!H", 500)),
    "length of the datagram, less": patched(IP_AT + 2, struct.pack("!H", 100)),
    "UDP's length, beyond the frame": patched(UDP_AT + 4, struct.pack("!H", 500)),
    "UDP's length, less": patched(UDP_AT + 4, struct.pack("!HH", 58, 0)),
    "UDP's length, below its header": patched(UDP_AT + 4, struct.pack("!H", 7)),
    "source port": with_fields(sport=PORT + 1),
    "no destination port": patched(UDP_AT + 2, bytes(2)),
    "source": with_fields(src=bytes((10, 0, 2, 77))),
    "source that nobody has": with_fields(src=bytes((10, 0, 2, 255))),
    "sender's hardware address": with_fields(src_mac=b"\2\0\0\0\0\7"),
    "hardware address that is not ours": with_fields(dst_mac=b"\2\0\0\0\0\7"),
    "padding": lambda port, vnet: alike(port, vnet) + bytes(9),
    "no end": lambda port, vnet: alike(port, vnet)[:-1],
    "no UDP": lambda port, vnet: alike(port, vnet)[: UDP_AT + 4],
    "no payload": with_fields(fill=b""),
    "virtio header": lambda port, _: alike(port, Vnet(gso_type=9)),
    "type": patched(12 + 12, b"\x08\x06"),
}


def carried(wired: Wired, frames: list[bytes], server: socket.socket) -> Any:
    """What came of frames of one batch: datagrams with their senders told apart, and how each frame
    ended.
    """
    for frame in frames:
        wired.guest.send(frame)
    wired.flush()
    came = []
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            data, ancillary, _, addr = server.recvmsg(FRAME_MAX, 256)
            came.append((data, sorted(ancillary), addr[1]))
    ports = list(dict.fromkeys(port for _, _, port in came))
    drops = {k: n for k, n in wired.engine.stats().items() if n and "bytes" not in k}
    return [(data, more, ports.index(port)) for data, more, port in came], drops


@pytest.mark.parametrize("difference", DIFFERENT)
def test_frame_after_its_like_is_treated_as_it_would_be_alone(
    make_wired: Callable[..., Wired], difference: str
) -> None:
    """Behind frames whose checksum the link vouches for the short way is tried, else never:
    nobody sees which it was.
    """
    outcomes = []
    for vnet in (VERIFIED, UNVERIFIED):
        with peer() as server:
            for option in (IP_RECVTTL, socket.IP_RECVTOS):
                server.setsockopt(socket.IPPROTO_IP, option, 1)
            port = port_of(server)
            middle = DIFFERENT[difference](port, vnet)
            frames = [alike(port, vnet), middle, alike(port, vnet), alike(port, vnet)]
            outcomes.append(carried(make_wired(), frames, server))
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][0]) >= 3


# The same for IPv6, on a host made of Python: in one batch, and one by one.

IP6_AT, UDP6_AT = 12 + 14, 12 + 14 + 40


def alike6(fill: bytes = b"-", **fields: Any) -> bytes:
    datagram = udp_datagram(fields.pop("dport", 53), fill * 100, fields.pop("sport", PORT))
    dst = fields.pop("dst", WORLD6)
    return ip_frame(dst, dpkt.ip.IP_PROTO_UDP, datagram, vnet=VERIFIED, **fields)


def patched6(at: int, value: bytes) -> Callable[[], bytes]:
    def make() -> bytes:
        frame = alike6()
        return frame[:at] + value + frame[at + len(value) :]

    return make


def with_fields6(**fields: Any) -> Callable[[], bytes]:
    return lambda: alike6(**fields)


DIFFERENT6: dict[str, Callable[[], bytes]] = {
    "nothing": alike6,
    "payload": with_fields6(fill=b"+"),
    "version": patched6(IP6_AT, b"\x50"),
    "class": patched6(IP6_AT, b"\x62\x80"),
    "flow label": patched6(IP6_AT + 3, b"\1"),
    "length, beyond the frame": patched6(IP6_AT + 4, struct.pack("!H", 500)),
    "length, less": patched6(IP6_AT + 4, struct.pack("!H", 60)),
    "protocol": patched6(IP6_AT + 6, b"\x84"),
    "extension header": lambda: (
        alike6()[: IP6_AT + 4]
        + struct.pack("!HBB", 116, 60, 64)
        + alike6()[IP6_AT + 8 : UDP6_AT]
        + struct.pack("!BBBB4x", 17, 0, 1, 4)
        + alike6()[UDP6_AT:]
    ),
    "life": patched6(IP6_AT + 7, b"\x09"),
    "source": patched6(IP6_AT + 23, b"\x77"),
    "destination": with_fields6(dst=WORLD6[:15] + b"\x77"),
    "UDP's length, beyond the frame": patched6(UDP6_AT + 4, struct.pack("!H", 500)),
    "UDP's length, less": patched6(UDP6_AT + 4, struct.pack("!H", 58)),
    "UDP's length, below its header": patched6(UDP6_AT + 4, struct.pack("!H", 7)),
    "source port": with_fields6(sport=PORT + 1),
    "destination port": with_fields6(dport=54),
    "padding": lambda: alike6() + bytes(9),
    "no end": lambda: alike6()[:-1],
}


def drops_of(lan: Lan) -> list[Drop]:
    """Each as often as it was counted."""
    counted = lan.stack.stats().items()
    return [Drop[name.upper()] for name, n in counted if name.startswith("drop_") for _ in range(n)]


def sent_to_host(lan: Lan) -> list[tuple[int, Datagram]]:
    """Every datagram that left, trains taken apart, with its socket's number."""
    out = []
    for number, host_socket in enumerate(lan.host.sockets.values()):
        for datagram in host_socket.sent:
            step = datagram.segment_bytes or max(1, len(datagram.data))
            for at in range(0, max(1, len(datagram.data)), step):
                piece = datagram._replace(data=datagram.data[at : at + step], segment_bytes=0)
                out.append((number, piece))
    return out


@pytest.mark.parametrize("difference", DIFFERENT6)
def test_frame_of_ipv6_after_its_like_is_treated_as_it_would_be_alone(
    make_lan: Callable[..., Lan], difference: str
) -> None:
    together, singly = make_lan(), make_lan()
    frames = [alike6(), DIFFERENT6[difference](), alike6(), alike6()]
    together.send_frames(*frames)
    for frame in frames:
        singly.send_frame(frame)
    assert sent_to_host(together) == sent_to_host(singly)
    assert len(sent_to_host(together)) >= 3
    assert list(together.inbox) == list(singly.inbox)
    drops = drops_of(singly)
    for lan in (together, singly):
        lan.dropped(*drops)
        lan.inbox.clear()


def test_an_error_about_a_train_goes_where_it_came_from(make_lan: Callable[..., Lan]) -> None:
    """Not to the guest whose frame ended the batch."""
    other, other_mac = bytes((10, 0, 2, 77)), b"\2\0\0\0\0\7"
    lan = make_lan()
    lan.mapped().refusals.extend([errno.ENETUNREACH] * 2)
    theirs = ip_frame(GATEWAY, dpkt.ip.IP_PROTO_ICMP, echo(), src=other, src_mac=other_mac)
    lan.send_frames(ip_frame(WORLD, dpkt.ip.IP_PROTO_UDP, udp_datagram(53, b"query")), theirs)
    addressed = {(frame.ip.dst, frame.dst_mac) for frame in (lan.next(), lan.next())}
    assert addressed == {(GUEST, GUEST_MAC), (other, other_mac)}
    lan.dropped(Drop.DROP_UDP_HOST_REFUSED)


def test_inner_checksums_are_finished_in_each(make_lan: Callable[..., Lan]) -> None:
    """A frame that vouches for its checksum and wants another made, of what it carries."""
    lan = make_lan()
    vnet = Vnet(flags=1 | 2, csum_start=14 + 20 + 8 + 10, csum_offset=2)
    frame = ip_frame(WORLD, dpkt.ip.IP_PROTO_UDP, udp_datagram(53, b"-" * 100), vnet=vnet)
    lan.send_frames(frame, frame, frame)
    payloads = [datagram.data for _, datagram in sent_to_host(lan)]
    assert payloads == payloads[:1] * 3
    assert payloads[0] != b"-" * 100
