"""Who has which address: a table as large as its pool, for DHCP and DHCPv6.

An address belongs to the client that had it last, also after the lease, until another one needs it
(RFC 2131 4.3.1): who comes back finds what it had. A newcomer gets an address that nobody has had,
else the one whose lease ended first, else one that was offered and not yet taken. Nothing is kept
of a client without an address, so that clients cost nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

OFFER_S = 60.0  # an offer is held for so long
DECLINED_S = 600.0  # somebody else has that address: leave it alone for a while
_NOBODY = b""


class _Entry:
    __slots__ = ("bound", "client", "until_s")

    def __init__(self) -> None:
        self.client = _NOBODY  # with `until_s` in the future and no client: declined
        self.bound = False  # or merely offered
        self.until_s = 0.0


class Leases:
    """The addresses of a pool, and whose they are."""

    def __init__(self, pool: Iterable[bytes]) -> None:
        self._entries = {address: _Entry() for address in pool}

    def offer(self, client: bytes, wish: bytes | None, now_s: float) -> bytes | None:
        """An address for `client`, if possible the one it has, had or wishes for, held for a while.

        None when all are in use.
        """
        address = self.of(client)
        if address is None:
            idle = self._idle(now_s)
            address = wish if wish in idle else next(iter(idle + self._offered(now_s)), None)
        if address is not None and self._entries[address].until_s < now_s + OFFER_S:
            self._set(address, client, now_s + OFFER_S, bound=self.is_bound(client, address, now_s))
        return address

    def bind(self, client: bytes, address: bytes, until_s: float, now_s: float) -> bool:
        """Lease `address` to `client`; False when it is not to be had."""
        former = self.of(client)
        if former != address:
            if address not in self._idle(now_s):
                return False
            if former is not None:
                self.release(client, former)
                self._entries[former].client = _NOBODY
        self._set(address, client, until_s, bound=True)
        return True

    def release(self, client: bytes, address: bytes) -> bool:
        """The client has no more use for its address now; False when it is not its own."""
        if self.of(client) != address:
            return False
        self._entries[address].until_s = 0.0
        self._entries[address].bound = False
        return True

    def decline(self, client: bytes, address: bytes, now_s: float) -> bool:
        """The client has met somebody else with that address; False when it is not its own."""
        if self.of(client) != address:
            return False
        self._set(address, _NOBODY, now_s + DECLINED_S, bound=False)
        return True

    def of(self, client: bytes) -> bytes | None:
        """The address that `client` has, had last or was offered."""
        for address, entry in self._entries.items():
            if entry.client == client != _NOBODY:
                return address
        return None

    def is_bound(self, client: bytes, address: bytes, now_s: float) -> bool:
        """Whether `client` has a lease of `address`."""
        entry = self._entries.get(address)
        return (
            entry is not None and entry.client == client and entry.bound and entry.until_s > now_s
        )

    def _idle(self, now_s: float) -> list[bytes]:
        """What nobody has now; first what nobody ever had, then what was had longest ago."""
        idle = [(a, e) for a, e in self._entries.items() if e.until_s <= now_s]
        idle.sort(key=lambda item: (item[1].client != _NOBODY, item[1].until_s))
        return [address for address, _ in idle]

    def _offered(self, now_s: float) -> list[bytes]:
        """What has been offered and not been taken yet, oldest first."""
        offered = [
            (a, e)
            for a, e in self._entries.items()
            if e.until_s > now_s and not e.bound and e.client != _NOBODY
        ]
        offered.sort(key=lambda item: item[1].until_s)
        return [address for address, _ in offered]

    def _set(self, address: bytes, client: bytes, until_s: float, *, bound: bool) -> None:
        entry = self._entries[address]
        entry.client = client
        entry.until_s = until_s
        entry.bound = bound
