"""What stands above IPv6: UDP, TCP, echo, DNS and forwards, where the family makes a difference."""

from __future__ import annotations

import errno
from collections.abc import Callable

import dpkt
import pytest

from harness.host import Datagram
from harness.ip import ETH_HLEN, IP6_HLEN, IP_ICMP6, build_frame, build_ip, cut
from harness.lan import PORT, Lan, echo6, udp_datagram, udp_train
from harness.net import (
    DNS,
    DNS6,
    GATEWAY6,
    GATEWAY_MAC,
    GUEST,
    GUEST6,
    GUEST_MAC,
    LINK_LOCAL6,
    NETWORK6,
    WORLD,
    WORLD6,
)
from harness.pkt import parse
from harness.tcp import Tcp
from slirp.core.stats import Drop

UDP = dpkt.ip.IP_PROTO_UDP
LOOPBACK6 = bytes(15) + b"\x01"
CSUM, TSO4, TSO6, ECN, USO4, USO6 = 1, 2, 4, 8, 32, 64
EVERYTHING = CSUM | TSO4 | TSO6 | ECN | USO4 | USO6
GSO_TCP4, GSO_TCP6, GSO_UDP_L4 = 1, 4, 5
ROUTER6 = bytes.fromhex("20010db8ffff") + bytes(9) + b"\x01"


# ---- policy


@pytest.mark.parametrize("ours", [GATEWAY6, LINK_LOCAL6])
def test_gateway_is_the_hosts_loopback(lan: Lan, ours: bytes) -> None:
    lan.udp(ours, 7)
    assert (lan.host.newest.addr, lan.host.newest.port) == (LOOPBACK6, 7)
    lan.host.newest.datagram(LOOPBACK6, 7, b"back")
    frame = lan.next()
    assert (frame.ip.src, frame.udp.sport, frame.udp.data) == (ours, 7, b"back")


@pytest.mark.parametrize("ours", [GATEWAY6, LINK_LOCAL6, DNS6])
def test_hosts_loopback_closed(make_lan: Callable[..., Lan], ours: bytes) -> None:
    lan = make_lan(host_loopback=False)
    lan.udp(ours, 7)
    lan.dropped(Drop.DROP_UDP_FORBIDDEN)
    lan.expect_icmp6_error(1, 4, src=ours)
    assert not lan.host.sockets


def test_tcp_to_the_gateway(tcp: Tcp) -> None:
    tcp.connecting(tcp.peer(dest=GATEWAY6))
    assert tcp.host.called("tcp_connect") == [(LOOPBACK6, 80)]


def test_tcp_to_the_closed_gateway(make_tcp: Callable[..., Tcp]) -> None:
    tcp = make_tcp(host_loopback=False)
    g = tcp.peer(dest=GATEWAY6)
    g.send("S 0:0(0)")
    tcp.dropped(Drop.DROP_TCP_FORBIDDEN)
    datagram = tcp.stray.popleft()
    assert datagram[8:24] == GATEWAY6
    assert tuple(datagram[40:42]) == (1, 0)  # no route: the guest's connect() gives ENETUNREACH
    tcp.at_rest()


@pytest.mark.parametrize("dns", [DNS, DNS6])
@pytest.mark.parametrize("server", [b"\x7f\0\0\x35", WORLD, WORLD6])
def test_name_server_of_either_family(lan: Lan, dns: bytes, server: bytes) -> None:
    lan.stack.set_dns([server])
    lan.udp(dns, 53, b"who?")
    assert (lan.host.newest.addr, lan.host.newest.port) == (server, 53)
    lan.host.newest.datagram(server, 53, b"you")
    frame = lan.next()
    assert (frame.ip.src, frame.udp.sport, frame.udp.data) == (dns, 53, b"you")


def test_name_server_that_refuses(lan: Lan) -> None:
    """Its ICMP becomes ICMPv6 from the DNS address."""
    lan.stack.set_dns([WORLD])
    lan.udp(DNS6, 53, b"who?")
    lan.host.newest.report(errno.ECONNREFUSED, 3, 3, WORLD, 53)
    _, quote = lan.expect_icmp6_error(1, 4, src=DNS6)
    assert (quote.src, quote.dst, quote.proto) == (GUEST6, DNS6, UDP)


# ---- UDP


