"""Several name servers: who is asked when, and which answer the guest gets."""

from __future__ import annotations

import errno

import dpkt
import pytest

from harness.host import HostSocket
from harness.lan import PORT, Lan, udp_train
from harness.net import DNS, GUEST
from slirp.core.stats import Drop

FIRST = bytes((192, 0, 2, 53))
SECOND = bytes((198, 51, 100, 53))
THIRD = bytes.fromhex("20010db8" + "0" * 22 + "53")
PORT_UNREACHABLE = 3
SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 2, 3, 4, 5
DEAD_S = 30  # a server that has not answered is asked last for so long
TCP = dpkt.ip.IP_PROTO_TCP
SYN, RST, ACK = dpkt.tcp.TH_SYN, dpkt.tcp.TH_RST, dpkt.tcp.TH_ACK


@pytest.fixture
def dns(lan: Lan) -> Lan:
    """A stack that knows three name servers."""
    lan.stack.set_dns([FIRST, SECOND, THIRD])
    return lan


def query(ident: int = 7, text: bytes = b"a question") -> bytes:
    return ident.to_bytes(2, "big") + bytes(10) + text


def answer(ident: int = 7, rcode: int = 0, text: bytes = b"an answer") -> bytes:
    return ident.to_bytes(2, "big") + bytes((0x80, rcode)) + bytes(8) + text


def asked(lan: Lan) -> list[bytes]:
    """The servers of the sockets in their order."""
    return [socket.addr for socket in lan.host.sockets.values()]


def socket_of(lan: Lan, server: bytes) -> HostSocket:
    """The latest socket for that server."""
    return [socket for socket in lan.host.sockets.values() if socket.addr == server][-1]


def reply(lan: Lan, server: bytes, data: bytes) -> None:
    socket_of(lan, server).datagram(server, 53, data)


def refuse(lan: Lan, server: bytes) -> None:
    port_unreachable = (3, 3) if len(server) == 4 else (1, 4)
    socket_of(lan, server).report(errno.ECONNREFUSED, *port_unreachable, server, 53, server, 0)


# ---- UDP


def test_answer_ends_the_exchange(dns: Lan) -> None:
    dns.udp(DNS, 53, query())
    reply(dns, FIRST, answer())
    dns.expect_udp(DNS, 53, answer())
    dns.at_rest()
    assert asked(dns) == [FIRST]


@pytest.mark.parametrize("size", [12, 512, 1232, 4096, 65507])
def test_answers_of_any_size(dns: Lan, size: int) -> None:
    """RFC 6891: what the guest's EDNS asked for is between it and the server."""
    dns.udp(DNS, 53, query())
    data = answer(text=bytes(size - 12))
    reply(dns, FIRST, data)
    dns.expect_udp(DNS, 53, data)


def test_silence_goes_on_to_the_next_after_a_second_each(dns: Lan) -> None:
    dns.udp(DNS, 53, query())
    dns.advance(0.99)
    assert asked(dns) == [FIRST]
    dns.advance(0.02)
    assert asked(dns) == [FIRST, SECOND]
    dns.advance(1)
    assert asked(dns) == [FIRST, SECOND, THIRD]
    assert all(s.sent[0].data == query() for s in dns.host.sockets.values())
    assert dns.stat("dns_failovers") == 2
    dns.advance(10)
    dns.at_rest()


@pytest.mark.parametrize("server", [FIRST, SECOND])
def test_slow_server_may_answer_still(dns: Lan, server: bytes) -> None:
    """Whoever comes first; the others are not heard any more."""
    dns.udp(DNS, 53, query())
    dns.advance(1.5)
    reply(dns, server, answer())
    dns.expect_udp(DNS, 53, answer())
    dns.at_rest()


def test_error_goes_on_at_once(dns: Lan) -> None:
    dns.udp(DNS, 53, query())
    refuse(dns, FIRST)
    dns.expect_nothing()
    reply(dns, SECOND, answer())
    dns.expect_udp(DNS, 53, answer())
    assert asked(dns) == [FIRST, SECOND]


def test_unreachable_at_once(dns: Lan) -> None:
    """No socket, or no route: the next one, in the same breath."""
    dns.host.open_error = errno.ENETUNREACH
    dns.udp(DNS, 53, query())
    dns.expect_icmp_error(0, src=DNS)
    assert [call[1] for call in dns.host.called("udp_open")] == [FIRST, SECOND, THIRD]
    dns.dropped(Drop.DROP_UDP_HOST_REFUSED)
    dns.at_rest()


