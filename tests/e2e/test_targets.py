"""What a daemon can be attached to: a pid, a path, a user namespace by path, an open TAP."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Callable

import pytest

from lab.daemons import Slirp, default_command
from lab.servers import digest_of, echo, receive_digest, receive_exactly, send_content, serve
from lab.topology import REMOTE, Guest, Topology

Attach = Callable[..., Slirp]
TUNSETIFF = 0x4004_54CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def assert_connected(bed: Topology, guest: Guest) -> None:
    """A short exchange, then 4 MiB down."""
    with serve(bed.remote.listen(), echo) as port, guest.connect(REMOTE, port) as client:
        client.sendall(b"alive")
        assert receive_exactly(client, 5) == b"alive"
    size = 4 << 20
    with (
        serve(bed.remote.listen(), lambda to: send_content(to, size)) as port,
        guest.connect(REMOTE, port) as client,
    ):
        assert receive_digest(client) == (size, digest_of(size))


def configure(guest: Guest, mtu: int = 1500, interface: str = "tap0") -> None:
    """What RootlessKit does after ready."""
    batch = f"""
        link set lo up
        link set {interface} mtu {mtu} up
        addr add 10.0.2.100/24 dev {interface}
        route add default via 10.0.2.2 dev {interface}
    """
    guest.run("ip", "-batch", "-", input=batch)


def test_pid_with_the_interface_of_that_name(bed: Topology, attach: Attach) -> None:
    guest = bed.guest()
    attach("--netns-type=pid", guest=guest, target=(str(guest.pid), "slirp-if"))
    assert guest.addresses("slirp-if") == ["10.0.2.100/24"]
    assert_connected(bed, guest)


def test_without_configure_the_guest_configures_itself(bed: Topology, attach: Attach) -> None:
    net = attach(configure=False)
    assert net.guest.addresses() == []
    configure(net.guest)
    assert_connected(bed, net.guest)


def test_path_with_userns_path(bed: Topology, attach: Attach) -> None:
    guest = bed.guest()
    attach(
        *("--netns-type=path", f"--userns-path=/proc/{guest.pid}/ns/user"),
        guest=guest,
        target=(f"/proc/{guest.pid}/ns/net", "tap0"),
    )
    assert_connected(bed, guest)


def test_path_below_the_targets_root(bed: Topology, attach: Attach) -> None:
    """RootlessKit's detached network: bound to a file that is seen in the target's mounts only."""
    guest = bed.guest()
    script = """
        mount -t tmpfs none /mnt
        touch /mnt/netns
        unshare --net=/mnt/netns ip link set lo up
    """
    guest.run("sh", "-e", "-c", script)
    attach(
        *("--netns-type=path", f"--userns-path=/proc/{guest.pid}/ns/user"),
        guest=guest,
        target=(f"/proc/{guest.pid}/root/mnt/netns", "tap0"),
    )
    inside = ("nsenter", "--net=/mnt/netns")
    assert "tap0" not in guest.run("ip", "link").stdout
    assert "inet 10.0.2.100/24" in guest.run(*inside, "ip", "addr").stdout
    with serve(bed.remote.listen(), lambda to: to.sendall(b"hello")) as port:
        assert guest.run(*inside, "nc", "-d", REMOTE, str(port)).stdout == "hello"


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/proc/{pid}/ns/net", id="path"),
        pytest.param("{pid}", id="bare-pid", marks=pytest.mark.beyond),
    ],
)
def test_path_from_inside_the_user_namespace(bed: Topology, attach: Attach, target: str) -> None:
    """Podman's way: the daemon is started inside the user namespace that owns the path."""
    guest = bed.guest()
    enter = ["nsenter", f"--target={guest.pid}", "--user", "--preserve-credentials", "--"]
    attach(
        "--netns-type=path",
        guest=guest,
        command=[*enter, *default_command()],
        target=(target.format(pid=guest.pid), "tap0"),
    )
    assert_connected(bed, guest)


@pytest.mark.beyond
def test_path_type_with_the_number_of_a_process(bed: Topology, attach: Attach) -> None:
    guest = bed.guest()
    attach("--netns-type=path", guest=guest, target=(str(guest.pid), "tap0"))
    assert_connected(bed, guest)


def test_relative_path(bed: Topology, attach: Attach) -> None:
    guest = bed.guest()
    attach(
        *("--netns-type=path", "--userns-path=ns/user"),
        guest=guest,
        target=("ns/net", "tap0"),
        cwd=f"/proc/{guest.pid}",
        command=_in_directory(f"/proc/{guest.pid}"),
    )
    assert_connected(bed, guest)


def _in_directory(path: str) -> list[str]:
    """nsenter goes to the root directory, so the daemon must be put where the path begins."""
    return ["sh", "-c", f'cd {path} && exec "$@"', "sh", *default_command()]


# The interface is there already


def test_persistent_tap_made_before(bed: Topology, attach: Attach) -> None:
    guest = bed.guest()
    guest.run("ip", "tuntap", "add", "name", "tap0", "mode", "tap")
    guest.run("ip", "link", "set", "tap0", "up")
    net = attach("--mtu=65520", configure=False, guest=guest)
    configure(guest, mtu=65520)
    assert_connected(bed, guest)
    net.stop()
    net.ended_by_test = True
    assert "tap0" in guest.run("ip", "link").stdout


@pytest.mark.beyond
def test_daemon_of_a_persistent_tap_ends_with_its_target(bed: Topology, attach: Attach) -> None:
    guest = bed.guest()
    guest.run("ip", "tuntap", "add", "name", "tap0", "mode", "tap")
    net = attach(guest=guest)
    guest.close()
    assert net.wait(5) == 0


def open_tap(guest: Guest, flags: int) -> int:
    """A TAP of the guest's network namespace, opened by us."""

    def make() -> int:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
        request = struct.pack("16sH22x", b"tap0", IFF_TAP | IFF_NO_PI | flags)
        fcntl.ioctl(fd, TUNSETIFF, request)
        return fd

    return guest.call(make)


@pytest.mark.beyond
@pytest.mark.parametrize("flags", [0, IFF_VNET_HDR], ids=["plain", "vnet-hdr"])
def test_open_tap_as_target(bed: Topology, attach: Attach, flags: int) -> None:
    guest = bed.guest()
    fd = open_tap(guest, flags)
    configure(guest)
    try:
        attach(
            "--netns-type=tapfd",
            guest=guest,
            configure=False,
            target=(str(fd),),
            pass_fds=(fd,),
        )
    finally:
        os.close(fd)
    assert_connected(bed, guest)
    assert " 0% packet loss" in guest.run("ping", "-c1", "-W2", "10.0.2.2").stdout


def test_two_daemons_two_guests(bed: Topology, attach: Attach) -> None:
    first, second = attach(), attach()
    assert_connected(bed, first.guest)
    assert_connected(bed, second.guest)


def test_two_daemons_in_one_guest(bed: Topology, attach: Attach) -> None:
    guest = bed.guest()
    attach(guest=guest)
    other = Slirp(
        bed, guest, "--cidr=10.0.3.0/24", configure=False, target=(str(guest.pid), "tap1")
    )
    try:
        batch = "link set tap1 up\naddr add 10.0.3.100/24 dev tap1\n"
        guest.run("ip", "-batch", "-", input=batch)
        assert " 0% packet loss" in guest.run("ping", "-c1", "-W2", "10.0.2.2").stdout
        assert " 0% packet loss" in guest.run("ping", "-c1", "-W2", "10.0.3.2").stdout
    finally:
        other.stop()