@pytest.mark.parametrize("size", [0, 1, 1451, 1452, 1453, 65507])
def test_datagrams_there_and_back(lan: Lan, size: int) -> None:
    data = bytes(size)
    datagram = build_ip(GUEST6, WORLD6, UDP, udp_datagram(53, data))
    for piece in cut(datagram, 1448) if size > 1452 else [datagram]:
        lan.send_frame(build_frame(GUEST_MAC, GATEWAY_MAC, piece))
    socket = lan.host.newest
    assert socket.sent[-1].data == data
    socket.datagram(WORLD6, 53, data)
    assert lan.next().ip.data.data == data


def test_mapping_is_of_one_family(lan: Lan) -> None:
    """RFC 4787 4.1 for each: and no answer of the other gets through."""
    lan.udp(WORLD6, 53)
    socket6 = lan.host.newest
    lan.udp(WORLD, 53)
    socket4 = lan.host.newest
    assert lan.host.called("udp_open") == [(False, b"", 0), (True, b"", 0)]
    socket6.datagram(WORLD, 53, b"x")
    socket4.datagram(WORLD6, 53, b"x")
    assert lan.stat("host_rx_dropped") == 2
    socket6.datagram(ROUTER6, 99, b"from elsewhere")
    frame = lan.next()
    assert (frame.ip.src, frame.udp.sport, frame.udp.dport) == (ROUTER6, 99, PORT)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ((errno.ECONNREFUSED, 1, 4), (1, 4, 0)),
        ((errno.EACCES, 1, 1), (1, 1, 0)),
        ((errno.ENETUNREACH, 1, 0), (1, 0, 0)),
        ((errno.EHOSTUNREACH, 1, 3), (1, 3, 0)),
        ((errno.EHOSTUNREACH, 3, 0), (3, 0, 0)),
        ((errno.EMSGSIZE, 2, 0), (2, 0, 1300)),
        ((errno.EPROTO, 4, 1), (4, 1, 0)),
    ],
)
def test_errors_from_the_world(
    lan: Lan, error: tuple[int, int, int], told: tuple[int, int, int]
) -> None:
    """RFC 4443, in the name of who says so, quoting what was sent."""
    lan.udp(WORLD6, 33434, b"probe", ttl=3)
    lan.host.newest.report(*error, WORLD6, 33434, ROUTER6, 1300)
    rest, quote = lan.expect_icmp6_error(told[0], told[1], src=ROUTER6)
    assert rest == told[2]
    assert (quote.src, quote.dst, quote.proto) == (GUEST6, WORLD6, UDP)
    assert quote.payload[:4] == udp_datagram(33434, b"probe").pack_hdr()[:4]


def test_error_that_means_nothing_to_the_guest(lan: Lan) -> None:
    lan.udp(WORLD6, 53)
    lan.host.newest.report(errno.EPROTO, 4, 0, WORLD6, 53, ROUTER6, 0)


def test_too_big_for_the_path(lan: Lan) -> None:
    """RFC 8201: what the guest has not cut is not cut by the host, and what it has is."""
    lan.udp(WORLD6, 53)
    socket = lan.host.newest
    socket.refusals.append(errno.EMSGSIZE)
    socket.errors.append((errno.EMSGSIZE, 0, 0, WORLD6, 53, b"", 1280))
    lan.udp(WORLD6, 53, bytes(1400))
    lan.dropped(Drop.DROP_UDP_TOO_BIG)
    assert lan.expect_icmp6_error(2, 0)[0] == 1280
    pieces = cut(build_ip(GUEST6, WORLD6, UDP, udp_datagram(53, bytes(1400))), 1232)
    for piece in pieces:
        lan.send_frame(build_frame(GUEST_MAC, GATEWAY_MAC, piece))
    assert socket.sent[-1].data == bytes(1400)
    options = [arguments[1:] for arguments in lan.host.called("set_option")]
    assert options[-1][-1] == 0, "the host may cut it"


@pytest.mark.parametrize("hops", [2, 30, 255])
def test_hop_limit_is_kept(lan: Lan, hops: int) -> None:
    lan.udp(WORLD6, 53, ttl=hops)
    assert lan.host.newest.sent[0].ttl == hops - 1


def test_trains_both_ways(make_lan: Callable[..., Lan]) -> None:
    lan = make_lan(offload=EVERYTHING)
    lan.send_frame(udp_train(WORLD6, 443, bytes(range(250)) * 10, 1000))
    socket = lan.host.newest
    assert (socket.sent[0].segment_bytes, len(socket.sent[0].data)) == (1000, 2500)
    socket.datagram(WORLD6, 443, bytes(5000), 1200)
    frame = lan.next()
    assert (frame.vnet.gso_type, frame.vnet.gso_size) == (GSO_UDP_L4, 1200)
    assert frame.vnet.hdr_len == ETH_HLEN + IP6_HLEN + 8


