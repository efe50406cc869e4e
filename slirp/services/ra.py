"""Router advertisements (RFC 4861 4.2, 6.2; RFC 8106): the prefix of which the guest makes its
address, the MTU, and name service.

Who solicits gets its own answer at once. The lifetimes of a router are short, so everybody is told
again from time to time.
"""

from __future__ import annotations

import struct

from slirp.core.seam import GATEWAY_LINK_LOCAL
from slirp.services import frames, names

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slirp.config import Config
    from slirp.services.frames import Asked

PERIOD_S = 600.0  # RFC 4861 6.2.1: MaxRtrAdvInterval
LIFETIME_S = 3 * int(PERIOD_S)  # of the router; RFC 8106 5: of name servers and domains too
VALID_S = 2592000
PREFERRED_S = 604800

SOLICITATION = 133
ADVERTISEMENT = 134
FLAG_OTHER = 0x40  # RFC 4861 4.2: DHCPv6 has more to tell
FLAG_ON_LINK = 0x80
FLAG_AUTONOMOUS = 0x40
HOP_LIMIT = 64

OPT_SOURCE_MAC = 1
OPT_PREFIX = 3
OPT_MTU = 5
OPT_DNS = 25
OPT_DOMAINS = 31

_NOBODY = bytes(16)
_ALL_NODES = b"\xff\x02" + bytes(13) + b"\x01"
_ALL_NODES_MAC = b"\x33\x33\x00\x00\x00\x01"
_SOLICITATION_BYTES = 8
_OPTION_UNIT = 8
# Of the 1280 bytes that every link takes (RFC 8200 5), what is left beside the rest, with a margin.
_DOMAINS_ROOM_BYTES = 1024


def answer(config: Config, domains: list[str], asked: Asked) -> bytes | None:
    """The advertisement that a solicitation asks for; None when it is no valid one."""
    if not _is_solicitation(asked):
        return None
    return advertisement(config, domains, None if asked.src == _NOBODY else asked)


def advertisement(config: Config, domains: list[str], asked: Asked | None) -> bytes:
    """For who asked, or for everybody."""
    network, network6 = config.network, config.network6
    assert network6 is not None
    flags = FLAG_OTHER if config.dns else 0
    message = struct.pack("!BBHBBHII", ADVERTISEMENT, 0, 0, HOP_LIMIT, flags, LIFETIME_S, 0, 0)
    message += struct.pack("!BB6s", OPT_SOURCE_MAC, 1, network.gateway_mac)
    message += struct.pack("!BBHI", OPT_MTU, 1, 0, config.mtu)
    message += struct.pack(
        "!BBBBIII16s",
        OPT_PREFIX,
        4,
        network6.prefix_len,
        FLAG_ON_LINK | FLAG_AUTONOMOUS,
        VALID_S,
        PREFERRED_S,
        0,
        network6.address,
    )
    if config.dns:
        message += struct.pack("!BBHI16s", OPT_DNS, 3, 0, LIFETIME_S, network6.dns)
        message += _domains_option(domains)
    sender = frames.Sender(network.gateway_mac, GATEWAY_LINK_LOCAL)
    if asked is None:
        return frames.icmp6(sender, _ALL_NODES_MAC, _ALL_NODES, message)
    return frames.icmp6(sender, asked.mac, asked.src, message)


def _domains_option(domains: list[str]) -> bytes:
    """DNSSL (RFC 8106 5.2), padded to whole units; nothing without domains."""
    told = names.plain(domains, _DOMAINS_ROOM_BYTES)
    if not told:
        return b""
    told += bytes(-len(told) % _OPTION_UNIT)
    return struct.pack("!BBHI", OPT_DOMAINS, 1 + len(told) // _OPTION_UNIT, 0, LIFETIME_S) + told


def _is_solicitation(asked: Asked) -> bool:
    """RFC 4861 6.1.1, whose checksum the data plane has verified."""
    message = asked.data
    if (
        len(message) < _SOLICITATION_BYTES
        or message[0] != SOLICITATION
        or message[1] != 0
        or asked.hop_limit != frames.HOP_LIMIT_ON_LINK
        or asked.src[0] == 0xFF
    ):
        return False
    at = _SOLICITATION_BYTES
    while at < len(message):
        length = message[at + 1] * _OPTION_UNIT if at + 1 < len(message) else 0
        if length == 0 or at + length > len(message):
            return False
        if message[at] == OPT_SOURCE_MAC and asked.src == _NOBODY:
            return False
        at += length
    return True
