"""Ethernet frames with a UDP datagram or an ICMPv6 message: taken apart, and built.

Only what a punted frame can be. The data plane has verified its checksums; lengths are looked at
again here, since nothing else keeps a slice from being shorter than it should be.
"""

from __future__ import annotations

import struct

from slirp.core.csum import checksum

ETH_IP4 = 0x0800
ETH_IP6 = 0x86DD
PROTO_UDP = 17
PROTO_ICMP6 = 58
TTL = 64
# RFC 4861 6.1.2: only somebody on the link can have sent it.
HOP_LIMIT_ON_LINK = 255

_ETHERNET = struct.Struct("!6s6sH")
_IP4 = struct.Struct("!BBHHHBBH4s4s")
_IP6 = struct.Struct("!IHBB16s16s")
_UDP = struct.Struct("!HHHH")


class Asked:
    """What a frame of the guest's carries.

    mac: its source. src, dst: 4 or 16 bytes. port: where a UDP datagram goes; 0: it is an ICMPv6
    message. data: what is behind the UDP header, or the whole message.
    """

    __slots__ = ("data", "dst", "hop_limit", "mac", "port", "src")

    def __init__(
        self, mac: bytes, src: bytes, dst: bytes, hop_limit: int, port: int, data: bytes
    ) -> None:
        self.mac = mac
        self.src = src
        self.dst = dst
        self.hop_limit = hop_limit
        self.port = port
        self.data = data


def parse(frame: bytes) -> Asked | None:
    """Take a frame apart; None when it is none of ours to answer."""
    if len(frame) < _ETHERNET.size:
        return None
    _, mac, ethertype = _ETHERNET.unpack_from(frame)
    datagram = frame[_ETHERNET.size :]
    if ethertype == ETH_IP4:
        return _parse_ip4(mac, datagram)
    if ethertype == ETH_IP6:
        return _parse_ip6(mac, datagram)
    return None


def _parse_ip4(mac: bytes, datagram: bytes) -> Asked | None:
    if len(datagram) < _IP4.size:
        return None
    first, _, total, _, _, ttl, proto, _, src, dst = _IP4.unpack_from(datagram)
    header_bytes = (first & 0x0F) * 4
    if proto != PROTO_UDP or not _IP4.size <= header_bytes <= total <= len(datagram):
        return None
    return _parse_udp(mac, src, dst, ttl, datagram[header_bytes:total])


def _parse_ip6(mac: bytes, datagram: bytes) -> Asked | None:
    """Without extension headers: neither DHCPv6 nor router discovery has a use for any."""
    if len(datagram) < _IP6.size:
        return None
    _, length, proto, hop_limit, src, dst = _IP6.unpack_from(datagram)
    payload = datagram[_IP6.size : _IP6.size + length]
    if len(payload) < length:
        return None
    if proto == PROTO_UDP:
        return _parse_udp(mac, src, dst, hop_limit, payload)
    if proto == PROTO_ICMP6:
        return Asked(mac, src, dst, hop_limit, 0, payload)
    return None


def _parse_udp(mac: bytes, src: bytes, dst: bytes, hop_limit: int, udp: bytes) -> Asked | None:
    if len(udp) < _UDP.size:
        return None
    _, port, length, _ = _UDP.unpack_from(udp)
    if not _UDP.size <= length <= len(udp) or port == 0:
        return None
    return Asked(mac, src, dst, hop_limit, port, udp[_UDP.size : length])


class Sender:
    """Who answers: hardware address and IP address, of either family."""

    __slots__ = ("addr", "mac")

    def __init__(self, mac: bytes, addr: bytes) -> None:
        self.mac = mac
        self.addr = addr


def udp(sender: Sender, mac: bytes, addr: bytes, ports: tuple[int, int], data: bytes) -> bytes:
    """A frame for `mac` with a datagram for `addr`; ports: its source and destination."""
    length = _UDP.size + len(data)
    header = _UDP.pack(*ports, length, 0)
    total = _upper_checksum(sender.addr, addr, PROTO_UDP, header + data)
    # RFC 768: zero would mean "none"
    payload = _UDP.pack(*ports, length, total or 0xFFFF) + data
    if len(addr) == 4:
        return _ethernet(sender, mac, ETH_IP4, _ip4(sender.addr, addr, payload))
    return _ethernet(sender, mac, ETH_IP6, _ip6(sender.addr, addr, PROTO_UDP, TTL, payload))


def icmp6(sender: Sender, mac: bytes, addr: bytes, message: bytes) -> bytes:
    """A frame for `mac` with an ICMPv6 message, whose checksum is zero, of neighbour discovery."""
    total = _upper_checksum(sender.addr, addr, PROTO_ICMP6, message)
    message = message[:2] + total.to_bytes(2, "big") + message[4:]
    packet = _ip6(sender.addr, addr, PROTO_ICMP6, HOP_LIMIT_ON_LINK, message)
    return _ethernet(sender, mac, ETH_IP6, packet)


def _ethernet(sender: Sender, mac: bytes, ethertype: int, packet: bytes) -> bytes:
    return _ETHERNET.pack(mac, sender.mac, ethertype) + packet


def _ip4(src: bytes, dst: bytes, payload: bytes) -> bytes:
    total = _IP4.size + len(payload)
    header = _IP4.pack(0x45, 0, total, 0, 0, TTL, PROTO_UDP, 0, src, dst)
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + payload


def _ip6(src: bytes, dst: bytes, proto: int, hop_limit: int, payload: bytes) -> bytes:
    return _IP6.pack(6 << 28, len(payload), proto, hop_limit, src, dst) + payload


def _upper_checksum(src: bytes, dst: bytes, proto: int, payload: bytes) -> int:
    """Over the pseudo-header of either family, which sum alike (RFC 768, RFC 8200 8.1)."""
    return checksum(src + dst + struct.pack("!IHH", len(payload), 0, proto) + payload)
