"""DHCP (RFC 2131, options RFC 2132): the server at the gateway's address.

It is the only server of its link, and forgets its leases when the daemon ends. So it does what RFC
2131 4.3.2 leaves to servers that know each other's: a client that asks for an address of the pool
gets it when it is free, whether we remember the client or not, and a DHCPNAK otherwise, so that
nobody waits for a time-out.
"""

from __future__ import annotations

import struct

from slirp.services import frames, names
from slirp.services.leases import Leases

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from slirp.config import Config
    from slirp.services.frames import Asked

SERVER_PORT = 67
CLIENT_PORT = 68

BOOTREQUEST = 1
BOOTREPLY = 2
HTYPE_ETHERNET = 1
MAC_BYTES = 6
COOKIE = b"\x63\x82\x53\x63"
FLAG_BROADCAST = 0x8000
MIN_MESSAGE_BYTES = 300  # RFC 1542 2.1: some clients take nothing shorter
MIN_DATAGRAM_BYTES = 576  # RFC 2131 2: what every client takes
MAX_LEASE_S = 86400
MIN_LEASE_S = 60

(DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM) = range(1, 9)

OPT_PAD = 0
OPT_NETMASK = 1
OPT_ROUTER = 3
OPT_DNS = 6
OPT_HOST_NAME = 12
OPT_DOMAIN = 15
OPT_MTU = 26
OPT_BROADCAST = 28
OPT_REQUESTED_ADDR = 50
OPT_LEASE_TIME = 51
OPT_OVERLOAD = 52
OPT_TYPE = 53
OPT_SERVER_ID = 54
OPT_WANTED = 55
OPT_MESSAGE = 56
OPT_MAX_SIZE = 57
OPT_CLIENT_ID = 61
OPT_SEARCH = 119
OPT_END = 255

# op, htype, hlen, hops; xid; secs, flags; ciaddr, yiaddr, siaddr, giaddr; chaddr; sname; file
_BOOTP = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s")
_NOWHERE = bytes(4)
_EVERYWHERE = b"\xff" * 4
_EVERYBODY = b"\xff" * MAC_BYTES
_IP_UDP_BYTES = 28

Options = dict[int, bytes]


class Query:
    """A client's message, its options gathered."""

    __slots__ = ("chaddr", "ciaddr", "flags", "giaddr", "mac", "options", "src", "xid")

    def __init__(self, asked: Asked, header: tuple[Any, ...], options: Options) -> None:
        self.mac = asked.mac
        self.src = asked.src
        self.xid: int = header[4]
        self.flags: int = header[6]
        self.ciaddr: bytes = header[7]
        self.giaddr: bytes = header[10]
        self.chaddr: bytes = header[11][:MAC_BYTES]
        self.options = options

    @property
    def client(self) -> bytes:
        """Who asks: by its own identifier, else by its hardware (RFC 2131 4.2)."""
        return self.options.get(OPT_CLIENT_ID) or bytes([HTYPE_ETHERNET]) + self.chaddr

    def address(self, option: int) -> bytes | None:
        """An option that holds one address."""
        value = self.options.get(option, b"")
        return value if len(value) == 4 else None

    def number(self, option: int) -> int | None:
        """An option that holds one number."""
        value = self.options.get(option, b"")
        return int.from_bytes(value, "big") if value else None


def parse(asked: Asked) -> Query | None:
    """A message to a server; None when it is none, or from no Ethernet station."""
    data = asked.data
    if len(data) < _BOOTP.size + len(COOKIE):
        return None
    header = _BOOTP.unpack_from(data)
    if header[:3] != (BOOTREQUEST, HTYPE_ETHERNET, MAC_BYTES) or header[11][0] & 1:
        return None
    if data[_BOOTP.size : _BOOTP.size + len(COOKIE)] != COOKIE:
        return None
    options: Options = {}
    _gather(options, data[_BOOTP.size + len(COOKIE) :])
    overload = options.get(OPT_OVERLOAD, b"\0")[:1]
    if overload in (b"\x01", b"\x03"):  # RFC 2131 4.1: "file" before "sname"
        _gather(options, header[13])
    if overload in (b"\x02", b"\x03"):
        _gather(options, header[12])
    return Query(asked, header, options)


