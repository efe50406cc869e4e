"""The network of every system test and benchmark, all of it in namespaces.

    guest                    host (the daemon runs here)              remote
    ┌───────────────┐       ┌──────────────────────────────┐       ┌──────────────────────┐
    │ user+net+mount│  TAP  │ net+mount; resolv.conf names │ veth  │ net; servers         │
    │ of User.uid   ├───────┤ the remote; run as User.uid  ├───────┤                      │
    │ 10.0.2.100    │       │ 198.51.100.1                 │       │ 198.51.100.2, .3     │
    │               │       │ 2001:db8:51::1               │       │ 2001:db8:51::2       │
    └───────────────┘       └──────────────────────────────┘       └──────────────────────┘

The host routes everything to the remote, except 203.0.113.0/25 (unreachable: connect() says so at
once); the remote refuses 203.0.113.128/25 with ICMP, and swallows 192.0.2.0/24.

As root the daemon is run by a uid that has no entry in passwd. Inside a user namespace that maps
one id (`unshare -Ur`: how an ordinary user runs these tests) there is no other uid to take, so the
daemon runs without capabilities instead, which to the kernel is the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import os
import pathlib
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Self

from lab.namespaces import CommandError, Namespace, owns_all_ids

HOST = "198.51.100.1"
REMOTE = "198.51.100.2"
REMOTE_SECOND = "198.51.100.3"
PREFIX_LENGTH = 24
HOST6 = "2001:db8:51::1"
REMOTE6 = "2001:db8:51::2"
PREFIX_LENGTH6 = 64
UNREACHABLE_AT_HOST = "203.0.113.9"
UNREACHABLE_AT_REMOTE = "203.0.113.200"
SILENT = "192.0.2.9"
TUN = pathlib.Path("/dev/net/tun")


@dataclasses.dataclass(frozen=True)
class User:
    """Who runs a daemon and owns a guest: `become` is the command prefix that turns us into him."""

    uid: int
    become: tuple[str, ...]


def ordinary_user() -> User:
    """A user without any privilege and, as root, without an entry in passwd."""
    if owns_all_ids():
        uid = 61_000 + os.getpid() % 1000
        return User(uid, ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"))
    # Without CAP_SETFCAP the kernel lets nobody map our only id, which is root here, once more.
    kept = "--bounding-set=-all,+setfcap"
    return User(os.getuid(), ("setpriv", kept, "--inh-caps=-all"))


SUPERUSER = User(0, ())


def why_not() -> str | None:
    """Why this process cannot build the topology, or None when it can."""
    if os.geteuid() != 0:
        return "needs root, or `unshare -Urm` around the test run (tools/dev.py e2e does that)"
    for tool in ("nsenter", "unshare", "setpriv", "ip"):
        if shutil.which(tool) is None:
            return f"the command {tool} is missing"
    if not TUN.exists():
        return f"{TUN} is missing"
    tried = subprocess.run(
        [*ordinary_user().become, "unshare", "-Urn", "true"], capture_output=True, check=False
    )
    if tried.returncode != 0:
        return f"user namespaces are refused: {tried.stderr.decode().strip()}"
    return None


class Topology:
    """Host and remote, wired; guests are made on demand. Close it, or use it in a with block."""

    def __init__(self, congestion_control: str = "cubic") -> None:
        self.congestion_control = congestion_control
        self.user = ordinary_user()
        self.ping_groups = "0 2147483647" if owns_all_ids() else "0 0"
        self.workdir = pathlib.Path(tempfile.mkdtemp(prefix="pyslirp-lab-"))
        os.chown(self.workdir, self.user.uid, -1)
        self.host = Namespace(("unshare", "--net", "--mount"), ("--net", "--mount"))
        self.remote = Namespace(("unshare", "--net"), ("--net",))
        self._guests: list[Guest] = []
        try:
            self._wire()
            self.set_resolv_conf(REMOTE)
            self._open_tun()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything that was made here."""
        for space in (*self._guests, self.host, self.remote):
            space.close()
        shutil.rmtree(self.workdir, ignore_errors=True)

    def _wire(self) -> None:
        wire = f"""
            link set lo up
            link add eth0 type veth peer name eth0 netns {self.remote.pid}
            addr add {HOST}/{PREFIX_LENGTH} dev eth0
            addr add {HOST6}/{PREFIX_LENGTH6} dev eth0 nodad
            link set eth0 up
        """
        self._ip(self.host, wire)
        self._ip(
            self.remote,
            f"""
            link set lo up
            addr add {REMOTE}/{PREFIX_LENGTH} dev eth0
            addr add {REMOTE_SECOND}/{PREFIX_LENGTH} dev eth0
            addr add {REMOTE6}/{PREFIX_LENGTH6} dev eth0 nodad
            link set eth0 up
            route add unreachable 203.0.113.128/25
            route add blackhole 192.0.2.0/24
            """,
        )
        self._ip(
            self.host,
            f"""
            route add default via {REMOTE}
            route add default via {REMOTE6}
            route add unreachable 203.0.113.0/25
            """,
        )
        self.host.sysctl(ipv4__ping_group_range=self.ping_groups)
        self.remote.sysctl(ipv4__ip_forward="1")
        for space in (self.host, self.remote):
            self.prepare_tcp(space)

    @staticmethod
    def _ip(space: Namespace, commands: str) -> None:
        space.run("ip", "-batch", "-", input=commands)

    def prepare_tcp(self, space: Namespace) -> None:
        """Make TCP in `space` independent of the machine's default and of earlier connections."""
        space.sysctl(ipv4__tcp_no_metrics_save="1")
        try:
            space.sysctl(ipv4__tcp_congestion_control=self.congestion_control)
        except PermissionError:  # in a user namespace only what the machine allows may be chosen
            space.sysctl(ipv4__tcp_congestion_control="reno")

    def set_resolv_conf(self, *servers: str, search: str = "") -> None:
        """What /etc/resolv.conf holds for those who live on the host."""
        path = self.workdir / "resolv.conf"
        mounted = path.exists()
        lines = [f"search {search}\n"] if search else []
        path.write_text("".join([*lines, *(f"nameserver {server}\n" for server in servers)]))
        path.chmod(0o644)
        if not mounted:
            self.host.run("mount", "--bind", str(path), "/etc/resolv.conf")

    def _open_tun(self) -> None:
        """Give every user of the host namespace the device node, as Debian's udev rules do."""
        if TUN.stat().st_mode & stat.S_IWOTH:
            return
        script = "mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200"
        done = self.host.run("sh", "-c", script, check=False)
        if done.returncode != 0:
            raise CommandError(f"{TUN} is for root only, and {done.stderr.strip()}")

    def host_command(self, user: User | None = None) -> list[str]:
        """The prefix that runs a command on the host as `user` (default: the ordinary user)."""
        return [*self.host.enter, *(user or self.user).become]

    def guest(self, user: User | None = None) -> Guest:
        """A container without network: user, network and mount namespace of `user`."""
        guest = Guest(self, user or self.user)
        self._guests.append(guest)
        return guest

    def release(self, guest: Guest) -> None:
        """Close one guest before the rest."""
        self._guests.remove(guest)
        guest.close()

    def veth_guest(self, mtu: int) -> Guest:
        """A guest on a veth that the host routes: with `nat` the limit, which needs privileges."""
        guest = self.guest()
        net, net6 = veth_networks(guest)
        self._ip(
            self.host,
            f"""
            link add veth{guest.pid} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {guest.pid}
            addr add {net}.1/24 dev veth{guest.pid}
            addr add {net6}:1/64 dev veth{guest.pid} nodad
            link set veth{guest.pid} up
            """,
        )
        self._ip(
            guest,
            f"""
            link set lo up
            addr add {net}.2/24 dev eth0
            addr add {net6}:2/64 dev eth0 nodad
            link set eth0 up
            route add default via {net}.1
            route add default via {net6}:1
            """,
        )
        self.host.sysctl(ipv4__ip_forward="1", ipv6__conf__all__forwarding="1")
        return guest

    @contextlib.contextmanager
    def nat(self, guest: Guest, forward_port: int, guest_port: int) -> Iterator[None]:
        """The kernel's NAT for a `veth_guest`; one port of the host leads to the guest's
        `guest_port`, as a forward of a daemon would.

        No longer than it is needed: it has the kernel track every connection of the host, a
        daemon's too, which costs a tenth of what a daemon carries.
        """
        net, net6 = veth_networks(guest)
        rules = f"""
            table ip lab{guest.pid} {{
                chain post {{ type nat hook postrouting priority 100;
                    ip saddr {net}.0/24 masquerade; }};
                chain pre {{ type nat hook prerouting priority -100;
                    tcp dport {forward_port} dnat to {net}.2:{guest_port}; }};
            }}
            table ip6 lab{guest.pid} {{
                chain post {{ type nat hook postrouting priority 100;
                    ip6 saddr {net6}:/64 masquerade; }};
            }}
        """
        self.host.run("nft", "-f", "-", input=rules)
        try:
            yield
        finally:
            for family in ("ip", "ip6"):
                self.host.run("nft", "delete", "table", family, f"lab{guest.pid}")


