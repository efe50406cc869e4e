"""--outbound-addr: which of the host's addresses our sockets speak from.

An interface may be named instead, and then its address may change while we run: a VPN reconnects, a
lease ends. rtnetlink(7) tells of each change; meanwhile, and while the interface has no address,
the old one stays in force, so that nothing leaves from another. SO_BINDTODEVICE would not do:
it overrules the host's routes, and slirp4netns's option does not.
"""

from __future__ import annotations

import struct
from _socket import (
    AF_INET,
    AF_INET6,
    AF_NETLINK,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_RAW,
    inet_pton,
    socket,
)

from slirp.errors import SlirpError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h
NETLINK_ROUTE = 0
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST_DUMP = 0x301
RTM_NEWLINK = 16
RTM_GETLINK = 18
RTM_NEWADDR = 20
RTM_GETADDR = 22
RTMGRP_ADDRESSES = 0x1 | 0x10 | 0x100  # links, IPv4, IPv6
IFLA_IFNAME = 3
IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_F_UNUSABLE = 0x08 | 0x20 | 0x40  # failed detection of duplicates, deprecated, tentative
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_HOST = 254

_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_LINK = struct.Struct("=BxHiII")  # family, device type, index, flags, change mask
_ADDRESS = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, interface index
_ATTRIBUTE = struct.Struct("=HH")
_MAX_MESSAGE_BYTES = 1 << 16


class Outbound:
    """What was asked for, by family: an address or the name of an interface. `use` is told what
    that is, then and whenever it changes. Raises SlirpError.

    fd: readable when the host's addresses have changed; None when only addresses were named.
    """

    def __init__(self, use: Callable[[bytes], None], asked: dict[int, str]) -> None:
        self._use = use
        self._names: dict[int, str] = {}
        self._current: dict[int, bytes] = {}
        self._changes: socket | None = None
        for family, text in asked.items():
            try:
                address = inet_pton(family, text)
            except (OSError, ValueError):
                self._names[family] = text
            else:
                _check(family, text)
                use(address)
        if self._names:
            self._requests = _netlink(0)
            self._changes = _netlink(RTMGRP_ADDRESSES)
            self._resolve()
        for family, name in self._names.items():
            if family not in self._current:
                raise SlirpError(
                    f"outbound address: {name} is neither an {_family_name(family)} address "
                    f"nor an interface that has one"
                )

    @property
    def fd(self) -> int | None:
        """See the class."""
        return None if self._changes is None else self._changes.fileno()

    def on_change(self) -> None:
        """The descriptor is readable."""
        assert self._changes is not None
        try:
            while self._changes.recv(_MAX_MESSAGE_BYTES):
                pass
        except BlockingIOError:
            pass
        except OSError:
            pass  # ENOBUFS: some were lost, and all will be looked at anyway
        self._resolve()

    def _resolve(self) -> None:
        """Look the named interfaces' addresses up, and tell the Engine what is new."""
        indices = {name: index for index, name in _links(self._requests)}
        known = list(_addresses(self._requests))
        for family, name in self._names.items():
            for address_family, index, address in known:
                if address_family == family and index == indices.get(name):
                    if self._current.get(family) != address:
                        self._current[family] = address
                        self._use(address)
                    break


def _check(family: int, text: str) -> None:
    """Refuse an address that the host does not have. Raises SlirpError."""
    try:
        probe = socket(family, SOCK_DGRAM | SOCK_CLOEXEC)
        probe.bind((text, 0))
    except OSError as error:
        raise SlirpError(f"outbound address {text}: {reason(error)}") from None
    probe.close()


def _family_name(family: int) -> str:
    return "IPv4" if family == AF_INET else "IPv6"


def _netlink(groups: int) -> socket:
    sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | (SOCK_NONBLOCK if groups else 0), 0)
    sock.bind((0, groups))
    return sock


def _dump(sock: socket, request: int, answer: int, body: struct.Struct) -> Iterator[bytes]:
    """The bodies of all messages of type `answer`."""
    length = _NLMSG.size + body.size
    sock.send(_NLMSG.pack(length, request, NLM_F_REQUEST_DUMP, 1, 0) + bytes(body.size))
    while True:
        data = sock.recv(_MAX_MESSAGE_BYTES)
        at = 0
        while at + _NLMSG.size <= len(data):
            length, kind, _, _, _ = _NLMSG.unpack_from(data, at)
            if kind in (NLMSG_DONE, NLMSG_ERROR) or length < _NLMSG.size:
                return
            if kind == answer:
                yield data[at + _NLMSG.size : at + length]
            at += length + 3 & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind] = data[at + _ATTRIBUTE.size : at + length]
        at += length + 3 & ~3
    return found


def _links(sock: socket) -> Iterator[tuple[int, str]]:
    """Index and name of each interface."""
    for body in _dump(sock, RTM_GETLINK, RTM_NEWLINK, _LINK):
        name = _attributes(body[_LINK.size :]).get(IFLA_IFNAME, b"")
        yield _LINK.unpack_from(body)[2], name.rstrip(b"\0").decode(errors="replace")


def _addresses(sock: socket) -> Iterator[tuple[int, int, bytes]]:
    """Family, interface and address of all that a socket can be bound to, in the kernel's order."""
    for body in _dump(sock, RTM_GETADDR, RTM_NEWADDR, _ADDRESS):
        family, _, flags, scope, index = _ADDRESS.unpack_from(body)
        attributes = _attributes(body[_ADDRESS.size :])
        address = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)
        if family == AF_INET6 and (flags & IFA_F_UNUSABLE or scope not in _SCOPES):
            continue
        if family in (AF_INET, AF_INET6) and address:
            yield family, index, address


_SCOPES = (RT_SCOPE_UNIVERSE, RT_SCOPE_HOST)