def _gather(options: Options, data: bytes) -> None:
    """Add the options of one field; an option that comes again goes on (RFC 3396 5)."""
    at = 0
    while at < len(data) and data[at] != OPT_END:
        code = data[at]
        if code == OPT_PAD:
            at += 1
            continue
        if at + 2 > len(data) or at + 2 + data[at + 1] > len(data):
            return  # what does not fit the field is nothing
        end = at + 2 + data[at + 1]
        options[code] = options.get(code, b"") + data[at + 2 : end]
        at = end


class Server:
    """The server of one network, with its leases."""

    def __init__(self, config: Config) -> None:
        network = config.network
        self._config = config
        self._network = network
        self._sender = frames.Sender(network.gateway_mac, network.gateway)
        self._leases = Leases(network.dhcp_pool)

    def answer(self, asked: Asked, domains: list[str], now_s: float) -> bytes | None:
        """The reply to a client's message, as a frame; None when there is nothing to say."""
        query = parse(asked)
        if query is None or not self._is_for_us(query):
            return None
        kind = query.options.get(OPT_TYPE)
        if kind == bytes([DISCOVER]):
            return self._discover(query, domains, now_s)
        if kind == bytes([REQUEST]):
            return self._request(query, domains, now_s)
        if kind == bytes([INFORM]):
            return self._inform(query, domains)
        if kind == bytes([DECLINE]):
            self._leases.decline(query.client, query.address(OPT_REQUESTED_ADDR) or b"", now_s)
        elif kind == bytes([RELEASE]):
            self._leases.release(query.client, query.ciaddr)
        return None

    def _is_for_us(self, query: Query) -> bool:
        """It names no other server, and comes through no relay of another network."""
        server = query.options.get(OPT_SERVER_ID)
        if server is not None and server != self._network.gateway:
            return False
        return query.giaddr == _NOWHERE or self._network.contains(query.giaddr)

    # ---- what clients ask (RFC 2131 4.3)

    def _discover(self, query: Query, domains: list[str], now_s: float) -> bytes | None:
        query.ciaddr = _NOWHERE
        address = self._leases.offer(query.client, query.address(OPT_REQUESTED_ADDR), now_s)
        if address is None:
            return None
        return self._reply(query, OFFER, address, self._lease(query), domains)

    def _request(self, query: Query, domains: list[str], now_s: float) -> bytes | None:
        """RENEWING and REBINDING ask for the address that they have, SELECTING and INIT-REBOOT for
        an option's.
        """
        address = query.ciaddr
        if address == _NOWHERE:
            address = query.address(OPT_REQUESTED_ADDR) or _NOWHERE
        if address == _NOWHERE:
            return None
        lease_s = self._lease(query)
        if self._leases.bind(query.client, address, now_s + lease_s, now_s):
            return self._reply(query, ACK, address, lease_s, domains)
        return self._refuse(query)

    def _inform(self, query: Query, domains: list[str]) -> bytes | None:
        """Only how things are here, to a client that has its address from elsewhere (4.3.5)."""
        if query.ciaddr == _NOWHERE:
            if query.src == _NOWHERE:
                return None
            query.ciaddr = query.src
        return self._reply(query, ACK, _NOWHERE, None, domains)

    def _lease(self, query: Query) -> int:
        wish = query.number(OPT_LEASE_TIME)
        return MAX_LEASE_S if wish is None else min(max(wish, MIN_LEASE_S), MAX_LEASE_S)

    # ---- what we say

    def _reply(
        self, query: Query, kind: int, yiaddr: bytes, lease_s: int | None, domains: list[str]
    ) -> bytes:
        """OFFER or ACK; without `lease_s` it is about no address."""
        largest = min(
            max(query.number(OPT_MAX_SIZE) or 0, MIN_DATAGRAM_BYTES),
            max(self._config.mtu, MIN_DATAGRAM_BYTES),
        )
        head = self._identity(query, kind)
        if lease_s is not None:
            head += _option(OPT_LEASE_TIME, lease_s.to_bytes(4, "big"))
        told = list(domains)
        while True:
            message = _message(query, yiaddr, head + self._parameters(query, told))
            if len(message) + _IP_UDP_BYTES <= largest or not told:
                return self._send(query, yiaddr, message)
            told.pop()

    def _refuse(self, query: Query) -> bytes:
        """NAK: to everybody on the link, since the client's address is not good (RFC 2131 4.1)."""
        options = self._identity(query, NAK) + _option(OPT_MESSAGE, b"address not available")
        query.ciaddr = _NOWHERE
        query.flags |= FLAG_BROADCAST
        return self._send(query, _NOWHERE, _message(query, _NOWHERE, options))

    def _identity(self, query: Query, kind: int) -> bytes:
        options = _option(OPT_TYPE, bytes([kind])) + _option(OPT_SERVER_ID, self._network.gateway)
        client_id = query.options.get(OPT_CLIENT_ID)
        if client_id is not None:  # RFC 6842 3: every reply repeats it
            options += _option(OPT_CLIENT_ID, client_id)
        return options

    def _parameters(self, query: Query, domains: list[str]) -> bytes:
        """How things are here: what the client wants to know (RFC 2132 9.8), in its order."""
        network = self._network
        mask, first = (int.from_bytes(a, "big") for a in (network.netmask, network.address))
        known = {
            OPT_NETMASK: network.netmask,
            OPT_ROUTER: network.gateway,
            OPT_DNS: network.dns if self._config.dns else b"",
            OPT_HOST_NAME: _host_name(query.options.get(OPT_HOST_NAME, b"")),
            OPT_DOMAIN: domains[0].encode("ascii", "replace")[:255] if domains else b"",
            OPT_MTU: self._config.mtu.to_bytes(2, "big"),
            OPT_BROADCAST: (first | ~mask & 0xFFFFFFFF).to_bytes(4, "big"),
            OPT_SEARCH: names.compressed(domains),
        }
        wanted = list(query.options.get(OPT_WANTED, bytes(known)))
        # RFC 2132 3.3: the mask before the router; and no host can do without it
        order = dict.fromkeys([OPT_NETMASK, *wanted])
        return b"".join(_option(code, known[code]) for code in order if known.get(code))

    def _send(self, query: Query, yiaddr: bytes, message: bytes) -> bytes:
        """To whom RFC 2131 4.1 says."""
        ports = (SERVER_PORT, CLIENT_PORT)
        if query.giaddr != _NOWHERE:
            return frames.udp(
                self._sender, query.mac, query.giaddr, (SERVER_PORT, SERVER_PORT), message
            )
        if query.ciaddr != _NOWHERE:
            return frames.udp(self._sender, query.chaddr, query.ciaddr, ports, message)
        if query.flags & FLAG_BROADCAST or yiaddr == _NOWHERE:
            return frames.udp(self._sender, _EVERYBODY, _EVERYWHERE, ports, message)
        return frames.udp(self._sender, query.chaddr, yiaddr, ports, message)


def _message(query: Query, yiaddr: bytes, options: bytes) -> bytes:
    header = _BOOTP.pack(
        BOOTREPLY,
        HTYPE_ETHERNET,
        MAC_BYTES,
        0,
        query.xid,
        0,
        query.flags,
        query.ciaddr,
        yiaddr,
        _NOWHERE,
        query.giaddr,
        query.chaddr,
        b"",
        b"",
    )
    message = header + COOKIE + options + bytes([OPT_END])
    return message.ljust(MIN_MESSAGE_BYTES, b"\0")


def _option(code: int, value: bytes) -> bytes:
    """An option, in as many parts as its length needs (RFC 3396 4)."""
    parts = [value[at : at + 255] for at in range(0, len(value), 255)] or [b""]
    return b"".join(bytes([code, len(part)]) + part for part in parts)


def _host_name(told: bytes) -> bytes:
    """The client's own name, which is the only one that we know of it, if it is one."""
    name = told.rstrip(b"\0")
    ok = name.replace(b"-", b"a").replace(b".", b"a").isalnum()
    return name if ok and len(name) <= names.MAX_LABEL_BYTES else b""
