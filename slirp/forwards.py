"""Port forwards: a socket of the host each, whose clients the Engine carries to the guest.

Python decides and opens the socket; accepting and carrying is the Engine's. Ids are never used
again, so that a late remove_hostfwd cannot hit somebody else's forward.
"""

from __future__ import annotations

import os
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IPV6,
    IPV6_V6ONLY,
    SO_REUSEADDR,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    inet_ntop,
    inet_pton,
    socket,
)

from slirp.errors import SlirpError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slirp.driver import Driver

TCP = "tcp"
UDP = "udp"
TCP6 = "tcp6"
UDP6 = "udp6"
_ANY = {AF_INET: "0.0.0.0", AF_INET6: "::"}
_BACKLOG = 4096  # connections; the kernel lowers it to net.core.somaxconn


class Forward:
    """One forward. Addresses are text, as they are listed."""

    __slots__ = ("engine_id", "guest_addr", "guest_port", "host_addr", "host_port", "proto")

    def __init__(
        self,
        engine_id: int,
        proto: str,
        host_addr: str,
        host_port: int,
        guest_addr: str,
        guest_port: int,
    ) -> None:
        self.engine_id = engine_id
        self.proto = proto
        self.host_addr = host_addr
        self.host_port = host_port
        self.guest_addr = guest_addr
        self.guest_port = guest_port


class Forwards:
    """All forwards of a daemon, by id.

    default_guest, default_guest6: where they lead unless told otherwise; b"" where the guest has no
    IPv6.
    """

    def __init__(self, driver: Driver, default_guest: bytes, default_guest6: bytes = b"") -> None:
        self._driver = driver
        self._default_guest = default_guest
        self._default_guest6 = default_guest6
        self._next_id = 1
        self._by_id: dict[int, Forward] = {}

    def add(
        self, proto: str, host_addr: str, host_port: int, guest_addr: str, guest_port: int
    ) -> int:
        """Open `proto` (TCP, UDP, TCP6, UDP6) `host_port` and carry its clients to the guest.
        Returns an id.

        host_addr "" is every address, guest_addr "" the guest's own, both of the protocol's family.
        Raises SlirpError when the port cannot be had.
        """
        family = AF_INET6 if proto in (TCP6, UDP6) else AF_INET
        transport = TCP if proto in (TCP, TCP6) else UDP
        host = inet_ntop(family, inet_pton(family, host_addr or _ANY[family]))
        guest = inet_pton(family, guest_addr or _ANY[family])
        if not any(guest):
            guest = self._default_guest6 if family == AF_INET6 else self._default_guest
        fd = -1
        try:
            fd = _open(family, transport, host, host_port)
            engine_id = self._driver.add_forward(transport, fd, guest, guest_port)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            where = f"{proto} {f'[{host}]' if family == AF_INET6 else host}:{host_port}"
            raise SlirpError(f"cannot forward {where}: {reason(error)}") from None
        id_ = self._next_id
        self._next_id += 1
        self._by_id[id_] = Forward(
            engine_id, proto, host, host_port, inet_ntop(family, guest), guest_port
        )
        return id_

    @property
    def has_ipv6(self) -> bool:
        """Whether TCP6 and UDP6 lead anywhere."""
        return bool(self._default_guest6)

    def remove(self, id_: int) -> bool:
        """Close a forward's port, not its connections. False when there is none of this id."""
        forward = self._by_id.pop(id_, None)
        return forward is not None and self._driver.remove_forward(forward.engine_id)

    def entries(self) -> list[dict[str, object]]:
        """All forwards, oldest first, in the form of list_hostfwd."""
        return [
            {
                "id": id_,
                "proto": forward.proto,
                "host_addr": forward.host_addr,
                "host_port": forward.host_port,
                "guest_addr": forward.guest_addr,
                "guest_port": forward.guest_port,
            }
            for id_, forward in self._by_id.items()
        ]


def _open(family: int, transport: str, host_addr: str, host_port: int) -> int:
    """A non-blocking socket: listening for TCP, bound for UDP."""
    kind = SOCK_STREAM if transport == TCP else SOCK_DGRAM
    sock = socket(family, kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    try:
        if family == AF_INET6:
            sock.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)  # IPv4's port may be somebody else's
        if transport == TCP:
            # Else the connections of a forward that was just removed would keep its port for a
            # minute.
            sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
        sock.bind((host_addr, host_port))
        if transport == TCP:
            sock.listen(_BACKLOG)
        fd: int = sock.detach()
    except OSError:
        sock.close()
        raise
    return fd