@pytest.mark.parametrize(("offload", "frames"), [(CSUM | USO4, 5), (CSUM | USO6, 1)])
def test_train_for_a_guest_that_cuts_one_family(
    make_lan: Callable[..., Lan], offload: int, frames: int
) -> None:
    lan = make_lan(offload=offload)
    lan.udp(WORLD6, 443)
    lan.host.newest.datagram(WORLD6, 443, bytes(5000), 1000)
    assert len(lan.inbox) == frames
    lan.inbox.clear()


# ---- echo


def test_ping_to_the_world(lan: Lan) -> None:
    lan.ping(WORLD6, ident=7, seq=3, data=b"payload")
    assert lan.host.called("ping_open") == [(False,)]
    sent = lan.host.newest.sent[0]
    assert (sent.addr, sent.data[0], sent.data[6:]) == (WORLD6, 128, b"\0\x03payload")
    lan.host.newest.datagram(WORLD6, 0, echo6(99, 3, b"payload", 129))
    lan.expect_echo_reply(WORLD6, 7, 3, b"payload")


def test_ping_of_the_other_family_is_another_flow(lan: Lan) -> None:
    lan.ping(WORLD)
    lan.ping(WORLD6)
    assert lan.stat("flows") == 2
    lan.host.newest.datagram(WORLD6, 0, echo6(99, 1, b"ping", 0))
    assert lan.stat("host_rx_dropped") == 1


def test_ping_that_meets_a_router(lan: Lan) -> None:
    """traceroute -I."""
    lan.ping(WORLD6, ident=5, seq=9, ttl=2)
    lan.host.newest.report(errno.EHOSTUNREACH, 3, 0, WORLD6, 0, ROUTER6, 0)
    _, quote = lan.expect_icmp6_error(3, 0, src=ROUTER6)
    assert quote.proto == IP_ICMP6
    assert (quote.payload[0], quote.payload[4:8]) == (128, b"\0\x05\0\x09")


# ---- TCP


def test_handshake(tcp: Tcp) -> None:
    """RFC 6691: the MSS is the MTU less 60; RFC 9293 3.7.1: 1,220 where none is said."""
    g = tcp.established(tcp.peer(dest=WORLD6), options="wscale 7")
    assert g.conduct.our_syn is not None
    assert g.conduct.our_syn.mss == 1440
    g.feed(bytes(3000))
    assert [len(segment.text) for segment in g.drain()] == [1220, 1220, 560]


def test_text_both_ways(tcp: Tcp) -> None:
    g = tcp.established(tcp.peer(dest=WORLD6))
    g.send("P. 1:101(100) ack 1")
    assert len(g.socket.received) == 100
    g.feed(b"x" * 2000)
    assert sum(len(segment.text) for segment in g.drain()) == 2000


@pytest.mark.parametrize(
    ("offload", "gso"), [(EVERYTHING, GSO_TCP6), (CSUM | TSO4, 0), (CSUM | TSO6, GSO_TCP6)]
)
def test_trains_of_segments(make_tcp: Callable[..., Tcp], offload: int, gso: int) -> None:
    tcp = make_tcp(offload=offload)
    seen: list[int] = []
    take = tcp.host.link
    tcp.host.link = lambda frame: (seen.append(frame[1]), take(frame))[1]
    g = tcp.established(tcp.peer(dest=WORLD6))
    g.feed(bytes(40000))
    assert sum(len(segment.text) for segment in g.drain()) == 40000
    assert set(seen) - {0} == ({gso} if gso else set())


def test_train_of_the_guest(tcp: Tcp) -> None:
    g = tcp.established(tcp.peer(dest=WORLD6))
    g.send("P. 1:5001(5000) ack 1 <gso 1440>")
    g.expect(". 1:1(0) ack 5001")
    assert len(g.socket.received) == 5000


def test_train_of_the_wrong_family(tcp: Tcp) -> None:
    g = tcp.established(tcp.peer(dest=WORLD6))
    segment = g.segment(parse("P. 1:5001(5000) ack 1 <gso 1440>"), None, b"")
    frame = bytearray(g.frame(segment))
    frame[1] = GSO_TCP4
    tcp.send_frame(bytes(frame))
    tcp.dropped(Drop.DROP_VNET_MALFORMED)