@pytest.mark.parametrize("rcode", [SERVFAIL, NOTIMP, REFUSED])
def test_server_that_cannot_help(dns: Lan, rcode: int) -> None:
    dns.udp(DNS, 53, query())
    reply(dns, FIRST, answer(rcode=rcode))
    dns.expect_nothing()
    reply(dns, SECOND, answer())
    dns.expect_udp(DNS, 53, answer())
    dns.at_rest()


def test_nobody_can_help(dns: Lan) -> None:
    """The guest gets the last one's word."""
    dns.udp(DNS, 53, query())
    for server in (FIRST, SECOND):
        reply(dns, server, answer(rcode=SERVFAIL))
    dns.expect_nothing()
    reply(dns, THIRD, answer(rcode=REFUSED))
    dns.expect_udp(DNS, 53, answer(rcode=REFUSED))
    dns.at_rest()


def test_one_who_cannot_help_does_not_silence_a_slow_one(dns: Lan) -> None:
    dns.stack.set_dns([FIRST, SECOND])
    dns.udp(DNS, 53, query())
    dns.advance(1.1)
    reply(dns, SECOND, answer(rcode=SERVFAIL))
    dns.expect_nothing()
    reply(dns, FIRST, answer())
    dns.expect_udp(DNS, 53, answer())
    dns.at_rest()


def test_unknown_name_is_an_answer(dns: Lan) -> None:
    dns.udp(DNS, 53, query())
    reply(dns, FIRST, answer(rcode=NXDOMAIN))
    dns.expect_udp(DNS, 53, answer(rcode=NXDOMAIN))
    assert asked(dns) == [FIRST]


def test_queries_of_one_port_are_told_apart(dns: Lan) -> None:
    """A and AAAA from one socket (getaddrinfo(3)): each its own identifier, exchange and fate."""
    dns.udp(DNS, 53, query(1))
    first = dns.host.newest
    dns.udp(DNS, 53, query(2))
    second = dns.host.newest
    second.datagram(FIRST, 53, answer(2))
    dns.expect_udp(DNS, 53, answer(2))
    assert (first.ended, second.ended) == ("", "close")
    first.datagram(FIRST, 53, answer(1))
    dns.expect_udp(DNS, 53, answer(1))
    dns.at_rest()


def test_train_of_queries(dns: Lan) -> None:
    dns.send_frame(udp_train(DNS, 53, query(1) + query(2) + query(3)[:-2], len(query())))
    data = [socket.sent[0].data for socket in dns.host.sockets.values()]
    assert data == [query(1), query(2), query(3)[:-2]]


def test_repeat_goes_to_all_that_were_asked(dns: Lan) -> None:
    dns.udp(DNS, 53, query())
    dns.advance(1.5)
    dns.udp(DNS, 53, query())
    assert [len(socket.sent) for socket in dns.host.sockets.values()] == [2, 2]


@pytest.mark.parametrize("data", [b"", b"x", answer(8), query(7), answer()[:11]])
def test_what_is_no_answer_passes_and_ends_nothing(dns: Lan, data: bytes) -> None:
    """Another identifier, no response, too short: the guest may know better."""
    dns.udp(DNS, 53, query())
    reply(dns, FIRST, data)
    dns.expect_udp(DNS, 53, data)
    reply(dns, FIRST, answer())
    dns.expect_udp(DNS, 53, answer())
    dns.at_rest()


@pytest.mark.parametrize("data", [b"", b"x", b"xy"])
def test_what_is_no_query_passes(dns: Lan, data: bytes) -> None:
    dns.udp(DNS, 53, data)
    assert socket_of(dns, FIRST).sent[0].data == data


# ---- servers found dead


def test_dead_server_is_asked_last_for_a_while(dns: Lan) -> None:
    dns.udp(DNS, 53, query())
    refuse(dns, FIRST)
    reply(dns, SECOND, answer())
    dns.next()
    for after_s, server in ((DEAD_S - 0.1, SECOND), (0.2, FIRST)):
        dns.advance(after_s)
        dns.udp(DNS, 53, query())
        assert asked(dns)[-1] == server
        reply(dns, server, answer())
        dns.next()


