"""The TAP device: open, name, negotiate offloads.

With IFF_VNET_HDR every frame carries a virtio-net header, and with TUNSETOFFLOAD the guest's kernel
may hand over frames of up to 64 KiB, neither segmented nor checksummed, whatever the MTU. That is
worth more than everything else we do for speed, so each bit is asked for and given up one by one.
"""

from __future__ import annotations

import os
import struct
from fcntl import ioctl

from slirp.errors import SlirpError, reason

TUN_DEVICE = "/dev/net/tun"
NO_LINK = -1
VNET_HEADER_BYTES = 12  # struct virtio_net_hdr_mrg_rxbuf, which the Engine reads and writes

# linux/if_tun.h
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNGETIFF = 0x800454D2
TUNSETVNETHDRSZ = 0x400454D8
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
TUN_F_CSUM = 0x01
TUN_F_TSO4 = 0x02
TUN_F_TSO6 = 0x04
TUN_F_TSO_ECN = 0x08
TUN_F_USO4 = 0x20  # Linux 6.2
TUN_F_USO6 = 0x40

SIOCGIFHWADDR = 0x8927
IFREQ_BYTES = 40  # struct ifreq of 64-bit Linux: a 16-byte name and a 24-byte union

# From everything to nothing. The kernel refuses the whole set for one bit that it does not know,
# and takes TSO only with CSUM.
_OFFLOADS = (
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6,
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN,
    TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6,
    TUN_F_CSUM,
    0,
)


class Tap:
    """An open TAP, ready for the Engine.

    fd:       non-blocking; whoever holds the Tap owns it.
    mac:      the 6 bytes of the interface, that is the guest's own.
    offload:  TUN_F_* bits in force.
    vnet_hdr: frames are preceded by a virtio-net header of VNET_HEADER_BYTES.
    network:  the cookie of the network namespace that it serves (apisocket); 0 when unknown.
    """

    __slots__ = ("fd", "mac", "network", "offload", "vnet_hdr")

    def __init__(self, fd: int, mac: bytes, offload: int, vnet_hdr: bool, network: int = 0) -> None:
        self.fd = fd
        self.mac = mac
        self.offload = offload
        self.vnet_hdr = vnet_hdr
        self.network = network


def open_device() -> int:
    """A descriptor of /dev/net/tun; its interface will live in the caller's network namespace."""
    try:
        return os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SlirpError(f"cannot open {TUN_DEVICE}: {reason(error)}") from None


def attach(fd: int, name: str) -> None:
    """Make the TAP `name`, or join it when it exists and is persistent. Raises OSError."""
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    ioctl(fd, TUNSETIFF, struct.pack("16sH22x", os.fsencode(name), flags))


def negotiate(fd: int) -> Tap:
    """Set header size and offloads of a TAP that attach() made, in any namespace."""
    ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HEADER_BYTES))
    return Tap(fd, hardware_address(fd), _set_offload(fd), vnet_hdr=True)


def adopt(fd: int) -> Tap:
    """A TAP that somebody else opened and handed over (--netns-type=tapfd). Raises SlirpError."""
    try:
        flags: int = struct.unpack_from("H", ioctl(fd, TUNGETIFF, bytes(IFREQ_BYTES)), 16)[0]
    except OSError:
        raise SlirpError(f"tapfd {fd} is not a TAP device") from None
    if not flags & IFF_TAP:
        raise SlirpError(f"tapfd {fd} is a TUN device, a TAP is needed")
    # Whether it was opened with IFF_NO_PI cannot be seen: its bit means IFF_NOFILTER here.
    os.set_blocking(fd, False)
    os.set_inheritable(fd, False)
    if flags & IFF_VNET_HDR:
        return negotiate(fd)
    return Tap(fd, hardware_address(fd), 0, vnet_hdr=False)


def none() -> Tap:
    """No TAP: the guest, of whom nothing is known, will come by another way."""
    return Tap(NO_LINK, bytes(6), 0, vnet_hdr=False)


def hardware_address(fd: int) -> bytes:
    """The 6 bytes of the MAC of the interface behind `fd`, wherever it lives."""
    answer = ioctl(fd, SIOCGIFHWADDR, bytes(IFREQ_BYTES))
    return answer[18:24]  # name[16], sa_family, sa_data


def _set_offload(fd: int) -> int:
    for offload in _OFFLOADS:
        try:
            ioctl(fd, TUNSETOFFLOAD, offload)
        except OSError:
            continue
        return offload
    return 0
