"""Trains of datagrams (train.pxd): what follows one another and is alike travels as one."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from test_hostlinux import FRAME_MAX, Wired, make_wired, peer, port_of, wired

from harness.host import Datagram
from harness.lan import Lan
from harness.net import WORLD, WORLD6

__all__ = ["make_wired", "wired"]  # fixtures

OTHER_WORLD = bytes((198, 51, 100, 7))
CLIENT = bytes((192, 0, 2, 200))
USO = 1 | 32  # TUN_F_CSUM, TUN_F_USO4
UDP_GRO = 104  # linux/udp.h


# ---- host to guest


def enter(
    make_lan: Callable[..., Lan], offload: int, *waiting: Datagram
) -> list[tuple[bytes, int]]:
    """What the guest gets of what waits at a socket: each frame's payload and segment size."""
    lan = make_lan(offload=offload)
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


@pytest.mark.parametrize(("size", "per_train"), [(100, 60), (1472, 44), (1092, 59), (1093, 59)])
def test_trains_are_no_longer_than_a_datagram_may_be(
    make_lan: Callable[..., Lan], size: int, per_train: int
) -> None:
    """RFC 791: 65,535 bytes with all headers. Nothing is lost."""
    waiting = [block(size, n) for n in range(60)]
    frames = enter(make_lan, USO, *waiting)
    assert len(frames[0][0]) == per_train * size
    assert b"".join(data for data, _ in frames) == b"".join(d.data for d in waiting)


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
        ([1400] * 50, [1400 * 46, 1400 * 4]),
        ([1] * 100, [64, 36]),
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
