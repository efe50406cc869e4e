"""Options that change what the guest sees, and the banner that tells of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from lab.daemons import Slirp
from lab.servers import echo, receive_exactly, serve
from lab.topology import HOST, REMOTE, Guest, Topology

Attach = Callable[..., Slirp]


def link(guest: Guest, interface: str = "tap0") -> dict[str, Any]:
    """What `ip link` knows about an interface."""
    shown: list[dict[str, Any]] = json.loads(guest.run("ip", "-j", "link").stdout)
    return next(entry for entry in shown if entry["ifname"] == interface)


def default_route(guest: Guest) -> dict[str, Any]:
    """The default route of a guest."""
    routes: list[dict[str, Any]] = json.loads(guest.run("ip", "-j", "route").stdout)
    return next(route for route in routes if route["dst"] == "default")


def connects(guest: Guest, address: str, port: int) -> bool:
    """Whether a connection is served; False when it is refused or not answered."""
    try:
        with guest.connect(address, port, timeout=2) as client:
            client.sendall(b"?")
            return receive_exactly(client, 1) == b"?"
    except OSError:
        return False


# Configuration of the interface


def test_defaults(attach: Attach) -> None:
    net = attach()
    tap = link(net.guest)
    assert tap["mtu"] == 1500
    assert "UP" in tap["flags"]
    assert "UP" in link(net.guest, "lo")["flags"]
    assert net.guest.addresses() == ["10.0.2.100/24"]
    assert default_route(net.guest)["gateway"] == "10.0.2.2"
    assert default_route(net.guest)["dev"] == "tap0"


def test_without_configure_nothing_is_touched(attach: Attach) -> None:
    net = attach("--mtu=9000", configure=False)
    assert net.guest.addresses() == []
    assert "UP" not in link(net.guest)["flags"]
    assert net.guest.run("ip", "route").stdout == ""


@pytest.mark.parametrize(
    ("cidr", "guest_address", "gateway"),
    [
        ("10.0.2.0/24", "10.0.2.100/24", "10.0.2.2"),
        ("10.222.0.0/16", "10.222.0.100/16", "10.222.0.2"),
        ("192.168.7.0/25", "192.168.7.100/25", "192.168.7.2"),
        ("172.16.0.0/12", "172.16.0.100/12", "172.16.0.2"),
    ],
)
def test_cidr(bed: Topology, attach: Attach, cidr: str, guest_address: str, gateway: str) -> None:
    net = attach(f"--cidr={cidr}")
    assert net.guest.addresses() == [guest_address]
    assert default_route(net.guest)["gateway"] == gateway
    with serve(bed.remote.listen(), echo) as port:
        assert connects(net.guest, REMOTE, port)
    with serve(bed.host.listen("127.0.0.1"), echo) as port:
        assert connects(net.guest, gateway, port)
    assert " 0% packet loss" in net.guest.run("ping", "-c1", "-W2", gateway).stdout


@pytest.mark.parametrize("mtu", ["576", "1400", "65521"])
def test_mtu(attach: Attach, mtu: str) -> None:
    assert link(attach("-m", mtu).guest)["mtu"] == int(mtu)


@pytest.mark.parametrize("mac", ["0e:d4:18:d9:38:fb", "0E:D4:18:D9:38:FC"])
def test_macaddress(bed: Topology, attach: Attach, mac: str) -> None:
    net = attach(f"--macaddress={mac}")
    assert link(net.guest)["address"] == mac.lower()
    with serve(bed.remote.listen(), echo) as port:
        assert connects(net.guest, REMOTE, port)


def test_options_in_every_spelling(attach: Attach) -> None:
    net = attach("--mt", "1300", "--cid=10.9.9.0/24", "--disable-host")
    assert link(net.guest)["mtu"] == 1300
    assert net.guest.addresses() == ["10.9.9.100/24"]


# The host's loopback


@pytest.mark.parametrize("spelling", ["--disable-host-loopback", "--no-host-loopback"])
def test_disable_host_loopback(bed: Topology, attach: Attach, spelling: str) -> None:
    net = attach(spelling)
    with serve(bed.host.listen("0.0.0.0"), echo) as port:
        with pytest.raises(OSError, match="Network is unreachable"):  # as with slirp4netns
            net.guest.connect("10.0.2.2", port).close()
        assert connects(net.guest, HOST, port)
    with serve(bed.remote.listen(), echo) as port:
        assert connects(net.guest, REMOTE, port)
    assert " 0% packet loss" in net.guest.run("ping", "-c1", "-W2", "10.0.2.2").stdout


def test_disable_host_loopback_for_datagrams(bed: Topology, attach: Attach) -> None:
    net = attach("--disable-host-loopback")
    with bed.host.bind_udp("127.0.0.1") as server, net.guest.bind_udp() as guest:
        server.settimeout(1)
        guest.sendto(b"hello", ("10.0.2.2", server.getsockname()[1]))
        with pytest.raises(TimeoutError):
            server.recv(100)


def test_loopback_addresses_never_leave_the_guest(bed: Topology, net: Slirp) -> None:
    net.guest.run("ip", "addr", "flush", "dev", "lo")
    net.guest.run("ip", "route", "add", "127.0.0.0/8", "via", "10.0.2.2", "dev", "tap0",
                  check=False)  # fmt: skip
    with serve(bed.host.listen("127.0.0.1"), echo) as port:
        assert not connects(net.guest, "127.0.0.1", port)


# Output


def test_banner_names_the_configuration(attach: Attach) -> None:
    net = attach("--mtu=9000", "--cidr=10.66.0.0/24")
    net.hang_up()
    assert net.wait() == 0
    for line in (
        *("* MTU:             9000", "* Network:         10.66.0.0"),
        *("* Netmask:         255.255.255.0", "* Gateway:         10.66.0.2"),
        *("* DNS:             10.66.0.3", "* Recommended IP:  10.66.0.100"),
    ):
        assert line in net.output
    assert "WARNING: 127.0.0.1:* on the host is accessible as 10.66.0.2" in net.output


# What podman passes by default must never fail


@pytest.mark.parametrize(
    "options",
    [
        ("--mtu=65520", "--enable-sandbox", "--enable-seccomp", "--enable-ipv6"),
        ("--disable-host-loopback", "--mtu=65520", "--enable-sandbox", "--enable-seccomp"),
        ("-6",),
        ("--create-sandbox",),
    ],
    ids=" ".join,
)
def test_options_that_podman_passes(
    bed: Topology, attach: Attach, options: tuple[str, ...]
) -> None:
    net = attach(*options)
    with serve(bed.remote.listen(), echo) as port:
        assert connects(net.guest, REMOTE, port)
