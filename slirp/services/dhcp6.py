"""DHCPv6 (RFC 8415): the server of the link, with and without addresses (IA_NA).

As in DHCP we are the only server and forget with the daemon, so a client that renews what we do not
remember gets it when it is free (18.3.4 and 18.3.5 let a server do so).
"""

from __future__ import annotations

import struct

from slirp.core.seam import GATEWAY_LINK_LOCAL
from slirp.services import frames, names
from slirp.services.leases import Leases

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from slirp.config import Config
    from slirp.services.frames import Asked

SERVER_PORT = 547
CLIENT_PORT = 546
ALL_SERVERS = b"\xff\x02" + bytes(11) + b"\x01\x00\x02"

SOLICIT, ADVERTISE, REQUEST, CONFIRM, RENEW, REBIND, REPLY, RELEASE, DECLINE = range(1, 10)
INFORMATION_REQUEST = 11

OPT_CLIENT_ID = 1
OPT_SERVER_ID = 2
OPT_IA_NA = 3
OPT_IA_TA = 4
OPT_ADDRESS = 5
OPT_WANTED = 6
OPT_STATUS = 13
OPT_RAPID_COMMIT = 14
OPT_DNS = 23
OPT_DOMAINS = 24
OPT_IA_PD = 25
OPT_REFRESH_TIME = 32

SUCCESS = 0
NO_ADDRESSES = 2
NO_BINDING = 3
NOT_ON_LINK = 4
NO_PREFIX = 6

VALID_S = 86400
PREFERRED_S = 43200
T1_S = PREFERRED_S // 2  # RFC 8415 21.4: 0.5 and 0.8 of the preferred lifetime
T2_S = PREFERRED_S * 4 // 5
REFRESH_S = 3600  # the host's search domains may change
MAX_DUID_BYTES = 130  # RFC 8415 11.1: a type and 128 bytes
DUID_LL = 3
HTYPE_ETHERNET = 1

_HEADER_BYTES = 4
_OPTION = struct.Struct("!HH")
_IA = struct.Struct("!4sII")  # IAID, T1, T2
_IA_ADDRESS = struct.Struct("!16sII")  # address, preferred and valid lifetime
# Of the 1280 bytes that every link takes, for domains and for all IAs together.
_DOMAINS_ROOM_BYTES = 512
_IAS_ROOM_BYTES = 512
_MAX_ADDRESSES = 4  # of one IA that we look at

# Whether a message names its server (RFC 8415 16): it has to, may not, or may.
_NAMES_SERVER = {
    SOLICIT: False,
    CONFIRM: False,
    REBIND: False,
    REQUEST: True,
    RENEW: True,
    RELEASE: True,
    DECLINE: True,
}

Options = list[tuple[int, bytes]]


class Query:
    """A client's message."""

    __slots__ = ("addr", "kind", "mac", "options", "transaction")

    def __init__(self, asked: Asked, kind: int, transaction: bytes, options: Options) -> None:
        self.mac = asked.mac
        self.addr = asked.src
        self.kind = kind
        self.transaction = transaction
        self.options = options

    def get(self, code: int) -> bytes | None:
        """The first option of that code."""
        return next((value for known, value in self.options if known == code), None)

    def ias(self) -> Iterator[tuple[int, bytes]]:
        """The identity associations of every kind, as options."""
        return ((c, v) for c, v in self.options if c in (OPT_IA_NA, OPT_IA_TA, OPT_IA_PD))

    def wants(self, code: int) -> bool:
        """Whether it asks for an option, or for none in particular (RFC 8415 21.7)."""
        wanted = self.get(OPT_WANTED)
        if wanted is None:
            return True
        return code.to_bytes(2, "big") in (wanted[at : at + 2] for at in range(0, len(wanted), 2))


def parse(asked: Asked) -> Query | None:
    """A client's message, to servers as it must be (RFC 8415 16); None when it is none."""
    data = asked.data
    if asked.dst != ALL_SERVERS or asked.src[0] == 0xFF or not any(asked.src):
        return None
    options = _options(data[_HEADER_BYTES:])
    if len(data) < _HEADER_BYTES or options is None:
        return None
    return Query(asked, data[0], data[1:_HEADER_BYTES], options)