@pytest.mark.parametrize(
    ("error", "code"),
    [(errno.ENETUNREACH, 0), (errno.EHOSTUNREACH, 3), (errno.EACCES, 1)],
)
def test_unreachable(make_lan: Callable[..., Lan], error: int, code: int) -> None:
    lan = make_lan()
    lan.send(WORLD6, 6, dpkt.tcp.TCP(sport=40000, dport=80, seq=1, flags=dpkt.tcp.TH_SYN))
    lan.host.newest.refused(error)
    _, quote = lan.expect_icmp6_error(1, code)
    assert (quote.src, quote.dst, quote.proto) == (GUEST6, WORLD6, 6)


def test_refused(tcp: Tcp) -> None:
    g = tcp.connecting(tcp.peer(dest=WORLD6))
    g.socket.refused(errno.ECONNREFUSED)
    g.expect("R. 0:0(0) ack 1")


def test_packet_too_big_from_a_router_of_the_guest(tcp: Tcp) -> None:
    """RFC 8201 4: smaller segments, and what is out once more."""
    g = tcp.established(tcp.peer(dest=WORLD6))
    g.feed(bytes(1400))
    segment = g.drain()[0]
    start = segment.src_port.to_bytes(2, "big") + segment.dst_port.to_bytes(2, "big")
    quote = build_ip(WORLD6, GUEST6, 6, start + segment.seq.to_bytes(4, "big") + bytes(12))
    message = b"\x02\0\0\0" + (1300).to_bytes(4, "big") + quote
    tcp.send_ip(GATEWAY6, IP_ICMP6, message)
    assert [len(again.text) for again in g.drain()] == [1240, 160]


def test_packet_too_big_about_nothing(tcp: Tcp) -> None:
    quote = build_ip(WORLD6, GUEST6, 6, bytes(20))
    tcp.send_ip(GATEWAY6, IP_ICMP6, b"\x02\0\0\0" + (1300).to_bytes(4, "big") + quote)
    tcp.dropped(Drop.DROP_TCP_NO_CONNECTION)
    tcp.send_ip(GATEWAY6, IP_ICMP6, b"\x02\0\0\0" + (1300).to_bytes(4, "big") + quote[:30])
    tcp.dropped(Drop.DROP_ICMP_MALFORMED)


# ---- forwards


@pytest.mark.parametrize(
    ("client", "seen"),
    [
        (WORLD6, WORLD6),
        (LOOPBACK6, GATEWAY6),
        (WORLD, GATEWAY6),
        (NETWORK6[:15] + b"\x99", GATEWAY6),
        (bytes.fromhex("fe80") + bytes(13) + b"\x01", GATEWAY6),
    ],
)
def test_client_of_a_forwarded_port(tcp: Tcp, client: bytes, seen: bytes) -> None:
    listener = tcp.host.listener()
    tcp.stack.add_forward("tcp", listener, GUEST6, 80)
    g = tcp.peer(guest_port=80, dest=seen, dest_port=40000)
    tcp.host.client(listener, client, 40000)
    g.expect("S 0:0(0) <mss 1440>")


def test_client_of_ipv6_of_a_guest_of_ipv4(lan: Lan) -> None:
    socket = lan.forward(80, GUEST)
    socket.datagram(WORLD6, 40000, b"hello", local_addr=GUEST6)
    frame = lan.next()
    assert (frame.ip.src, frame.udp.sport) == (bytes((10, 0, 2, 2)), 40000)
    lan.udp(frame.ip.src, 40000, b"answer", sport=80)
    assert socket.sent[-1] == Datagram(WORLD6, 40000, b"answer", local_addr=GUEST6)


def test_datagrams_of_a_client(lan: Lan) -> None:
    socket = lan.forward(80, GUEST6)
    socket.datagram(WORLD6, 40000, b"hello", local_addr=ROUTER6)
    frame = lan.next()
    assert (frame.ip.src, frame.ip.dst, frame.udp.data) == (WORLD6, GUEST6, b"hello")
    lan.udp(WORLD6, 40000, b"answer", sport=80)
    sent = socket.sent[-1]
    assert (sent.addr, sent.data, sent.local_addr) == (WORLD6, b"answer", ROUTER6)


def test_what_comes_from_another_zone_is_not_the_guests(lan: Lan) -> None:
    """RFC 4007 9: a link-local address means nothing beyond its link; ours tell which, too."""
    neighbour = bytes.fromhex("fe80000000000003") + bytes(7) + b"\x09"
    lan.mapped(WORLD6).datagram(neighbour, 53, b"?")
    lan.ping(WORLD6)
    lan.host.newest.datagram(neighbour, 0, echo6(icmp_type=129))
    lan.expect_nothing()
    assert lan.stat("host_rx_dropped") == 2