def test_all_dead_is_as_if_none_were(dns: Lan) -> None:
    for ident in (1, 2):
        dns.udp(DNS, 53, query(ident))
        for server in (FIRST, SECOND, THIRD):
            refuse(dns, server)
        dns.expect_icmp_error(PORT_UNREACHABLE, src=DNS)
    assert asked(dns) == [FIRST, SECOND, THIRD] * 2


def test_late_answer_clears_the_name(dns: Lan) -> None:
    dns.udp(DNS, 53, query())
    dns.advance(1.5)
    reply(dns, FIRST, answer())
    dns.next()
    dns.udp(DNS, 53, query(8))
    assert asked(dns)[-1] == FIRST


def test_other_list_while_a_query_waits(dns: Lan) -> None:
    """What the old list's servers do says nothing of the new one's."""
    dns.udp(DNS, 53, query())
    dns.stack.set_dns([SECOND, FIRST])
    refuse(dns, FIRST)
    reply(dns, SECOND, answer())
    dns.expect_udp(DNS, 53, answer())
    dns.udp(DNS, 53, query(8))
    assert asked(dns) == [FIRST, SECOND, SECOND]


# ---- bounds


def test_queries_kept_are_bounded(dns: Lan) -> None:
    """64 KiB; what goes beyond has one server."""
    for ident in range(80):
        dns.udp(DNS, 53, query(ident, bytes(1024 - 12)))
    dns.advance(1.1)
    assert asked(dns).count(FIRST) == 80
    assert asked(dns).count(SECOND) == 64
    dns.advance(10)
    dns.at_rest()
    dns.udp(DNS, 53, query())
    dns.advance(1.1)
    assert asked(dns)[-1] != asked(dns)[-2]


def test_no_descriptor_left(dns: Lan) -> None:
    dns.host.open_error = errno.EMFILE
    dns.udp(DNS, 53, query())
    dns.dropped(Drop.DROP_FLOWS_FULL)
    dns.at_rest()


# ---- TCP


def open_tcp(lan: Lan) -> None:
    tcp = dpkt.tcp.TCP(sport=PORT, dport=53, seq=1, flags=SYN)
    lan.send(DNS, TCP, tcp)


def test_refused_connection_goes_to_the_next(dns: Lan) -> None:
    """Before the guest is answered: it never hears of the first."""
    open_tcp(dns)
    dns.host.newest.refused(errno.ECONNREFUSED)
    dns.expect_nothing()
    dns.host.newest.refused(errno.ETIMEDOUT)
    dns.host.newest.connected()
    assert dns.next().ip.data.flags == SYN | ACK
    assert dns.host.called("tcp_connect") == [(server, 53) for server in (FIRST, SECOND, THIRD)]
    assert [s.ended for s in dns.host.sockets.values()] == ["close", "close", ""]


def test_connection_that_nobody_takes(dns: Lan) -> None:
    open_tcp(dns)
    for _ in range(3):
        dns.host.newest.refused(errno.ECONNREFUSED)
    assert dns.next().ip.data.flags == RST | ACK
    dns.at_rest()


def test_silent_server_at_the_second_syn(dns: Lan) -> None:
    """The guest's kernel repeats its SYN after a second (RFC 6298 2.1)."""
    for _ in range(4):
        open_tcp(dns)
    assert dns.host.called("tcp_connect") == [(server, 53) for server in (FIRST, SECOND, THIRD)]
    dns.host.newest.connected()
    assert dns.next().ip.data.flags == SYN | ACK
    dns.dropped(*[Drop.DROP_TCP_CONNECTING] * 3)


def test_connection_that_cannot_even_begin(dns: Lan) -> None:
    dns.host.connect_error = errno.ENETUNREACH
    open_tcp(dns)
    frame = dns.next()
    assert (frame.icmp.type, frame.icmp.code, frame.ip.dst) == (3, 0, GUEST)
    assert len(dns.host.called("tcp_connect")) == 3
    dns.dropped(Drop.DROP_TCP_HOST_REFUSED)


def test_other_connections_have_one_destination(dns: Lan) -> None:
    dns.send(FIRST, TCP, dpkt.tcp.TCP(sport=PORT, dport=53, seq=1, flags=SYN))
    dns.host.newest.refused(errno.ECONNREFUSED)
    assert dns.next().ip.data.flags == RST | ACK
    assert dns.stat("dns_failovers") == 0