def _options(data: bytes) -> Options | None:
    """Code and value of each option; None when they do not fit."""
    options = []
    at = 0
    while at < len(data):
        if at + _OPTION.size > len(data):
            return None
        code, length = _OPTION.unpack_from(data, at)
        at += _OPTION.size + length
        if at > len(data):
            return None
        options.append((code, data[at - length : at]))
    return options


def _option(code: int, value: bytes) -> bytes:
    return _OPTION.pack(code, len(value)) + value


def _status(code: int) -> bytes:
    return _option(OPT_STATUS, code.to_bytes(2, "big"))


class _Ia:
    """One IA_NA of a message: whose addresses they are, and which they are."""

    __slots__ = ("addresses", "client", "iaid")

    def __init__(self, duid: bytes, value: bytes) -> None:
        self.iaid = value[:4]
        self.client = duid + self.iaid
        inner = _options(value[_IA.size :]) or []
        self.addresses = [
            body[:16] for code, body in inner if code == OPT_ADDRESS and len(body) >= 16
        ][:_MAX_ADDRESSES]

    def option(self, addresses: dict[bytes, int], status: int = SUCCESS) -> bytes:
        """What becomes of it: each address with its valid lifetime, and a status that is none of
        success.
        """
        alive = any(addresses.values())
        body = _IA.pack(self.iaid, T1_S if alive else 0, T2_S if alive else 0)
        for address, valid_s in addresses.items():
            preferred_s = min(PREFERRED_S, valid_s)
            body += _option(OPT_ADDRESS, _IA_ADDRESS.pack(address, preferred_s, valid_s))
        if status != SUCCESS:
            body += _status(status)
        return _option(OPT_IA_NA, body)


