"""UDP (RFC 768, 1122 4.1) through mappings as RFC 4787 wants them of a NAT."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import dpkt
import pytest

from harness.host import Datagram, HostSocket
from harness.ip import pseudo_header
from harness.lan import PORT, Lan, udp_datagram, udp_train
from harness.net import GATEWAY, GUEST, WORLD
from harness.tcp import Tcp
from slirp.core.hostfake import EVENT_READABLE
from slirp.core.stats import Drop

UDP = dpkt.ip.IP_PROTO_UDP
OTHER_WORLD = bytes((198, 51, 100, 7))
OTHER_GUEST = bytes((10, 0, 2, 15))
ROUTER = bytes((203, 0, 113, 1))
CLIENT = bytes((192, 0, 2, 200))
LOOPBACK = bytes((127, 0, 0, 1))
USO = 1 | 32  # TUN_F_CSUM, TUN_F_USO4
UNREPLIED_S, REPLIED_S = 30, 180


# ---- the datagram


def test_payload_goes_out_and_comes_back(lan: Lan) -> None:
    lan.udp(WORLD, 53, b"query")
    socket = lan.host.newest
    assert socket.sent == [Datagram(WORLD, 53, b"query")]
    socket.datagram(WORLD, 53, b"answer")
    lan.expect_udp(WORLD, 53, b"answer")


@pytest.mark.parametrize("size", [0, 1, 2, 1471, 1472, 1473, 9000, 65506, 65507])
def test_any_size_both_ways(lan: Lan, size: int) -> None:
    """RFC 768: an empty datagram is a datagram; the largest fills an IP datagram."""
    data = bytes(n * 7 & 0xFF for n in range(size))
    lan.udp(WORLD, 53, data)
    assert lan.host.newest.sent == [Datagram(WORLD, 53, data)]
    lan.host.newest.datagram(WORLD, 53, data)
    lan.expect_udp(WORLD, 53, data)


def test_larger_than_an_ip_datagram_can_be(lan: Lan) -> None:
    socket = lan.mapped()
    socket.datagram(WORLD, 53, bytes(65508))
    assert lan.stat("host_rx_dropped") == 1
    socket.datagram(WORLD, 53, b"next")
    lan.expect_udp(WORLD, 53, b"next")


@pytest.mark.parametrize("n", range(8))
def test_shorter_than_its_header(lan: Lan, n: int) -> None:
    lan.send(WORLD, UDP, bytes(udp_datagram(53, b""))[:n])
    lan.dropped(Drop.DROP_UDP_MALFORMED)


@pytest.mark.parametrize("length", [0, 7, 14, 0xFFFF])
def test_length_that_does_not_fit(lan: Lan, length: int) -> None:
    """RFC 768: not below its header, nor over what IP has brought (13 bytes)."""
    udp = udp_datagram(53, b"query")
    udp.ulen = length
    lan.send(WORLD, UDP, bytes(udp))
    lan.dropped(Drop.DROP_UDP_MALFORMED)


def test_length_below_ips_is_what_counts(lan: Lan) -> None:
    """Padding behind the datagram is neither payload nor summed (RFC 768, pseudo-header)."""
    udp = udp_datagram(53, b"query")
    total = dpkt.in_cksum(pseudo_header(GUEST, WORLD, UDP, len(udp)) + bytes(udp))
    udp.sum = total
    lan.send(WORLD, UDP, bytes(udp) + b"padding")
    assert lan.host.newest.sent == [Datagram(WORLD, 53, b"query")]


def test_no_port_zero(lan: Lan) -> None:
    lan.udp(WORLD, 0)
    lan.dropped(Drop.DROP_UDP_MALFORMED)


def test_source_port_may_be_zero(lan: Lan) -> None:
    """RFC 768: no reply is meant."""
    lan.udp(WORLD, 53, sport=0)
    assert lan.host.newest.sent


def test_without_a_checksum(lan: Lan) -> None:
    """RFC 768: zero means that the sender made none."""
    lan.send(WORLD, UDP, bytes(udp_datagram(53, b"query")))
    assert lan.host.newest.sent == [Datagram(WORLD, 53, b"query")]


@pytest.mark.parametrize("at", [0, 2, 8, 12])
def test_checksum(lan: Lan, at: int) -> None:
    """RFC 1122 4.1.3.4: verified when there is one."""
    udp = udp_datagram(53, b"query")
    udp.sum = dpkt.in_cksum(pseudo_header(GUEST, WORLD, UDP, len(udp)) + bytes(udp))
    damaged = bytearray(bytes(udp))
    damaged[at] ^= 0x20
    lan.send(WORLD, UDP, bytes(damaged))
    lan.dropped(Drop.DROP_UDP_BAD_CHECKSUM)
    assert not lan.host.calls


def test_checksum_that_sums_to_zero_is_all_ones(lan: Lan) -> None:
    """RFC 768: zero on the wire would mean that there is none."""
    pseudo = pseudo_header(WORLD, GUEST, UDP, 10)
    header = struct.pack("!HHHH", 53, PORT, 10, 0)
    filler = struct.pack("!H", dpkt.in_cksum(pseudo + header))
    assert dpkt.in_cksum(pseudo + header + filler) == 0
    lan.mapped().datagram(WORLD, 53, filler)
    assert lan.expect_udp(WORLD, 53, filler).udp.sum == 0xFFFF


# ---- the mapping


def test_one_mapping_for_all_destinations(lan: Lan) -> None:
    """RFC 4787 4.1 REQ-1: endpoint-independent mapping."""
    socket = lan.mapped()
    assert lan.mapped(OTHER_WORLD, 53) is socket
    assert lan.mapped(WORLD, 123) is socket
    assert [(sent.addr, sent.port) for sent in socket.sent] == [
        (WORLD, 53),
        (OTHER_WORLD, 53),
        (WORLD, 123),
    ]
    assert lan.stat("flows") == 1


def test_one_mapping_per_port_and_guest(lan: Lan) -> None:
    first = lan.mapped()
    assert lan.mapped(sport=PORT + 1) is not first
    lan.udp(WORLD, 53, src=OTHER_GUEST)
    assert lan.stat("flows") == 3


def test_anybody_may_answer(lan: Lan) -> None:
    """RFC 4787 5 REQ-8: endpoint-independent filtering; a reply is from whom it really is."""
    socket = lan.mapped()
    socket.datagram(OTHER_WORLD, 9999, b"hole punched")
    lan.expect_udp(OTHER_WORLD, 9999, b"hole punched")


def test_answer_of_another_family_has_no_name_for_the_guest(lan: Lan) -> None:
    lan.mapped().datagram(bytes.fromhex("20010db8" + "0" * 23 + "1"), 53, b"x")
    assert lan.stat("host_rx_dropped") == 1


def test_guest_that_moves_is_followed(lan: Lan) -> None:
    """The mapping's frames go to where its last datagram came from."""
    socket = lan.mapped()
    mac = bytes.fromhex("020000000009")
    lan.udp(WORLD, 53, src_mac=mac)
    socket.datagram(WORLD, 53, b"x")
    assert lan.next().dst_mac == mac


