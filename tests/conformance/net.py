"""A guest whose uplink is under test: pyslirp, slirp4netns, or the kernel as router with NAT.

All give the guest the same addresses. pyslirp gets an open TAP without virtio-net header, so that
every frame is one that a wire could carry; the kernel's devices have their offloads turned off for
the same reason.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import itertools
import os
import pathlib
import socket
import struct
from collections.abc import Iterator
from typing import Any

from conformance.endpoint import Tcp
from conformance.packets import (
    ETH_ARP,
    ETH_IP,
    ICMP,
    UDP,
    Packet,
    arp,
    echo,
    ip4,
    udp,
)
from conformance.wire import PATIENCE_SECONDS, CaseError, Match, Wire
from lab.daemons import Slirp, default_command
from lab.servers import DNS_PORT, DnsServer
from lab.topology import HOST, REMOTE, Topology

GUEST, GATEWAY, DNS, BROADCAST_ADDRESS = "10.0.2.100", "10.0.2.2", "10.0.2.3", "10.0.2.255"
GUEST6, GATEWAY6, DNS6 = "fd00::100", "fd00::2", "fd00::3"
MAC = bytes.fromhex("020000c0ffee")
LONG_TEXT = "".join(f"{number:05}" for number in range(600))
RECORDS = {"example.test": "192.0.2.80", "long.test": LONG_TEXT}
PEERS = ("pyslirp", "slirp4netns", "kernel")
SIOCETHTOOL = 0x8946
# ETHTOOL_SRXCSUM, STXCSUM, SSG, STSO, SGSO, SGRO of linux/ethtool.h
OFFLOADS = (0x15, 0x17, 0x19, 0x1F, 0x24, 0x2C)
TUNSETIFF = 0x4004_54CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000

_ports = itertools.count(20_000)
_idents = itertools.count(0x4000)


class AbsentError(Exception):
    """The peer has nothing of the kind that a case is about."""


def plain_device(name: str) -> None:
    """Turn the offloads of a device of the calling thread's network off."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for command in OFFLOADS:
            value = bytearray(struct.pack("II", command, 0))
            pinned = (ctypes.c_char * len(value)).from_buffer(value)
            request = struct.pack("16sQ16x", name.encode(), ctypes.addressof(pinned))
            with contextlib.suppress(OSError):  # not every device has every one
                fcntl.ioctl(control, SIOCETHTOOL, request)


def be_liberal() -> None:
    """Have the connection tracking of the calling thread's network pass what it cannot place."""
    pathlib.Path("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal").write_text("1")


