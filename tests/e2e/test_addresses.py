"""How guests come by their addresses: from us with -c, by DHCP clients that people use, in IPv6."""

from __future__ import annotations

import json
import pathlib
import shlex
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.daemons import Slirp
from lab.servers import echo, receive_exactly, serve
from lab.topology import REMOTE, Guest, Topology

Attach = Callable[..., Slirp]
PATIENCE_S = 10.0
MAC = "02:00:00:00:00:77"

# What every client's script does: tell what it was told, and use the address.
UDHCPC_SCRIPT = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr replace "$ip/$mask" dev "$interface" && ip route replace default via "$router" || exit 1
for name in ip mask router dns mtu domain search lease serverid; do
    eval echo "$name=\\$$name"
done > {told}
"""
DHCLIENT_SCRIPT = """#!/bin/sh
case $reason in
PREINIT) ip link set "$interface" up ;;
BOUND|REBOOT)
    ip addr replace "$new_ip_address/24" dev "$interface" || exit 1
    ip route replace default via "$new_routers" || exit 1
    set | grep ^new_ > {told} ;;
RELEASE|EXPIRE|FAIL|STOP) ip addr flush dev "$interface" ;;
esac
"""
DHCLIENT_CONF = """
request subnet-mask, broadcast-address, routers, domain-name, domain-name-servers, domain-search,
    host-name, interface-mtu;
timeout 20;
"""


@pytest.fixture
def search_domains(bed: Topology) -> Iterator[None]:
    """The host has domains to search in."""
    bed.set_resolv_conf(REMOTE, search="example.test corp.example.test")
    yield
    bed.set_resolv_conf(REMOTE)


def prepare(bed: Topology, guest: Guest, script: str) -> tuple[str, pathlib.Path]:
    """The script as a file of the guest's user, and where it writes."""
    told = bed.workdir / f"told-{guest.pid}"
    told.touch()
    told.chmod(0o666)
    path = bed.workdir / f"script-{guest.pid}"
    path.write_text(script.replace("{told}", shlex.quote(str(told))))
    path.chmod(0o755)
    return str(path), told


def read(told: pathlib.Path) -> dict[str, str]:
    """NAME=VALUE lines as a dictionary."""
    pairs = (line.partition("=") for line in told.read_text().splitlines())
    return {name: value.strip("'") for name, _, value in pairs}


def check_traffic(bed: Topology, guest: Guest) -> None:
    """A connection to the world, by the address and route that the guest has got."""
    with (
        serve(bed.remote.listen(), echo) as port,
        guest.connect(REMOTE, port, timeout=5) as client,
    ):
        client.sendall(b"?")
        assert receive_exactly(client, 1) == b"?"


def test_busybox_gets_a_lease(bed: Topology, attach: Attach, search_domains: None) -> None:
    net = attach("--mtu=9000", configure=False)
    script, told = prepare(bed, net.guest, UDHCPC_SCRIPT)
    net.guest.run("ip", "link", "set", "tap0", "up")
    net.guest.run(
        *("udhcpc", "-i", "tap0", "-f", "-n", "-q", "-t", "5", "-T", "2", "-s", script),
        *("-O", "mtu", "-O", "search"),
    )
    assert read(told) == {
        "ip": "10.0.2.15",
        "mask": "24",
        "router": "10.0.2.2",
        "dns": "10.0.2.3",
        "mtu": "9000",
        "domain": "example.test",
        "search": "example.test corp.example.test",
        "lease": "86400",
        "serverid": "10.0.2.2",
    }
    check_traffic(bed, net.guest)


def test_busybox_gets_the_same_address_again(bed: Topology, attach: Attach) -> None:
    net = attach(configure=False)
    script, told = prepare(bed, net.guest, UDHCPC_SCRIPT)
    net.guest.run("ip", "link", "set", "tap0", "up")
    for _ in range(2):
        net.guest.run("udhcpc", "-i", "tap0", "-f", "-n", "-q", "-R", "-s", script)
        assert read(told)["ip"] == "10.0.2.15"
    # with a wish for an address that is not to be had
    net.guest.run("udhcpc", "-i", "tap0", "-f", "-n", "-q", "-r", "10.0.2.200", "-s", script)
    assert read(told)["ip"] == "10.0.2.15"


def test_dhclient_gets_a_lease(bed: Topology, attach: Attach, search_domains: None) -> None:
    net = attach("--mtu=1400", "--cidr=192.168.7.0/24", configure=False)
    script, told = prepare(bed, net.guest, DHCLIENT_SCRIPT)
    files = {name: bed.workdir / f"{name}-{net.guest.pid}" for name in ("conf", "leases", "pid")}
    files["conf"].write_text(DHCLIENT_CONF)
    options = ("-4", "-sf", script, "-cf", str(files["conf"]), "-lf", str(files["leases"]))
    command = ("dhclient", *options, "-pf", str(files["pid"]), "tap0")
    net.guest.run(*command[:1], "-1", *command[1:])
    try:
        got = read(told)
        check_traffic(bed, net.guest)
    finally:
        net.guest.run(*command[:1], "-r", *command[1:])
    assert got["new_ip_address"] == "192.168.7.15"
    assert got["new_subnet_mask"] == "255.255.255.0"
    assert got["new_broadcast_address"] == "192.168.7.255"
    assert got["new_routers"] == "192.168.7.2"
    assert got["new_domain_name_servers"] == "192.168.7.3"
    assert got["new_interface_mtu"] == "1400"
    assert got["new_domain_name"] == "example.test"
    assert got["new_domain_search"] == "example.test. corp.example.test."
    assert got["new_dhcp_lease_time"] == "86400"
    assert net.guest.addresses() == []