def test_datagrams_that_wait_come_together(lan: Lan) -> None:
    """Up to 44 for one event, so that one socket does not starve the others."""
    socket = lan.mapped()
    socket.datagrams += [Datagram(WORLD, 53, bytes([n])) for n in range(70)]
    lan.stack.host_event(socket.ref, EVENT_READABLE, lan.clock.now_us)
    assert [frame.udp.data[0] for frame in lan.inbox] == list(range(44))
    lan.stack.host_event(socket.ref, EVENT_READABLE, lan.clock.now_us)
    assert len(lan.inbox) == 70
    lan.inbox.clear()


def lives_for(lan: Lan, socket: HostSocket, seconds: float) -> None:
    """Assert that the mapping ends then, and not before; a timer is at most a tick late."""
    lan.advance(seconds - 0.01)
    assert socket in lan.host.open_sockets
    lan.advance(0.02)
    assert socket.ended == "close"
    lan.at_rest()


def test_unanswered_mapping_ends_after_30_seconds(lan: Lan) -> None:
    lives_for(lan, lan.mapped(), UNREPLIED_S)


def test_answered_mapping_ends_after_180_seconds(lan: Lan) -> None:
    """RFC 4787 4.3 REQ-5: more than two minutes."""
    socket = lan.mapped()
    socket.datagram(WORLD, 53, b"x")
    lan.next()
    lives_for(lan, socket, REPLIED_S)