class Net:
    """One guest, its uplink and what is beyond; cases use it one after another."""

    def __init__(self, peer: str, *options: str) -> None:
        self.peer = peer
        self.options = options
        self.stack = contextlib.ExitStack()
        try:
            self.bed = self.stack.enter_context(Topology())
            datagrams = self.bed.remote.bind_udp(REMOTE, DNS_PORT)
            listener = self.bed.remote.listen(REMOTE, DNS_PORT)
            self.dns_server = DnsServer(datagrams, listener, RECORDS)
            self.stack.enter_context(self.dns_server.running())
            self.bed.remote.call(plain_device, "eth0")
            self.bed.host.call(plain_device, "eth0")
            self._attach()
        except BaseException:
            self.stack.close()
            raise

    def close(self) -> None:
        """Remove everything."""
        self._detach()
        self.stack.close()

    # The uplink

    def _attach(self) -> None:
        self.guest = self.bed.guest()
        self.daemon: Slirp | None = None
        self.guest.sysctl(ipv6__conf__default__disable_ipv6="1")
        if self.peer == "kernel":
            self._attach_kernel()
        elif self.peer == "pyslirp":
            fd = self.guest.call(_plain_tap)
            try:
                self.daemon = Slirp(
                    self.bed, self.guest, "--netns-type=tapfd", "-6", *self.options, api=True,
                    configure=False, target=(str(fd),), pass_fds=(fd,), command=default_command(),
                )  # fmt: skip
            finally:
                os.close(fd)
        else:
            self.daemon = Slirp(
                self.bed, self.guest, "-6", *self.options, command=[self.peer], api=True,
                configure=False,
            )  # fmt: skip
        script = f"ip link set tap0 arp off address {MAC.hex(':')} && ip link set tap0 up"
        self.guest.run("sh", "-c", script)
        self.wire = self.guest.call(Wire, "tap0", MAC, GUEST, GUEST6)
        self._learn_gateway()

    def _attach_kernel(self) -> None:
        """The host as a router with NAT, its addresses on a veth."""
        wire = f"""
            link add up0 type veth peer name tap0 netns {self.guest.pid}
            addr add {GATEWAY}/24 dev up0
            addr add {DNS}/32 dev up0
            addr add {GATEWAY6}/64 dev up0 nodad
            addr add {DNS6}/128 dev up0 nodad
            link set up0 up
        """
        self.bed.host.run("ip", "-batch", "-", input=wire)
        self.bed.host.sysctl(ipv4__ip_forward="1", ipv6__conf__all__forwarding="1")
        rules = f"""
            table ip nat {{
                chain pre {{ type nat hook prerouting priority -100;
                    ip daddr {DNS} udp dport 53 dnat to {REMOTE}:53;
                    ip daddr {DNS} tcp dport 53 dnat to {REMOTE}:53; }}
                chain post {{ type nat hook postrouting priority 100;
                    ip saddr 10.0.2.0/24 oifname eth0 masquerade; }}
            }}
            table ip6 nat {{
                chain post {{ type nat hook postrouting priority 100;
                    ip6 saddr fd00::/64 oifname eth0 masquerade; }}
            }}
        """
        self.bed.host.run("nft", "-f", "-", input=rules)
        # A router that judges sequence numbers would hide what the far TCP does.
        self.bed.host.call(be_liberal)
        self.bed.host.call(plain_device, "up0")
        self.guest.call(plain_device, "tap0")

    def _learn_gateway(self) -> None:
        for _ in range(10):
            self.wire.send(arp(MAC, GUEST, GATEWAY), b"\xff" * 6, ETH_ARP)
            with contextlib.suppress(CaseError):
                reply = self.wire.expect(self.is_arp_reply(GATEWAY), "ARP reply", 0.5)
                self.wire.gateway_mac = reply.frame[6:12]
                return
        raise CaseError("the gateway does not answer ARP")

    def _detach(self) -> None:
        self.wire.close()
        if self.daemon is not None:
            self.daemon.stop()
        self.bed.release(self.guest)

    def renew(self) -> None:
        """Another guest and daemon: what the last case left is gone."""
        if self.peer == "kernel":
            return
        self._detach()
        self._attach()

    @property
    def alive(self) -> bool:
        """The daemon has neither ended nor stumbled, and answers."""
        if self.daemon is not None and (
            self.daemon.process.poll() is not None
            or "Traceback" in self.daemon.output
            or "Sanitizer" in self.daemon.output
        ):
            return False
        try:
            self.wire.begin()
            self.ping(GATEWAY)
        except (CaseError, OSError):
            return False
        return True

    def only(self, *peers: str) -> None:
        """The case is about something that only these have."""
        if self.peer not in peers:
            raise AbsentError

    # Frames

    def send4(self, proto: int, payload: bytes, dst: str = REMOTE, **fields: Any) -> None:
        """A datagram of the guest's; `fields` as in packets.ip4."""
        src = str(fields.pop("src", GUEST))
        self.wire.send(ip4(src, dst, proto, payload, **fields))

    def send_udp(
        self, sport: int, dport: int, data: bytes, dst: str = REMOTE, **fields: Any
    ) -> None:
        """A whole datagram; `fields` as in packets.ip4."""
        src = str(fields.get("src", GUEST))
        self.send4(UDP, udp(src, dst, sport, dport, data), dst, **fields)

    def ping(self, dst: str, data: bytes = b"ping") -> Packet:
        """The reply to an echo request."""
        ident = next(_idents) & 0xFFFF
        self.send4(ICMP, echo(ident, 1, data), dst)
        return self.wire.expect(
            lambda p: is_echo_reply(p, ident) and p.src == dst, f"echo reply of {dst}"
        )

    @staticmethod
    def is_arp_reply(address: str) -> Match:
        """A predicate."""
        wanted = socket.inet_aton(address)
        return lambda p: p.kind == ETH_ARP and p.l3[6:8] == b"\0\2" and p.l3[14:18] == wanted

    def expect_udp(self, sport: int, dport: int, seconds: float = PATIENCE_SECONDS) -> Packet:
        """A datagram with these ports."""
        return self.wire.expect(
            lambda p: is_udp(p, dport) and p.ports[0] == sport, f"datagram to {dport}", seconds
        )

    def expect_icmp(self, kind: int, code: int | None = None, seconds: float = 1.5) -> Packet:
        """An ICMP message."""
        return self.wire.expect(
            lambda p: is_icmp(p, kind) and (code is None or p.l4[1] == code),
            f"ICMP {kind}/{code}", seconds,
        )  # fmt: skip

    # Servers

    @property
    def port(self) -> int:
        """A fresh port of the guest's."""
        return next(_ports)

    @contextlib.contextmanager
    def listener(self, where: str = "remote") -> Iterator[socket.socket]:
        """A listening socket of the remote's, or the host's."""
        space = self.bed.remote if where == "remote" else self.bed.host
        with space.listen() as listener:
            listener.settimeout(3)
            yield listener

    @contextlib.contextmanager
    def udp_server(self, where: str = "remote") -> Iterator[socket.socket]:
        """A UDP socket of the remote's, or the host's."""
        space = self.bed.remote if where == "remote" else self.bed.host
        with space.bind_udp() as server:
            server.settimeout(1.5)
            yield server

    @contextlib.contextmanager
    def connected(self, **settings: Any) -> Iterator[tuple[Tcp, socket.socket]]:
        """A connection of the guest's, established, and the socket at its far end."""
        with self.listener() as listener:
            client = Tcp(self.wire, GUEST, REMOTE, self.port, listener.getsockname()[1])
            client.open(**settings)
            server, _ = listener.accept()
            with server:
                server.settimeout(3)
                yield client, server
            client.abort()

    def tcp(self, dport: int, dst: str = REMOTE, sport: int | None = None) -> Tcp:
        """A guest's endpoint, not opened."""
        return Tcp(self.wire, GUEST, dst, sport or self.port, dport)

    def forward(self, proto: str, guest_port: int) -> tuple[str, int]:
        """A port of the host that leads to the guest: where to connect to."""
        host_port = next(_ports) + 10_000
        if self.daemon is not None:
            self.daemon.forward(proto, host_port, guest_port, guest_addr=GUEST)
            return HOST, host_port
        rule = f"{proto} dport {host_port} dnat to {GUEST}:{guest_port}"
        chain = ("nft", "add", "rule", "ip", "nat", "pre")
        self.bed.host.run(*chain, "ip", "daddr", HOST, *rule.split())
        return HOST, host_port


def _plain_tap() -> int:
    """tap0 of the calling thread's network namespace, without virtio-net header."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tap0", IFF_TAP | IFF_NO_PI))
    return fd


def is_icmp(packet: Packet, kind: int) -> bool:
    """An ICMP message of that type."""
    return packet.kind == ETH_IP and packet.proto == ICMP and packet.l4[0] == kind


def is_echo_reply(packet: Packet, ident: int) -> bool:
    """The reply to an echo request with that identifier."""
    return is_icmp(packet, 0) and packet.l4[4:6] == struct.pack("!H", ident)


def is_udp(packet: Packet, dport: int) -> bool:
    """A datagram for that port of the guest's."""
    return packet.proto == UDP and packet.fragment[0] == 0 and packet.ports[1] == dport


def is_error(packet: Packet) -> bool:
    """An ICMP error."""
    return packet.proto == ICMP and packet.l4[0] in (3, 4, 5, 11, 12)
