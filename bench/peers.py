"""Who takes part: each peer attaches a fresh guest to the network and says how to reach into it."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from lab.daemons import Pasta, Slirp, default_command
from lab.topology import HOST, Guest, Topology

# The guest listens here for the port forward cells; the same number on the host leads to it.
FORWARD_PORT = 5301
ADDRESS_SECONDS = 4.0
_veth_ports = itertools.count()


@dataclasses.dataclass
class Attached:
    """A guest with its uplink: `pid` is the proxy's, None where the kernel does the work.

    `on_stage` is entered while it is measured.
    """

    guest: Guest
    pid: int | None
    ready_seconds: float
    stop: Callable[[], None]
    forward: tuple[str, int] | None = None
    on_stage: Callable[[], AbstractContextManager[None]] = nullcontext


@dataclasses.dataclass(frozen=True)
class Peer:
    """A way for a guest to reach the network; `missing` says why it cannot take part here."""

    name: str
    attach: Callable[[Topology, int, bool], Attached]  # with this MTU, with IPv6 or without
    missing: str | None = None


def slirp_peer(name: str, command: Sequence[str]) -> Peer:
    """A program with slirp4netns's command line."""

    def attach(bed: Topology, mtu: int, ipv6: bool) -> Attached:
        guest = bed.guest()
        # podman passes a socket only when ports are published; all daemons get one, to be equal.
        options = ["--mtu", str(mtu), *(["--enable-ipv6"] if ipv6 else [])]
        daemon = Slirp(bed, guest, *options, command=command, api=True)
        host_port = 10_000 + daemon.pid % 20_000
        daemon.forward("tcp", host_port, FORWARD_PORT)
        await_address(guest, ipv6)
        return Attached(guest, daemon.pid, daemon.ready_seconds, daemon.stop, (HOST, host_port))

    return Peer(name, attach, _missing(command[0]))


def pasta_peer() -> Peer:
    """pasta of the passt package, with one port of the host forwarded."""

    def attach(bed: Topology, mtu: int, ipv6: bool) -> Attached:
        guest = bed.guest()
        host_port = 30_000 + guest.pid % 2_000
        daemon = Pasta(bed, guest, "--mtu", str(mtu), "--tcp-ports", f"{host_port}:{FORWARD_PORT}")
        await_address(guest, ipv6)
        return Attached(guest, daemon.pid, daemon.ready_seconds, daemon.stop, (HOST, host_port))

    return Peer("pasta", attach, _missing("pasta"))


def veth_peer() -> Peer:
    """A veth pair and the kernel's NAT: what a network without a proxy reaches."""

    def attach(bed: Topology, mtu: int, ipv6: bool) -> Attached:
        started = time.monotonic()
        host_port = 32_000 + next(_veth_ports)
        guest = bed.veth_guest(mtu)
        with bed.nat(guest, host_port, FORWARD_PORT):
            seconds = time.monotonic() - started

        def nat() -> AbstractContextManager[None]:
            return bed.nat(guest, host_port, FORWARD_PORT)

        return Attached(guest, None, seconds, lambda: None, (HOST, host_port), nat)

    return Peer("veth", attach, _missing("nft") or _nat_refused())


def await_address(guest: Guest, ipv6: bool) -> None:
    """Wait until the guest's IPv6 address is ready for use, if it is to have one.

    A peer that gives none is not told from one that is slow: its IPv6 cells will fail.
    """
    deadline = time.monotonic() + ADDRESS_SECONDS
    while ipv6 and not guest.addresses(family=6) and time.monotonic() < deadline:
        time.sleep(0.1)


def _missing(program: str) -> str | None:
    return None if shutil.which(program) else f"{program} is not installed"


def _nat_refused() -> str | None:
    rules = "add table ip t; add chain ip t c { type nat hook postrouting priority 0; }"
    done = subprocess.run(
        ["unshare", "--net", "nft", rules], capture_output=True, text=True, check=False
    )
    return f"NAT is refused: {done.stderr.strip()}" if done.returncode else None


def choose(names: str, pyslirp: str | None, more: Sequence[str]) -> list[Peer]:
    """The peers named in the comma-separated `names`, then those of `more` as NAME=COMMAND."""
    ours = shlex.split(pyslirp) if pyslirp else default_command()
    known = {
        "pyslirp": lambda: slirp_peer("pyslirp", ours),
        "slirp4netns": lambda: slirp_peer("slirp4netns", ["slirp4netns"]),
        "pasta": pasta_peer,
        "veth": veth_peer,
    }
    chosen = []
    for name in filter(None, names.split(",")):
        if name not in known:
            raise SystemExit(f"bench: no such peer: {name} (known: {', '.join(known)})")
        chosen.append(known[name]())
    for extra in more:
        name, equals, command = extra.partition("=")
        if not (name and equals and command):
            raise SystemExit(f"bench: --peer wants NAME=COMMAND, not {extra}")
        chosen.append(slirp_peer(name, shlex.split(command)))
    return chosen