def test_outbound_datagram_refreshes(lan: Lan) -> None:
    """RFC 4787 4.3 REQ-6."""
    socket = lan.mapped()
    for _ in range(10):
        lan.advance(UNREPLIED_S - 1)
        lan.mapped()
    lives_for(lan, socket, UNREPLIED_S)


def test_inbound_datagram_refreshes(lan: Lan) -> None:
    socket = lan.mapped()
    for _ in range(5):
        lan.advance(UNREPLIED_S - 1)
        socket.datagram(WORLD, 53, b"x")
    lan.inbox.clear()
    lives_for(lan, socket, REPLIED_S)


def test_mappings_are_bounded_and_the_longest_unused_gives_way(
    make_lan: Callable[..., Lan],
) -> None:
    """A quarter of the flow table."""
    lan = make_lan(max_flows=64)
    sockets = [lan.mapped(sport=1000 + n) for n in range(16)]
    lan.mapped(sport=1000)
    newcomer = lan.mapped(sport=2000)
    assert [socket.ended for socket in sockets] == ["", "close", *[""] * 14]
    assert lan.stat("udp_evicted") == 1
    assert lan.stat("flows") == 16
    newcomer.datagram(WORLD, 53, b"x")
    lan.expect_udp(WORLD, 53, b"x", dport=2000)


def test_flow_table_full_of_connections(make_tcp: Callable[..., Tcp]) -> None:
    """None of them gives way to a mapping."""
    tcp = make_tcp(max_flows=64)
    for _ in range(64):
        tcp.established()
    tcp.send_ip(WORLD, UDP, udp_datagram(53, b"query"))
    tcp.dropped(Drop.DROP_FLOWS_FULL)


def test_error_about_what_the_guest_cannot_have_sent(lan: Lan) -> None:
    """Of the other family: it would be quoted as a datagram of this one. The fuzzer's find."""
    socket = lan.mapped()
    socket.report(errno.EHOSTUNREACH, 3, 1, bytes.fromhex("20010db8" + "00" * 12), 53)
    assert lan.stat("icmp_errors_sent") == 0
    socket.report(errno.EHOSTUNREACH, 3, 1, WORLD, 53)
    assert lan.stat("icmp_errors_sent") == 1
    lan.next()


def test_late_event_for_a_mapping_that_is_gone(lan: Lan) -> None:
    socket = lan.mapped()
    lan.advance(UNREPLIED_S + 1)
    lan.mapped()
    lan.stack.host_event(socket.ref, EVENT_READABLE, lan.clock.now_us)
    assert lan.stat("host_stale_events") == 1


def test_time_outs_of_the_users_own(make_lan: Callable[..., Lan]) -> None:
    lan = make_lan(udp_timeouts_s=(300, 60, 5))
    socket = lan.mapped()
    lives_for(lan, socket, 60)
    socket = lan.mapped()
    socket.datagram(WORLD, 53, b"answer")
    lan.next()
    lives_for(lan, socket, 300)


# ---- life and class


@pytest.mark.parametrize(("ttl", "kept"), [(2, 1), (63, 62), (64, 0), (65, 64), (255, 254)])
def test_another_life_is_kept(lan: Lan, ttl: int, kept: int) -> None:
    """What traceroute sends; the usual life is left to the host, and costs nothing."""
    lan.udp(WORLD, 33434, ttl=ttl)
    assert lan.host.newest.sent[0].ttl == kept


@pytest.mark.parametrize("tos", [0, 1, 3, 0xB8, 0xFF])
def test_class_goes_both_ways(lan: Lan, tos: int) -> None:
    """DSCP (RFC 2474) and ECN (RFC 3168): each datagram's own."""
    lan.udp(WORLD, 53, tos=tos)
    assert lan.host.newest.sent[0].tos == tos
    lan.host.newest.datagram(WORLD, 53, b"answer", ttl=33, tos=tos)
    frame = lan.expect_udp(WORLD, 53, b"answer")
    assert (frame.ip.tos, frame.ip.ttl) == (tos, 33)


# ---- trains


def test_train_leaves_as_one(lan: Lan) -> None:
    """USO: what the guest's kernel did not cut, the host's will (UDP_SEGMENT)."""
    lan.send_frame(udp_train(WORLD, 53, b"a" * 3500, 1000))
    assert lan.host.newest.sent == [Datagram(WORLD, 53, b"a" * 3500, 1000)]


