"""The DNS address: port 53 there is the host's name server, and nothing else is to be had there."""

from __future__ import annotations

import errno
from collections.abc import Callable

import dpkt
import pytest

from harness.host import Datagram
from harness.lan import Lan
from harness.net import DNS, GATEWAY, GUEST
from slirp.core.stats import Drop

SERVER = bytes((192, 0, 2, 53))
SECOND = bytes((198, 51, 100, 53))
SERVER6 = bytes.fromhex("20010db8" + "0" * 22 + "53")
LOCAL = bytes((127, 0, 0, 53))
PORT_UNREACHABLE = 3
TCP = dpkt.ip.IP_PROTO_TCP


@pytest.fixture
def dns(lan: Lan) -> Lan:
    """A stack that knows two name servers."""
    lan.stack.set_dns([SERVER, SECOND])
    return lan


def asked(lan: Lan) -> list[tuple[bytes, list[bytes]]]:
    """Whom each socket of the host has asked, and what."""
    return [(s.addr, [d.data for d in s.sent]) for s in lan.host.sockets.values()]


def syn(lan: Lan, dst: bytes, dport: int) -> None:
    lan.send(dst, TCP, dpkt.tcp.TCP(sport=40000, dport=dport, flags=dpkt.tcp.TH_SYN))


@pytest.mark.parametrize("server", [SERVER, LOCAL, SERVER6], ids=["v4", "loopback", "v6"])
def test_query_goes_to_the_first_server(lan: Lan, server: bytes) -> None:
    """Also to one on the host's loopback, or of the other family; the guest sees one address."""
    lan.stack.set_dns([server, SECOND])
    lan.udp(DNS, 53, b"query")
    assert lan.host.called("udp_open") == [(len(server) == 4, server, 53)]
    assert lan.host.newest.sent == [Datagram(server, 53, b"query")]
    lan.host.newest.datagram(server, 53, b"answer")
    lan.expect_udp(DNS, 53, b"answer")


def test_query_goes_there_with_the_loopback_closed(make_lan: Callable[..., Lan]) -> None:
    """--disable-host-loopback does not take the resolver away, wherever it runs."""
    lan = make_lan(host_loopback=False)
    lan.stack.set_dns([LOCAL])
    lan.udp(DNS, 53)
    assert lan.host.newest.sent == [Datagram(LOCAL, 53, b"query")]


def test_query_by_tcp(dns: Lan) -> None:
    """RFC 7766 5: TCP is not optional."""
    syn(dns, DNS, 53)
    assert dns.host.called("tcp_connect") == [(SERVER, 53)]


def test_other_servers_for_later_queries(dns: Lan) -> None:
    """The host has changed networks: what runs goes on, what begins goes to the new one."""
    dns.udp(DNS, 53, b"one", sport=5000)
    dns.stack.set_dns([SECOND])
    dns.udp(DNS, 53, b"two", sport=5000)
    dns.udp(DNS, 53, b"three", sport=5001)
    assert asked(dns) == [(SERVER, [b"one"]), (SECOND, [b"two"]), (SECOND, [b"three"])]


def test_ten_seconds_are_enough(dns: Lan) -> None:
    """Each query of a stub resolver comes from a port of its own: they are not kept for long."""
    dns.udp(DNS, 53)
    socket = dns.host.newest
    dns.advance(9.99)
    socket.datagram(SERVER, 53, b"late")
    dns.expect_udp(DNS, 53, b"late")
    dns.advance(9.99)
    assert dns.stat("flows") == 1
    dns.advance(0.02)
    dns.at_rest()


def test_gateways_port_53_is_the_hosts_own(dns: Lan) -> None:
    dns.udp(GATEWAY, 53)
    assert dns.host.newest.sent == [Datagram(bytes((127, 0, 0, 1)), 53, b"query")]


@pytest.mark.parametrize("error", [(errno.ECONNREFUSED, 3, 3), (errno.ECONNREFUSED, 0, 0)])
@pytest.mark.parametrize("offender", [SERVER, LOCAL, b""])
def test_all_servers_are_down(lan: Lan, error: tuple[int, int, int], offender: bytes) -> None:
    """The guest's resolver need not wait; whoever said so on the host's side, the guest hears it
    from the address that it had asked.
    """
    lan.stack.set_dns([SERVER, SECOND])
    lan.udp(DNS, 53)
    for server in (SERVER, SECOND):
        lan.expect_nothing()
        lan.host.newest.report(*error, server, 53, offender, 0)
    quote = lan.expect_icmp_error(PORT_UNREACHABLE, src=DNS)
    assert (quote.src, quote.dst, quote.data.dport) == (GUEST, DNS, 53)
    lan.at_rest()


@pytest.mark.parametrize("dport", [1, 52, 54, 80, 853])
@pytest.mark.parametrize("host_loopback", [True, False])
def test_no_other_port(make_lan: Callable[..., Lan], dport: int, host_loopback: bool) -> None:
    """Least of all the host's loopback behind it."""
    lan = make_lan(host_loopback=host_loopback)
    lan.stack.set_dns([SERVER])
    lan.udp(DNS, dport)
    lan.expect_icmp_error(PORT_UNREACHABLE, src=DNS)
    syn(lan, DNS, dport)
    assert lan.next().ip.data.flags == dpkt.tcp.TH_RST | dpkt.tcp.TH_ACK
    lan.dropped(Drop.DROP_UDP_FORBIDDEN, Drop.DROP_TCP_FORBIDDEN)
    assert not lan.host.calls


@pytest.mark.parametrize("servers", [[], [SERVER]])
def test_disabled_or_unknown(make_lan: Callable[..., Lan], servers: list[bytes]) -> None:
    """A host without a name server: refused at once, no time-out. So are queries by UDP under
    --disable-dns; TCP is not answered, which slirp4netns's own tests look for.
    """
    lan = make_lan(dns_enabled=not servers)
    lan.stack.set_dns(servers)
    lan.udp(DNS, 53)
    lan.expect_icmp_error(PORT_UNREACHABLE, src=DNS)
    syn(lan, DNS, 53)
    if servers:
        lan.expect_nothing()
    else:
        assert lan.next().ip.data.flags == dpkt.tcp.TH_RST | dpkt.tcp.TH_ACK
    lan.dropped(Drop.DROP_UDP_FORBIDDEN, Drop.DROP_TCP_FORBIDDEN)
    assert not lan.host.calls


def test_disabled_address_answers_echo_still(make_lan: Callable[..., Lan]) -> None:
    lan = make_lan(dns_enabled=False)
    lan.ping(DNS)
    lan.expect_echo_reply(DNS)


@pytest.mark.parametrize("n", [0, 3, 5, 15, 17])
def test_address_of_no_family(lan: Lan, n: int) -> None:
    with pytest.raises(ValueError, match="4 or 16 bytes"):
        lan.stack.set_dns([bytes(n)])


def test_more_servers_than_there_is_room_for(lan: Lan) -> None:
    lan.stack.set_dns([SERVER] * 100)
    lan.udp(DNS, 53)
    assert lan.host.newest.sent[0].addr == SERVER
