"""The host's name servers: resolv.conf(5), read again when it changes.

The guest's DNS address leads to the servers listed here. Laptops move and VPNs come up, so
refresh() is called when packets flow, looks at the file at most once a second, and costs nothing
while they do not. That also makes it in time: the first query after a change goes to the new
servers.
"""

from __future__ import annotations

import os
from _socket import AF_INET, AF_INET6, inet_pton

RESOLV_CONF = "/etc/resolv.conf"
# resolv.conf(5): without any name server, the local machine is asked.
_DEFAULT_SERVERS = [b"\x7f\x00\x00\x01"]
_CHECK_PERIOD_S = 1.0
_MAX_FILE_BYTES = 1 << 20
_MAX_DOMAINS = 32
_LINK_LOCAL_PREFIX = b"\xfe\x80"


class Resolvers:
    """The servers of a resolv.conf, as of the last look.

    servers: 4- or 16-byte addresses, in the order of preference.
    domains: where names without a dot are searched for.
    """

    __slots__ = ("_identity", "_next_check_s", "_path", "domains", "servers")

    def __init__(self, path: str = RESOLV_CONF) -> None:
        self._path = path
        self._next_check_s = 0.0
        self._identity = self._identify()
        text = self._read()
        self.servers = parse(text)
        self.domains = parse_domains(text)

    def refresh(self, now_s: float) -> bool:
        """Look again if it is time to; whether the servers have changed. `now_s` is monotonic."""
        if now_s < self._next_check_s:
            return False
        self._next_check_s = now_s + _CHECK_PERIOD_S
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
    address, _, _scope = text.partition("%")
    try:
        if ":" not in address:
            return inet_pton(AF_INET, address)
        packed = inet_pton(AF_INET6, address)
    except (OSError, ValueError):
        return None
    # A link-local server is none without its interface, which the data plane has no place for.
    return None if packed.startswith(_LINK_LOCAL_PREFIX) else packed