@pytest.mark.parametrize("size", [1, 999, 1000])
def test_train_of_one_is_none(lan: Lan, size: int) -> None:
    lan.send_frame(udp_train(WORLD, 53, b"a" * size, 1000))
    assert lan.host.newest.sent == [Datagram(WORLD, 53, b"a" * size, 0)]


def test_train_enters_as_one_where_the_guests_kernel_cuts_it(make_lan: Callable[..., Lan]) -> None:
    lan = make_lan(offload=USO)
    lan.mapped().datagram(WORLD, 53, b"b" * 4500, 1200)
    vnet = lan.expect_udp(WORLD, 53, b"b" * 4500).vnet
    assert (vnet.gso_type, vnet.gso_size, vnet.hdr_len) == (5, 1200, 14 + 20 + 8)
    assert (vnet.flags, vnet.csum_start, vnet.csum_offset) == (1, 14 + 20, 6)


@pytest.mark.parametrize("offload", [0, 1, 1 | 2])
@pytest.mark.parametrize(
    ("size", "segment_bytes", "sizes"),
    [
        (4500, 1200, [1200, 1200, 1200, 900]),
        (2400, 1200, [1200, 1200]),
        (1201, 1200, [1200, 1]),
        (1200, 1200, [1200]),
        (50, 1200, [50]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_train_enters_one_by_one_elsewhere(
    make_lan: Callable[..., Lan], offload: int, size: int, segment_bytes: int, sizes: list[int]
) -> None:
    """Each header is written over the end of the datagram before: no byte may change by that."""
    lan = make_lan(offload=offload)
    data = bytes(n * 13 & 0xFF for n in range(size))
    lan.mapped().datagram(WORLD, 53, data, segment_bytes)
    assert [len(frame.udp.data) for frame in lan.inbox] == sizes
    assert b"".join(frame.udp.data for frame in lan.inbox) == data
    assert all(frame.vnet.gso_size == 0 for frame in lan.inbox)
    lan.inbox.clear()


@pytest.mark.parametrize("size", [50, 1200])
def test_train_of_one_enters_plainly(make_lan: Callable[..., Lan], size: int) -> None:
    lan = make_lan(offload=USO)
    lan.mapped().datagram(WORLD, 53, bytes(size), 1200)
    assert lan.expect_udp(WORLD, 53, bytes(size)).vnet.gso_size == 0


# ---- forwarded ports


def test_client_is_seen_by_its_own_address(lan: Lan) -> None:
    forward = lan.forward(53)
    forward.datagram(CLIENT, 4000, b"query")
    lan.expect_udp(CLIENT, 4000, b"query", dport=53)


@pytest.mark.parametrize(
    "client",
    [
        LOOPBACK,
        bytes((127, 9, 9, 9)),
        bytes(15) + b"\1",
        bytes.fromhex("20010db8" + "0" * 23 + "1"),
        bytes((10, 0, 2, 77)),
        GUEST,
        bytes((10, 0, 2, 3)),
    ],
    ids=["loopback", "loopback, another", "::1", "IPv6", "subnet", "guest", "dns"],
)
def test_client_whom_the_guest_could_not_answer_is_the_gateway(lan: Lan, client: bytes) -> None:
    forward = lan.forward(53)
    forward.datagram(client, 4000, b"query")
    lan.expect_udp(GATEWAY, 4000, b"query", dport=53)
    lan.udp(GATEWAY, 4000, b"answer", sport=53)
    assert [(sent.addr, sent.port, sent.data) for sent in forward.sent] == [
        (client, 4000, b"answer")
    ]


def test_answer_leaves_from_the_address_that_was_asked(lan: Lan) -> None:
    """A host of many addresses: RFC 1122 4.1.3.5."""
    asked = bytes((198, 51, 100, 99))
    forward = lan.forward(53)
    forward.datagram(CLIENT, 4000, b"query", local_addr=asked)
    lan.next()
    lan.udp(CLIENT, 4000, b"answer", sport=53)
    assert forward.sent == [Datagram(CLIENT, 4000, b"answer", local_addr=asked)]


def test_clients_are_told_apart(lan: Lan) -> None:
    forward = lan.forward(53)
    for n in range(3):
        forward.datagram(CLIENT, 4000 + n, bytes([n]))
        lan.expect_udp(CLIENT, 4000 + n, bytes([n]), dport=53)
    lan.udp(CLIENT, 4001, b"to the second", sport=53)
    assert [(sent.port, sent.data) for sent in forward.sent] == [(4001, b"to the second")]
    assert lan.stat("flows") == 3


def test_forwarded_port_that_speaks_first_speaks_from_the_hosts_port(lan: Lan) -> None:
    """What a peer sees as the source is where it can answer."""
    forward = lan.forward(53)
    lan.udp(CLIENT, 4000, b"notify", sport=53)
    assert forward.sent == [Datagram(CLIENT, 4000, b"notify")]
    assert not lan.host.called("udp_open")
    forward.datagram(CLIENT, 4000, b"ack")
    lan.expect_udp(CLIENT, 4000, b"ack", dport=53)
    assert lan.stat("flows") == 1


def test_forwarded_port_reaches_the_hosts_loopback_by_a_socket_of_its_own(lan: Lan) -> None:
    forward = lan.forward(53)
    lan.udp(GATEWAY, 7000, b"x", sport=53)
    assert not forward.sent
    assert lan.host.newest.sent == [Datagram(LOOPBACK, 7000, b"x")]


def test_client_takes_the_place_of_another_socket_of_the_same_name(lan: Lan) -> None:
    """The gateway's port was a server's of the host, and is now a client's."""
    forward = lan.forward(53)
    lan.udp(GATEWAY, 4000, b"x", sport=53)
    server = lan.host.newest
    forward.datagram(LOOPBACK, 4000, b"query")
    lan.expect_udp(GATEWAY, 4000, b"query", dport=53)
    assert server.ended == "close"
    lan.udp(GATEWAY, 4000, b"answer", sport=53)
    assert forward.sent == [Datagram(LOOPBACK, 4000, b"answer")]


def test_train_of_a_client(make_lan: Callable[..., Lan]) -> None:
    lan = make_lan(offload=USO)
    lan.forward(53).datagram(CLIENT, 4000, bytes(3000), 1000)
    assert lan.next().vnet.gso_size == 1000


def test_clients_flow_ends_and_the_forward_stays(lan: Lan) -> None:
    forward = lan.forward(53)
    forward.datagram(CLIENT, 4000, b"x")
    lan.next()
    lan.advance(REPLIED_S + 1)
    assert lan.stat("flows") == 0
    assert lan.host.open_sockets == [forward]
    forward.datagram(CLIENT, 4000, b"y")
    lan.expect_udp(CLIENT, 4000, b"y", dport=53)


def test_error_about_nobody_known(lan: Lan) -> None:
    lan.forward(53).report(errno.ECONNREFUSED, 3, 3, CLIENT, 4000, CLIENT, 0)
    lan.expect_nothing()


def test_removed_forward_takes_its_clients_along(lan: Lan) -> None:
    lan.udp(WORLD, 53, sport=6000)
    forward = lan.forward(53)
    forward.datagram(CLIENT, 4000, b"x")
    forward.datagram(CLIENT, 4001, b"x")
    lan.inbox.clear()
    assert lan.stack.remove_forward(1)
    assert forward.ended == "close"
    assert lan.stat("flows") == 1
    lan.stack.host_event(forward.ref, EVENT_READABLE, lan.clock.now_us)
    assert lan.stat("host_stale_events") == 1
    assert not lan.stack.remove_forward(1)


def test_no_place_for_another_client(make_tcp: Callable[..., Tcp]) -> None:
    tcp = make_tcp(max_flows=64)
    for _ in range(64):
        tcp.established()
    bound = tcp.host.bound()
    tcp.stack.add_forward("udp", bound.fd, GUEST, 53)
    bound.datagram(CLIENT, 4000, b"x")
    assert tcp.stat("host_rx_dropped") == 1


def test_two_ports_of_the_host_for_one_of_the_guest(lan: Lan) -> None:
    """The answer leaves by the one that was asked."""
    first, second = lan.forward(53), lan.forward(53)
    second.datagram(CLIENT, 4000, b"x")
    lan.next()
    lan.udp(CLIENT, 4000, b"answer", sport=53)
    assert (first.sent, second.sent) == ([], [Datagram(CLIENT, 4000, b"answer")])
    first.datagram(CLIENT, 4000, b"y")
    lan.next()
    lan.udp(CLIENT, 4000, b"answer", sport=53)
    assert first.sent == [Datagram(CLIENT, 4000, b"answer")]