class Guest(Namespace):
    """The container's side: everything in it is run as its root, which is `user` outside."""

    def __init__(self, bed: Topology, user: User) -> None:
        self.user = user
        maker = (*bed.host_command(user), "unshare", "--map-root-user", "--net", "--mount")
        # nsenter becomes root of the guest; where one id is mapped we are that root already.
        as_root = () if owns_all_ids() else ("--preserve-credentials",)
        super().__init__(maker, ("--user", "--net", "--mount", *as_root))
        bed.prepare_tcp(self)

    def use_resolver(self, address: str, workdir: pathlib.Path) -> None:
        """Mount a resolv.conf that names `address`, as the manual page's example does."""
        path = workdir / f"resolv-{self.pid}.conf"
        path.write_text(f"nameserver {address}\n")
        path.chmod(0o644)
        self.run("mount", "--bind", str(path), "/etc/resolv.conf")

    def addresses(self, interface: str = "tap0", family: int = 4) -> list[str]:
        """The addresses of an interface with their prefix lengths; [] when there are none.

        Of IPv6 only those of global scope that are ready for use (RFC 4862 5.4).
        """
        ready = () if family == 4 else ("scope", "global", "-tentative")
        argv = ("ip", f"-{family}", "-o", "addr", "show", "dev", interface, *ready)
        words = self.run(*argv, check=False).stdout.split()
        return [words[at + 1] for at, word in enumerate(words) if word in ("inet", "inet6")]


def veth_networks(guest: Guest) -> tuple[str, str]:
    """What the addresses between host and a `veth_guest` begin with, of both families."""
    return f"10.9.{guest.pid % 256}", f"fd09:{guest.pid % 65536:x}:"


def gateway_of(cidr: str) -> str:
    """The address that stands for the host: network + 2."""
    return str(ipaddress.ip_network(cidr)[2])