def test_no_name_servers_without_dns(bed: Topology, attach: Attach, search_domains: None) -> None:
    net = attach("--disable-dns", configure=False)
    script, told = prepare(bed, net.guest, UDHCPC_SCRIPT)
    net.guest.run("ip", "link", "set", "tap0", "up")
    net.guest.run("udhcpc", "-i", "tap0", "-f", "-n", "-q", "-O", "search", "-s", script)
    got = read(told)
    assert (got["ip"], got["dns"], got["domain"], got["search"]) == ("10.0.2.15", "", "", "")


# IPv6


def addresses6(guest: Guest) -> dict[str, dict[str, Any]]:
    """What `ip` knows of each global IPv6 address of the TAP."""
    shown = json.loads(guest.run("ip", "-6", "-j", "addr", "show", "dev", "tap0").stdout)
    infos = [info for link in shown for info in link.get("addr_info", [])]
    return {f"{info['local']}/{info['prefixlen']}": info for info in infos}


def default_routes6(guest: Guest) -> list[str]:
    """Gateways of the IPv6 default routes."""
    shown = json.loads(guest.run("ip", "-6", "-j", "route").stdout)
    return [route["gateway"] for route in shown if route["dst"] == "default"]


@pytest.mark.beyond
@pytest.mark.parametrize(
    ("option", "own", "gateway"),
    [
        ("-6", "fd00::ff:fe00:77/64", "fd00::2"),
        ("--cidr6=2001:db8:9:8::/64", "2001:db8:9:8:0:ff:fe00:77/64", "2001:db8:9:8::2"),
    ],
)
def test_ipv6_is_configured_when_ready(attach: Attach, option: str, own: str, gateway: str) -> None:
    """The address is the one that the guest would make of its MAC by itself (RFC 4291 2.5.1)."""
    net = attach(option, f"--macaddress={MAC}")
    addresses = addresses6(net.guest)
    assert own in addresses
    assert not any(info.get("tentative") for info in addresses.values())
    assert addresses[own]["scope"] == "global"
    assert default_routes6(net.guest) == [gateway]
    assert " 0% packet loss" in net.guest.run("ping", "-6", "-c1", "-W2", gateway).stdout


def test_guest_configures_itself_from_our_advertisement(attach: Attach) -> None:
    """RFC 4862, by the kernel's own hand: without -c nothing of ours stands in its way."""
    net = attach("-6", "--mtu=9000", configure=False)
    net.guest.sysctl(ipv6__conf__tap0__accept_dad="0")
    net.guest.run("ip", "link", "set", "tap0", "mtu", "9000", "address", MAC, "up")
    until = time.monotonic() + PATIENCE_S
    while "fd00::ff:fe00:77/64" not in addresses6(net.guest) and time.monotonic() < until:
        time.sleep(0.05)
    assert "fd00::ff:fe00:77/64" in addresses6(net.guest)
    assert default_routes6(net.guest) == ["fe80::2"]
    assert " 0% packet loss" in net.guest.run("ping", "-6", "-c1", "-W2", "fd00::2").stdout


def test_no_ipv6_unless_asked_for(attach: Attach) -> None:
    net = attach()
    assert not any(info["scope"] == "global" for info in addresses6(net.guest).values())
    assert default_routes6(net.guest) == []


@pytest.mark.parametrize("mtu", ["1279", "1280"])
def test_ipv6_needs_its_least_mtu(attach: Attach, mtu: str) -> None:
    net = attach("-6", f"--mtu={mtu}")
    assert bool(default_routes6(net.guest)) == (mtu == "1280")


def test_guest_that_wants_no_ipv6_gets_none(bed: Topology, attach: Attach) -> None:
    """Podman always asks for IPv6, and its user may have set this: nothing fails."""
    guest = bed.guest()
    guest.sysctl(ipv6__conf__default__disable_ipv6="1")
    net = attach("-6", guest=guest)
    assert addresses6(guest) == {}
    check_traffic(bed, net.guest)


@pytest.mark.beyond
def test_banner_names_ipv6(attach: Attach) -> None:
    net = attach("--cidr6=fd12::/64")
    net.hang_up()
    assert net.wait() == 0
    for line in (
        "IPv6 Network:    fd12::/64",
        "IPv6 Gateway:    fd12::2",
        "IPv6 DNS:        fd12::3",
    ):
        assert f"* {line}" in net.output


def test_banner_names_the_leases(attach: Attach) -> None:
    net = attach("--cidr=10.66.0.0/24")
    net.hang_up()
    assert net.wait() == 0
    assert "* DHCP begin:      10.66.0.15\n* DHCP end:        10.66.0.30" in net.output