class Server:
    """The server of one network, with its leases."""

    def __init__(self, config: Config) -> None:
        network6 = config.network6
        assert network6 is not None
        mac = config.network.gateway_mac
        self._config = config
        self._network = network6
        self._sender = frames.Sender(mac, GATEWAY_LINK_LOCAL)
        self._duid = struct.pack("!HH", DUID_LL, HTYPE_ETHERNET) + mac
        self._leases = Leases(network6.dhcp_pool)
        self._handlers: dict[int, Callable[[Query, bytes, float], bytes | None]] = {
            SOLICIT: self._solicit,
            REQUEST: self._request,
            CONFIRM: self._confirm,
            RENEW: self._renew,
            REBIND: self._renew,
            RELEASE: self._release,
            DECLINE: self._decline,
        }

    def answer(self, asked: Asked, domains: list[str], now_s: float) -> bytes | None:
        """The reply to a client's message, as a frame; None when there is nothing to say."""
        query = parse(asked)
        if query is None:
            return None
        if query.kind == INFORMATION_REQUEST:
            body = self._information(query)
        else:
            handler = self._handlers.get(query.kind)
            duid = query.get(OPT_CLIENT_ID)
            if handler is None or not duid or not self._is_valid(query, duid):
                return None
            body = handler(query, duid, now_s)
        if body is None:
            return None
        kind = REPLY
        if query.kind == SOLICIT and query.get(OPT_RAPID_COMMIT) is None:
            kind = ADVERTISE
        message = bytes([kind]) + query.transaction + self._identity(query) + body
        message += self._configuration(query, domains)
        ports = (SERVER_PORT, CLIENT_PORT)
        return frames.udp(self._sender, query.mac, query.addr, ports, message)

    def _is_valid(self, query: Query, duid: bytes) -> bool:
        """RFC 8415 16.2 to 16.9."""
        server = query.get(OPT_SERVER_ID)
        named = _NAMES_SERVER[query.kind]
        return len(duid) <= MAX_DUID_BYTES and server == (self._duid if named else None)

    def _identity(self, query: Query) -> bytes:
        out = _option(OPT_SERVER_ID, self._duid)
        duid = query.get(OPT_CLIENT_ID)
        return out if duid is None else _option(OPT_CLIENT_ID, duid) + out

    def _configuration(self, query: Query, domains: list[str]) -> bytes:
        out = b""
        if self._config.dns and query.wants(OPT_DNS):
            out += _option(OPT_DNS, self._network.dns)
        if self._config.dns and domains and query.wants(OPT_DOMAINS):
            out += _option(OPT_DOMAINS, names.plain(domains, _DOMAINS_ROOM_BYTES))
        if query.kind == INFORMATION_REQUEST and query.wants(OPT_REFRESH_TIME):
            out += _option(OPT_REFRESH_TIME, REFRESH_S.to_bytes(4, "big"))
        return out

    # ---- what clients ask (RFC 8415 18.3)

    def _information(self, query: Query) -> bytes | None:
        if query.get(OPT_SERVER_ID) not in (None, self._duid) or any(True for _ in query.ias()):
            return None  # 16.12
        duid = query.get(OPT_CLIENT_ID)
        return b"" if duid is None or len(duid) <= MAX_DUID_BYTES else None

    def _solicit(self, query: Query, duid: bytes, now_s: float) -> bytes:
        if query.get(OPT_RAPID_COMMIT) is not None:
            return _option(OPT_RAPID_COMMIT, b"") + self._request(query, duid, now_s)

        def offer(ia: _Ia) -> bytes:
            wish = next(iter(ia.addresses), None)
            address = self._leases.offer(ia.client, wish, now_s)
            if address is None:
                return ia.option({}, NO_ADDRESSES)
            return ia.option({address: VALID_S})

        return self._each(query, duid, offer)

    def _request(self, query: Query, duid: bytes, now_s: float) -> bytes:
        def assign(ia: _Ia) -> bytes:
            wish = next(iter(ia.addresses), None)
            address = self._leases.offer(ia.client, wish, now_s)
            if address is None:
                return ia.option({}, NO_ADDRESSES)
            self._leases.bind(ia.client, address, now_s + VALID_S, now_s)
            return ia.option({address: VALID_S})

        return self._each(query, duid, assign)

    def _renew(self, query: Query, duid: bytes, now_s: float) -> bytes:
        def renew(ia: _Ia) -> bytes:
            wishes = [a for a in (self._leases.of(ia.client), *ia.addresses) if a is not None]
            kept = next((a for a in wishes if self._bind(ia, a, now_s)), None)
            if kept is None:
                return ia.option(dict.fromkeys(ia.addresses, 0), NO_BINDING)
            # 18.3.4: what it can have no more is given back with a lifetime of zero
            return ia.option({**dict.fromkeys(ia.addresses, 0), kept: VALID_S})

        return self._each(query, duid, renew)

    def _bind(self, ia: _Ia, address: bytes, now_s: float) -> bool:
        return self._leases.bind(ia.client, address, now_s + VALID_S, now_s)

    def _confirm(self, query: Query, duid: bytes, _now_s: float) -> bytes | None:
        """Whether its addresses are of this link (18.3.3)."""
        ias = [_Ia(duid, value) for code, value in query.ias() if code == OPT_IA_NA]
        addresses = [address for ia in ias for address in ia.addresses]
        if not addresses:
            return None
        here = all(self._network.contains(address) for address in addresses)
        return _status(SUCCESS if here else NOT_ON_LINK)

    def _release(self, query: Query, duid: bytes, _now_s: float) -> bytes:
        return self._give_back(query, duid, self._leases.release)

    def _decline(self, query: Query, duid: bytes, now_s: float) -> bytes:
        return self._give_back(query, duid, lambda c, a: self._leases.decline(c, a, now_s))

    def _give_back(self, query: Query, duid: bytes, end: Callable[[bytes, bytes], bool]) -> bytes:
        """18.3.7, 18.3.8: an IA of which we know nothing is told so."""

        def give_back(ia: _Ia) -> bytes:
            known = [end(ia.client, address) for address in ia.addresses]
            return b"" if any(known) else ia.option({}, NO_BINDING)

        return _status(SUCCESS) + self._each(query, duid, give_back)

    def _each(self, query: Query, duid: bytes, serve: Callable[[_Ia], bytes]) -> bytes:
        """The answers to all identity associations: as many as one datagram holds."""
        out = b""
        for code, value in query.ias():
            if len(value) < (4 if code == OPT_IA_TA else _IA.size) or len(out) > _IAS_ROOM_BYTES:
                continue
            if code == OPT_IA_NA:
                out += serve(_Ia(duid, value))
            elif code == OPT_IA_TA:  # temporary addresses are made by the guest (RFC 8981)
                out += _option(code, value[:4] + _status(NO_ADDRESSES))
            else:
                out += _option(code, value[:4] + bytes(8) + _status(NO_PREFIX))
        return out
