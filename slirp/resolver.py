"""The host's name servers: resolv.conf(5), read again when it changes.

The guest's DNS address leads to the servers listed here. Laptops move and VPNs come up, so once the
event loop is there inotify(7) tells of every change: of the file itself, which may be mounted, and
of the directories on its chain of symbolic links, where systemd-resolved and NetworkManager put
another file or link in its place.

Until then, and where inotify's instances are used up (there are 128 for a user, whose containers
may be more), refresh() is called when packets flow and looks at the file at most once a second.
"""

from __future__ import annotations

import os
import struct
from _socket import AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_DGRAM, inet_pton, socket
from fcntl import ioctl

from slirp.core import oscalls

RESOLV_CONF = "/etc/resolv.conf"
# resolv.conf(5): without any name server, the local machine is asked.
_DEFAULT_SERVERS = [b"\x7f\x00\x00\x01"]
_CHECK_PERIOD_S = 1.0
_MAX_FILE_BYTES = 1 << 20
_MAX_DOMAINS = 32
_MAX_LINKS = 40  # path_resolution(7)
_IN_DIRECTORY = (
    oscalls.IN_CLOSE_WRITE | oscalls.IN_CREATE | oscalls.IN_MOVED_TO | oscalls.IN_DELETE_SELF
)
_IN_FILE = oscalls.IN_CLOSE_WRITE | oscalls.IN_MOVE_SELF | oscalls.IN_DELETE_SELF
_LINK_LOCAL_PREFIX = b"\xfe\x80"
_SIOCGIFINDEX = 0x8933  # netdevice(7)
_IFREQ = struct.Struct("16si20x")
_MAX_NAME_BYTES = 15


class Resolvers:
    """The servers of a resolv.conf, as of the last look.

    servers: 4- or 16-byte addresses, in the order of preference; a link-local one has the number of
             its interface in its third and fourth 16 bits, where the data plane looks for it.
    domains: where names without a dot are searched for.
    watched: somebody waits for the descriptor of watch(): refresh() does nothing.
    """

    __slots__ = ("_identity", "_next_check_s", "_path", "domains", "servers", "watched")

    def __init__(self, path: str = RESOLV_CONF) -> None:
        self._path = path
        self._next_check_s = 0.0
        self.watched = False
        self._identity = self._identify()
        text = self._read()
        self.servers = parse(text)
        self.domains = parse_domains(text)

    def refresh(self, now_s: float) -> bool:
        """Look again if it is time to; whether the servers have changed. `now_s` is monotonic."""
        if self.watched or now_s < self._next_check_s:
            return False
        self._next_check_s = now_s + _CHECK_PERIOD_S
        return self.look()

    def watch(self) -> int | None:
        """A descriptor that is readable once the file may have changed: then look(), and another
        descriptor is due, for the chain of links that there is then. The caller closes it.

        None, when the system has none for us.
        """
        self.watched = False
        try:
            fd = oscalls.inotify_open()
        except OSError:
            return None
        try:
            for directory in directories(self._path):
                oscalls.inotify_add(fd, directory, _IN_DIRECTORY)
            if os.path.exists(self._path):
                oscalls.inotify_add(fd, self._path, _IN_FILE)
        except OSError:
            os.close(fd)
            return None
        self.watched = True
        return fd

    def look(self) -> bool:
        """Look at the file again; whether the servers have changed."""
        identity = self._identify()
        # A file that is gone is about to be replaced: keep what we have.
        if identity is None or identity == self._identity:
            return False
        self._identity = identity
        text = self._read()
        self.domains = parse_domains(text)
        servers = parse(text)
        changed = servers != self.servers
        self.servers = servers
        return changed

    def _identify(self) -> tuple[int, int, int, int] | None:
        """What changes when the file is edited, replaced, or its symbolic link points elsewhere."""
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> str:
        try:
            with open(self._path, "rb", buffering=0) as file:
                return (file.read(_MAX_FILE_BYTES) or b"").decode("ascii", "replace")
        except OSError:
            return ""


def directories(path: str = RESOLV_CONF) -> list[str]:
    """Where the file and each symbolic link on the way to it lie."""
    found: list[str] = []
    for _ in range(_MAX_LINKS):
        directory = os.path.dirname(path)
        if directory not in found:
            found.append(directory)
        try:
            path = os.path.normpath(os.path.join(directory, os.readlink(path)))
        except OSError:
            break
    return found


def parse(text: str) -> list[bytes]:
    """The name servers of a resolv.conf's text; never empty."""
    servers = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            address = _parse_address(words[1])
            if address is not None:
                servers.append(address)
    return servers or list(_DEFAULT_SERVERS)


def parse_domains(text: str) -> list[str]:
    """The search domains of a resolv.conf's text: those of its last line that has any."""
    domains: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] in ("search", "domain"):
            domains = words[1:]
    return [domain for domain in domains[:_MAX_DOMAINS] if domain != "."]


def _parse_address(text: str) -> bytes | None:
    address, _, scope = text.partition("%")
    try:
        if ":" not in address:
            return inet_pton(AF_INET, address)
        packed = inet_pton(AF_INET6, address)
    except (OSError, ValueError):
        return None
    if not packed.startswith(_LINK_LOCAL_PREFIX):
        return packed
    index = _interface(scope)  # without which a link-local server is none
    return packed[:4] + struct.pack("!I", index) + packed[8:] if index else None


def _interface(scope: str) -> int:
    """The number of an interface by its name, or its number (RFC 4007 11.2); 0: there is none."""
    name = scope.encode()
    if not 0 < len(name) <= _MAX_NAME_BYTES:
        return 0
    try:
        any_socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC)
        try:
            index: int = _IFREQ.unpack(ioctl(any_socket, _SIOCGIFINDEX, _IFREQ.pack(name, 0)))[1]
        finally:
            any_socket.close()
    except OSError:
        index = int(scope) if scope.isascii() and scope.isdigit() else 0
    return index if 0 < index < 1 << 31 else 0
