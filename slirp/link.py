"""Network interfaces of the namespace that we are in: state, addresses, routes, and moving house.

Plain ioctls (netdevice(7), rtnetlink(7) for the one thing they cannot do): a netlink library costs
200 ms of import, twenty times what the whole of the configuration takes.
"""

from __future__ import annotations

import os
import struct
from _socket import AF_INET, AF_NETLINK, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_RAW, socket
from fcntl import ioctl

from slirp.config import Config
from slirp.errors import SlirpError, reason

# linux/sockios.h, linux/if.h, linux/if_arp.h, linux/route.h
SIOCADDRT = 0x890B
SIOCGIFFLAGS = 0x8913
SIOCSIFFLAGS = 0x8914
SIOCSIFADDR = 0x8916
SIOCSIFNETMASK = 0x891C
SIOCSIFMTU = 0x8922
SIOCSIFHWADDR = 0x8924
SIOCGIFINDEX = 0x8933
IFF_UP = 0x1
ARPHRD_ETHER = 1
RTF_UP = 0x1
RTF_GATEWAY = 0x2
# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h
NETLINK_ROUTE = 0
NLMSG_ERROR = 2
NLM_F_REQUEST = 1
NLM_F_ACK = 4
RTM_NEWLINK = 16
IFLA_NET_NS_FD = 28

_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # family, device type, index, flags, change mask
_ATTRIBUTE = struct.Struct("=HHI")  # length, type, a 32-bit value


def configure(name: str, config: Config) -> None:
    """Bring up `lo`, and `name` with MAC, MTU, address and default route. Raises SlirpError."""
    network = config.network
    interface = os.fsencode(name)
    sock = _control_socket()
    _bring_up(sock, b"lo")
    if config.mac is not None:
        address = struct.pack("H6s", ARPHRD_ETHER, config.mac)
        _request(sock, SIOCSIFHWADDR, interface, address, "cannot set MAC address")
    _request(sock, SIOCSIFMTU, interface, struct.pack("i", config.mtu), "cannot set MTU")
    _request(sock, SIOCSIFADDR, interface, _sockaddr(network.guest), "cannot set address")
    _request(sock, SIOCSIFNETMASK, interface, _sockaddr(network.netmask), "cannot set netmask")
    _bring_up(sock, interface)
    _add_default_route(sock, network.gateway)
    sock.close()


def exists(name: str) -> bool:
    """Whether there is an interface `name`."""
    try:
        _index(name)
    except OSError:
        return False
    return True


def move(name: str, netns_fd: int) -> None:
    """Move the interface `name` into the namespace behind `netns_fd`. Raises OSError.

    The kernel waits for RCU grace periods here: some 13 ms.
    """
    interface = _IFINFO.pack(0, 0, _index(name), 0, 0)
    destination = _ATTRIBUTE.pack(_ATTRIBUTE.size, IFLA_NET_NS_FD, netns_fd)
    length = _NLMSG.size + len(interface) + len(destination)
    header = _NLMSG.pack(length, RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)
    try:
        netlink.send(header + interface + destination)
        answer = netlink.recv(4096)
    finally:
        netlink.close()
    _, kind, _, _, _ = _NLMSG.unpack_from(answer)
    (errno,) = struct.unpack_from("=i", answer, _NLMSG.size)
    if kind == NLMSG_ERROR and errno:
        raise OSError(-errno, os.strerror(-errno), name)


def _control_socket() -> socket:
    """Any socket will do for ioctls on interfaces; its namespace is theirs."""
    return socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)


def _index(name: str) -> int:
    sock = _control_socket()
    try:
        ifreq = ioctl(sock, SIOCGIFINDEX, struct.pack("16s24x", os.fsencode(name)))
    finally:
        sock.close()
    index: int = struct.unpack_from("i", ifreq, 16)[0]
    return index


def _bring_up(sock: socket, interface: bytes) -> None:
    complaint = f"cannot bring up {os.fsdecode(interface)}"
    answer = _request(sock, SIOCGIFFLAGS, interface, b"", complaint)
    (flags,) = struct.unpack_from("H", answer, 16)
    _request(sock, SIOCSIFFLAGS, interface, struct.pack("H", flags | IFF_UP), complaint)


def _add_default_route(sock: socket, gateway: bytes) -> None:
    anywhere = _sockaddr(bytes(4))
    # struct rtentry: pad, rt_dst, rt_gateway, rt_genmask, rt_flags, and fields that may all be zero
    rtentry = struct.pack(
        "L16s16s16sH62x", 0, anywhere, _sockaddr(gateway), anywhere, RTF_UP | RTF_GATEWAY
    )
    try:
        ioctl(sock, SIOCADDRT, rtentry)
    except OSError as error:
        raise SlirpError(f"cannot set the default route: {reason(error)}") from None


def _request(sock: socket, request: int, interface: bytes, value: bytes, complaint: str) -> bytes:
    """One ioctl on a struct ifreq; `value` is the start of its union. Returns the struct."""
    try:
        return ioctl(sock, request, struct.pack("16s24s", interface, value))
    except OSError as error:
        raise SlirpError(f"{complaint}: {reason(error)}") from None


def _sockaddr(address: bytes) -> bytes:
    """struct sockaddr_in of a 4-byte address."""
    return struct.pack("HH4s8x", AF_INET, 0, address)
