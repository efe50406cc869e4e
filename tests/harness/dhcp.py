"""Messages of DHCP and DHCPv6 clients and routers' solicitations, as frames, made by scapy: an
oracle that shares nothing with slirp.services.
"""

from __future__ import annotations

from typing import Any

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import (
    DUID_LL,
    DHCP6OptClientId,
    DHCP6OptIA_NA,
    DHCP6OptIAAddress,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.layers.l2 import Ether

MAC = "02:00:00:00:00:01"
OTHER_MAC = "02:00:00:00:00:02"
BROADCAST = "ff:ff:ff:ff:ff:ff"
GATEWAY_MAC = "52:55:0a:00:02:02"
LINK_LOCAL = "fe80::ff:fe00:1"
ALL_SERVERS = "ff02::1:2"


def mac_bytes(mac: str) -> bytes:
    """Six bytes."""
    return bytes.fromhex(mac.replace(":", ""))


def dhcp4(
    kind: str | None,
    *options: Any,
    mac: str = MAC,
    src: str = "0.0.0.0",
    dst: str = "255.255.255.255",
    bootp: dict[str, Any] | None = None,
) -> bytes:
    """A frame of a DHCP client; options as scapy has them."""
    told = [("message-type", kind), *options, "end"] if kind else [*options, "end"]
    return bytes(
        Ether(src=mac, dst=BROADCAST)
        / IP(src=src, dst=dst)
        / UDP(sport=68, dport=67)
        / BOOTP(**{"chaddr": mac_bytes(mac), "xid": 0x1234, **(bootp or {})})
        / DHCP(options=told)
    )


def options_of(reply: bytes) -> dict[str, Any]:
    """The options of a DHCP reply, by scapy's names; one value bare, more as a tuple."""
    told: dict[str, Any] = {}
    for option in Ether(reply)[DHCP].options:
        if isinstance(option, tuple):
            told[option[0]] = option[1] if len(option) == 2 else option[1:]
    return told


def dhcp6(
    message: Any,
    *options: Any,
    mac: str | None = MAC,
    src: str = LINK_LOCAL,
    dst: str = ALL_SERVERS,
) -> bytes:
    """A frame of a DHCPv6 client; `mac` None: without an identifier."""
    layers = Ether(src=mac or MAC, dst="33:33:00:01:00:02") / IPv6(src=src, dst=dst)
    layers = layers / UDP(sport=546, dport=547) / message
    if mac is not None:
        layers = layers / DHCP6OptClientId(duid=DUID_LL(lladdr=mac))
    for option in options:
        layers = layers / option
    return bytes(layers)


def ia_na(*addresses: str, iaid: int = 7) -> Any:
    """An identity association with the addresses that a client has or wishes for."""
    inner = [DHCP6OptIAAddress(addr=addr) for addr in addresses]
    return DHCP6OptIA_NA(iaid=iaid, T1=0, T2=0, ianaopts=inner)


def solicitation(src: str = LINK_LOCAL, hlim: int = 255, source_mac: bool = True) -> bytes:
    """A router solicitation."""
    layers = Ether(src=MAC, dst="33:33:00:00:00:02") / IPv6(src=src, dst="ff02::2", hlim=hlim)
    layers = layers / ICMPv6ND_RS()
    return bytes(layers / ICMPv6NDOptSrcLLAddr(lladdr=MAC) if source_mac else layers)
