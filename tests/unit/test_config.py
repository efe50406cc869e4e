"""Values of the command line: what is accepted, what is refused and how."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp import config
from slirp.config import parse_cidr, parse_cidr6, parse_mac, parse_mtu, parse_publication
from slirp.errors import SlirpError, UsageError


def test_default_network_is_slirp4netns() -> None:
    network = parse_cidr(config.DEFAULT_CIDR)
    assert config.format_ipv4(network.address) == "10.0.2.0"
    assert config.format_ipv4(network.netmask) == "255.255.255.0"
    assert config.format_ipv4(network.gateway) == "10.0.2.2"
    assert config.format_ipv4(network.dns) == "10.0.2.3"
    assert config.format_ipv4(network.guest) == "10.0.2.100"
    assert config.format_mac(network.gateway_mac) == "52:55:0a:00:02:02"


@given(
    st.integers(min_value=0, max_value=2**32 - 1),
    st.integers(min_value=config.MIN_PREFIX_LEN, max_value=config.MAX_PREFIX_LEN),
)
def test_all_addresses_lie_in_their_network(address: int, prefix_len: int) -> None:
    expected = ipaddress.ip_network((address, prefix_len), strict=False)
    network = parse_cidr(str(expected))
    assert network.prefix_len == prefix_len
    assert ipaddress.ip_address(network.netmask) == expected.netmask
    members = [ipaddress.ip_address(a) for a in (network.gateway, network.dns, network.guest)]
    assert all(member in expected for member in members)
    assert expected.broadcast_address not in members


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid CIDR: "),
        ("foo", "invalid CIDR: foo"),
        ("10.0.2.0", "invalid CIDR: 10.0.2.0"),
        ("10.0.2.0/", "invalid CIDR: 10.0.2.0/"),
        ("10.0.2.0/24x", "invalid CIDR: 10.0.2.0/24x"),
        ("10.0.2.0/024", "invalid CIDR: 10.0.2.0/024"),
        ("10.0.2.0/-1", "invalid CIDR: 10.0.2.0/-1"),
        ("10.0.2.0/²", "invalid CIDR: 10.0.2.0/²"),
        ("10.0.2/24", "invalid CIDR: 10.0.2/24"),
        ("fd00::/64", "invalid CIDR: fd00::/64"),
        ("300.0.2.0/24", "invalid network address: 300.0.2.0"),
        ("10.0.2.0/0", "prefix length needs to be 1-25"),
        ("10.0.2.0/26", "prefix length needs to be 1-25"),
        ("10.0.2.0/33", "prefix length needs to be 1-25"),
        (
            "10.0.2.100/24",
            "CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.100/24",
        ),
    ],
)
def test_cidr_refused(text: str, message: str) -> None:
    with pytest.raises(SlirpError) as refusal:
        parse_cidr(text)
    assert str(refusal.value) == message


def test_mac() -> None:
    assert parse_mac("0A:bb:c:00:ee:ff") == bytes([0x0A, 0xBB, 0x0C, 0, 0xEE, 0xFF])


@pytest.mark.parametrize(
    "text",
    ["", "zz", "00:11:22:33:44", "00:11:22:33:44:55:66", "0x:11:22:33:44:55", "001:1:2:3:4:5"],
)
def test_mac_malformed(text: str) -> None:
    with pytest.raises(SlirpError, match="is an invalid MAC address"):
        parse_mac(text)


@pytest.mark.parametrize("text", ["01:11:22:33:44:55", "ff:ff:ff:ff:ff:ff", "0:0:0:0:0:0"])
def test_mac_of_no_station(text: str) -> None:
    with pytest.raises(SlirpError, match="multicast or zero"):
        parse_mac(text)


@pytest.mark.parametrize("text", ["576", "1500", "65521"])
def test_mtu(text: str) -> None:
    assert parse_mtu(text) == int(text)


@pytest.mark.parametrize("text", ["", "0", "575", "65522", "-5", "abc", "1500x", "9" * 5000])
def test_mtu_refused(text: str) -> None:
    with pytest.raises(UsageError, match="MTU must be a positive integer"):
        parse_mtu(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", ("tcp", "", 8080, 80)),
        ("8080:80/tcp", ("tcp", "", 8080, 80)),
        ("127.0.0.1:53:53/udp", ("udp", "127.0.0.1", 53, 53)),
    ],
)
def test_publication(text: str, expected: tuple[str, str, int, int]) -> None:
    wish = parse_publication(text)
    assert (wish.proto, wish.host_addr, wish.host_port, wish.guest_port) == expected


@pytest.mark.parametrize(
    "text",
    ["", "80", "80:", ":80", "80:80/", "80:80/sctp", "0:80", "80:65536", "x:80:80", "::1:8:8"],
)
def test_publication_refused(text: str) -> None:
    with pytest.raises(SlirpError, match="invalid port forward"):
        parse_publication(text)


def test_dhcp_pool() -> None:
    pool = parse_cidr("10.0.2.0/24").dhcp_pool
    assert (pool[0], pool[-1], len(pool)) == (bytes([10, 0, 2, 15]), bytes([10, 0, 2, 30]), 16)


@pytest.mark.parametrize(
    ("text", "gateway", "dns"),
    [
        ("fd00::/64", "fd00::2", "fd00::3"),
        ("2001:db8:1:2::/64", "2001:db8:1:2::2", "2001:db8:1:2::3"),
        ("FD5B:E9CE:DFFB:CAFE::/64", "fd5b:e9ce:dffb:cafe::2", "fd5b:e9ce:dffb:cafe::3"),
    ],
)
def test_cidr6(text: str, gateway: str, dns: str) -> None:
    network6 = parse_cidr6(text)
    assert config.format_ipv6(network6.gateway) == gateway
    assert config.format_ipv6(network6.dns) == dns
    assert network6.prefix_len == 64
    assert network6.contains(network6.dns)
    assert not network6.contains(bytes(16))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "fd00::",
            "fd00::/",
            "fd00::/63",
            "fd00::/65",
            "fd00::/064",
            "fd00::/x",
            "fd00::1/64",
        ),
        *("/64", "10.0.2.0/64", "::/64", "::ffff:10.0.2.0/64", "fe80::/64", "ff02::/64"),
        *("fd00::%eth0/64", "fd00::/64/64", "fd00::\0/64", "\ud800::/64"),
    ],
)
def test_cidr6_refused(text: str) -> None:
    with pytest.raises(SlirpError, match="IPv6 CIDR"):
        parse_cidr6(text)


def test_address_that_a_guest_makes_of_its_own() -> None:
    """The example of RFC 4291 appendix A."""
    guest = parse_cidr6("2001:db8::/64").guest(bytes.fromhex("34567890 1234".replace(" ", "")))
    assert config.format_ipv6(guest) == "2001:db8::3656:78ff:fe90:1234"


@pytest.mark.parametrize("name", ["tap0", "a", "x" * 15, "täp"])
def test_tap_name(name: str) -> None:
    config.check_tap_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a:1", "tap%d", "x" * 16, "ä" * 8])
def test_tap_name_refused(name: str) -> None:
    with pytest.raises(SlirpError, match="invalid TAPNAME"):
        config.check_tap_name(name)
