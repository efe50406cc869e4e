"""Router advertisements (RFC 4861, 8106): what is said, to whom, and to which question."""

from __future__ import annotations

from typing import Any

import dpkt
import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether

from harness.dhcp import GATEWAY_MAC, LINK_LOCAL, MAC, solicitation
from slirp.config import Config, parse_cidr6
from slirp.services import Services, ra


class Resolvers:
    """Stands for slirp.resolver.Resolvers."""

    def __init__(self, *domains: str) -> None:
        self.domains = list(domains)


def services(
    *domains: str, dns: bool = True, mtu: int = 1500, cidr6: str | None = "fd00::/64"
) -> Services:
    config = Config(mtu)
    config.dns = dns
    config.network6 = parse_cidr6(cidr6) if cidr6 else None
    return Services(config, Resolvers(*domains) if dns else None)  # type: ignore[arg-type]


def test_answer_to_a_solicitation() -> None:
    reply = services("example.test").answer(solicitation(), 0.0)
    assert reply is not None
    frame = Ether(reply)
    assert (frame.src, frame.dst) == (GATEWAY_MAC, MAC)
    assert (frame[IPv6].src, frame[IPv6].dst, frame[IPv6].hlim) == ("fe80::2", LINK_LOCAL, 255)
    ra = frame[ICMPv6ND_RA]
    assert (ra.chlim, ra.M, ra.O, ra.routerlifetime) == (64, 0, 1, 1800)
    assert (ra.reachabletime, ra.retranstimer) == (0, 0)
    assert frame[ICMPv6NDOptSrcLLAddr].lladdr == GATEWAY_MAC
    assert frame[ICMPv6NDOptMTU].mtu == 1500
    prefix = frame[ICMPv6NDOptPrefixInfo]
    assert (prefix.prefix, prefix.prefixlen, prefix.L, prefix.A) == ("fd00::", 64, 1, 1)
    assert 0 < prefix.preferredlifetime <= prefix.validlifetime
    assert (frame[ICMPv6NDOptRDNSS].dns, frame[ICMPv6NDOptRDNSS].lifetime) == (["fd00::3"], 1800)
    assert frame[ICMPv6NDOptDNSSL].searchlist == ["example.test."]


def test_frame_is_sound() -> None:
    """By two oracles with checksums of their own."""
    reply = services("a.test").answer(solicitation(), 0.0)
    assert reply is not None
    again = Ether(reply)
    del again[IPv6].plen, again[ICMPv6ND_RA].cksum
    assert bytes(again) == reply
    ip = dpkt.ethernet.Ethernet(reply).data
    assert ip.data.type == dpkt.icmp6.ND_ROUTER_ADVERT
    assert (len(reply) - 14 - 40) % 8 == 0


def test_who_has_no_address_yet_hears_it_with_everybody() -> None:
    reply = services().answer(solicitation(src="::", source_mac=False), 0.0)
    assert reply is not None
    frame = Ether(reply)
    assert (frame.dst, frame[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")


def solicited(desk: Services) -> Any:
    """What somebody is told who asks."""
    reply = desk.answer(solicitation(), 0.0)
    assert reply is not None
    return Ether(reply)


def test_told_to_everybody() -> None:
    config = Config()
    config.network6 = parse_cidr6("fd00::/64")
    frame = Ether(ra.advertisement(config, ["a.test"], None))
    assert (frame.dst, frame[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
    assert frame[ICMPv6NDOptDNSSL].searchlist == ["a.test."]


def test_network_of_ones_choice() -> None:
    frame = solicited(services(mtu=65520, cidr6="2001:db8:9::/64"))
    assert frame[ICMPv6NDOptMTU].mtu == 65520
    assert frame[ICMPv6NDOptPrefixInfo].prefix == "2001:db8:9::"
    assert frame[ICMPv6NDOptRDNSS].dns == ["2001:db8:9::3"]


def test_no_name_service_is_told_of_where_there_is_none() -> None:
    frame = solicited(services(dns=False))
    assert ICMPv6NDOptRDNSS not in frame
    assert ICMPv6NDOptDNSSL not in frame
    assert frame[ICMPv6ND_RA].O == 0


def test_domains_are_as_many_as_fit() -> None:
    frame = solicited(services(*(f"{chr(97 + n) * 60}.test" for n in range(26))))
    assert len(frame[IPv6]) <= 1280
    assert len(frame[ICMPv6NDOptDNSSL].searchlist) == 15


def test_no_ipv6_no_router() -> None:
    desk = services(cidr6=None)
    assert desk.answer(solicitation(), 0.0) is None


# ---- what is no valid solicitation (RFC 4861 6.1.1)


def test_from_beyond_the_link() -> None:
    assert services().answer(solicitation(hlim=254), 0.0) is None


def test_nobody_with_a_hardware_address() -> None:
    assert services().answer(solicitation(src="::"), 0.0) is None


@pytest.mark.parametrize(("at", "byte"), [(0, 134), (1, 1)], ids=["type", "code"])
def test_another_message(at: int, byte: int) -> None:
    frame = bytearray(solicitation())
    frame[14 + 40 + at] = byte
    assert services().answer(bytes(frame), 0.0) is None


@pytest.mark.parametrize("units", [0, 2])
def test_option_that_does_not_fit(units: int) -> None:
    frame = bytearray(solicitation())
    frame[14 + 40 + 8 + 1] = units
    assert services().answer(bytes(frame), 0.0) is None


def test_cut_short() -> None:
    whole = solicitation()
    for n in range(len(whole)):
        assert services().answer(whole[:n], 0.0) is None
