"""Policy: where a flow of the guest may go, and which ports of the host lead into the guest."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable

import dpkt
import pytest

from harness.host import Datagram
from harness.lan import Lan
from harness.net import DNS, GATEWAY, GUEST, WORLD
from slirp.core.hostfake import EVENT_READABLE
from slirp.core.stats import Drop

TCP = dpkt.ip.IP_PROTO_TCP
LOOPBACK = bytes((127, 0, 0, 1))
CLIENT = bytes((192, 0, 2, 200))
FORWARDS_MAX = 1024
SYN = dpkt.tcp.TH_SYN


def syn(lan: Lan, dst: bytes, dport: int) -> None:
    lan.send(dst, TCP, dpkt.tcp.TCP(sport=40000, dport=dport, seq=1, flags=SYN))


# ---- the host's loopback


def test_gateway_is_the_hosts_loopback(lan: Lan) -> None:
    syn(lan, GATEWAY, 8080)
    lan.udp(GATEWAY, 8081, b"x")
    assert lan.host.called("tcp_connect") == [(LOOPBACK, 8080)]
    assert lan.host.called("udp_open") == [(True, LOOPBACK, 8081)]
    assert lan.host.newest.sent == [Datagram(LOOPBACK, 8081, b"x")]


def test_loopback_answers_by_the_gateways_name(lan: Lan) -> None:
    lan.udp(GATEWAY, 8081)
    lan.host.newest.datagram(LOOPBACK, 8081, b"x")
    lan.expect_udp(GATEWAY, 8081, b"x")


def test_loopback_has_a_socket_per_port(lan: Lan) -> None:
    """Connected, so that the kernel lets nobody else answer for it."""
    lan.udp(GATEWAY, 1)
    lan.udp(GATEWAY, 2)
    lan.udp(WORLD, 1)
    assert lan.stat("flows") == 3


def test_nobody_listens_on_the_loopback(lan: Lan) -> None:
    """The guest's socket is refused by whom it had asked: an error from 127.0.0.1 would be dropped
    as a martian (RFC 1122 3.2.1.3).
    """
    lan.udp(GATEWAY, 8081)
    lan.host.newest.report(errno.ECONNREFUSED, 3, 3, LOOPBACK, 8081, LOOPBACK, 0)
    quote = lan.expect_icmp_error(3, src=GATEWAY)
    assert (quote.dst, quote.data.dport) == (GATEWAY, 8081)


@pytest.mark.parametrize("dport", [1, 53, 80, 65535])
def test_closed_loopback_refuses(make_lan: Callable[..., Lan], dport: int) -> None:
    """--disable-host-loopback: at once, without a call to the host. To TCP the network is
    unreachable, as with slirp4netns.
    """
    lan = make_lan(host_loopback=False)
    syn(lan, GATEWAY, dport)
    lan.expect_icmp_error(0, src=GATEWAY)
    lan.udp(GATEWAY, dport)
    lan.expect_icmp_error(3, src=GATEWAY)
    lan.dropped(Drop.DROP_TCP_FORBIDDEN, Drop.DROP_UDP_FORBIDDEN)
    assert not lan.host.calls


SPELLINGS = {
    "gateway": GATEWAY,
    "dns": DNS,
    "127.0.0.1": LOOPBACK,
    "127.0.0.2": bytes((127, 0, 0, 2)),
    "127.255.255.255": bytes((127, 255, 255, 255)),
    "0.0.0.0": bytes(4),  # connect() takes it for the loopback
    "0.0.0.1": bytes((0, 0, 0, 1)),
    "network": bytes((10, 0, 2, 0)),
    "guest": GUEST,
    "broadcast": b"\xff" * 4,
}


@pytest.mark.parametrize("dst", SPELLINGS.values(), ids=list(SPELLINGS))
def test_closed_loopback_is_not_to_be_had_by_another_name(
    make_lan: Callable[..., Lan], dst: bytes
) -> None:
    lan = make_lan(host_loopback=False)
    for dport in (22, 53, 8080):
        syn(lan, dst, dport)
        lan.udp(dst, dport)
    lan.inbox.clear()
    assert not lan.host.calls
    assert lan.stat("flows") == 0
    if dst in (GATEWAY, DNS):
        lan.dropped(*[Drop.DROP_TCP_FORBIDDEN] * 3, *[Drop.DROP_UDP_FORBIDDEN] * 3)
    else:
        lan.dropped(*[Drop.DROP_IP4_BAD_DESTINATION] * 6)


def test_closed_loopback_pings(make_lan: Callable[..., Lan]) -> None:
    """The gateway itself is there: only the host behind it is not."""
    lan = make_lan(host_loopback=False)
    lan.ping(GATEWAY)
    lan.expect_echo_reply(GATEWAY)


# ---- the world

WORLDLY = [
    bytes((1, 0, 0, 1)),
    bytes((10, 0, 1, 255)),
    bytes((10, 0, 3, 2)),
    bytes((126, 255, 255, 255)),
    bytes((128, 0, 0, 1)),
    bytes((169, 254, 1, 1)),
    bytes((192, 168, 0, 1)),
    bytes((223, 255, 255, 255)),
]


@pytest.mark.parametrize("dst", WORLDLY, ids=lambda dst: ".".join(map(str, dst)))
def test_world_is_reached_under_its_own_address(lan: Lan, dst: bytes) -> None:
    syn(lan, dst, 53)
    lan.udp(dst, 53)
    lan.ping(dst)
    assert lan.host.called("tcp_connect") == [(dst, 53)]
    assert lan.host.called("udp_open") == [(True, b"", 0)]
    assert [call[1] for call in lan.host.called("dgram_send")] == [dst, dst]


# ---- forwards


@dataclasses.dataclass(frozen=True)
class Bad:
    """Arguments that add_forward refuses."""

    proto: str = "tcp"
    guest: bytes = GUEST
    port: int = 80


@pytest.mark.parametrize("bad", [Bad(proto="sctp"), Bad(proto=""), Bad(guest=b"abc"), Bad(port=0)])
def test_forward_of_nonsense(lan: Lan, bad: Bad) -> None:
    with pytest.raises(ValueError, match=r"proto is tcp or udp|4 or 16 bytes"):
        lan.stack.add_forward(bad.proto, lan.host.listener(), bad.guest, bad.port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_forward_to_no_port(lan: Lan, port: int) -> None:
    with pytest.raises(OverflowError):
        lan.stack.add_forward("tcp", lan.host.listener(), GUEST, port)


def test_forwards_are_bounded_and_their_ids_begin_at_one(lan: Lan) -> None:
    ids = [
        lan.stack.add_forward("tcp", lan.host.listener(), GUEST, 80) for _ in range(FORWARDS_MAX)
    ]
    assert ids == list(range(1, FORWARDS_MAX + 1))
    with pytest.raises(OSError, match="space") as caught:
        lan.stack.add_forward("tcp", lan.host.listener(), GUEST, 80)
    assert caught.value.errno == errno.ENOSPC
    assert lan.stack.remove_forward(500)
    assert lan.stack.add_forward("udp", lan.host.bound().fd, GUEST, 80) == 500


@pytest.mark.parametrize("forward_id", [-(2**31), -1, 0, 2, FORWARDS_MAX, 2**31 - 1])
def test_removal_of_a_forward_that_is_not(lan: Lan, forward_id: int) -> None:
    lan.forward(80)
    assert not lan.stack.remove_forward(forward_id)
    assert lan.stack.remove_forward(1)


def test_late_event_for_a_forward_that_is_gone(lan: Lan) -> None:
    listener = lan.host.listener()
    lan.stack.add_forward("tcp", listener, GUEST, 80)
    ref = lan.host.listeners[listener]
    lan.stack.remove_forward(1)
    lan.stack.host_event(ref, EVENT_READABLE, lan.clock.now_us)
    lan.stack.host_event(ref + 2**20, EVENT_READABLE, lan.clock.now_us)
    assert lan.stat("host_stale_events") == 2


@pytest.mark.parametrize(
    ("client", "seen"),
    [
        (CLIENT, CLIENT),
        (LOOPBACK, GATEWAY),
        (bytes((127, 1, 2, 3)), GATEWAY),
        (bytes(15) + b"\1", GATEWAY),
        (bytes.fromhex("20010db8" + "0" * 23 + "1"), GATEWAY),
        (bytes(10) + b"\xff\xff" + CLIENT, CLIENT),
        (bytes(10) + b"\xff\xff" + LOOPBACK, GATEWAY),
        (bytes((10, 0, 2, 50)), GATEWAY),
    ],
    ids=["own", "loopback", "127/8", "::1", "IPv6", "mapped", "mapped loopback", "subnet"],
)
def test_tcp_client_as_the_guest_sees_it(lan: Lan, client: bytes, seen: bytes) -> None:
    """Its own address where the guest's answers to that would come here, else the gateway's."""
    listener = lan.host.listener()
    lan.stack.add_forward("tcp", listener, GUEST, 80)
    lan.host.client(listener, client, 4000)
    ip = lan.next().ip
    assert (ip.src, ip.data.sport, ip.dst, ip.data.dport) == (seen, 4000, GUEST, 80)
    assert ip.data.flags == SYN
    assert lan.stat("forwards_accepted") == 1


def test_everything_is_closed_at_the_end() -> None:
    """A stack that goes leaves the host no socket, whatever it was doing."""
    lan = Lan()
    lan.stack.add_forward("tcp", lan.host.listener(), GUEST, 80)
    lan.forward(53).datagram(CLIENT, 4000, b"x")
    lan.udp(WORLD, 53)
    lan.udp(GATEWAY, 53)
    lan.ping(WORLD)
    syn(lan, WORLD, 80)
    assert lan.host.open_sockets
    lan.host.note = lambda line: None
    del lan.stack, lan.clock  # which holds the stack, too
    assert not lan.host.open_sockets
    assert not lan.host.listeners
