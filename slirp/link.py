"""Network interfaces of the namespace that we are in: state, addresses, routes, and moving house.

Plain ioctls (netdevice(7)), and rtnetlink(7) for what they cannot do: a netlink library costs 200
ms of import, twenty times what the whole of the configuration takes.
"""

from __future__ import annotations

import os
import struct
from _socket import AF_INET, AF_INET6, AF_NETLINK, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_RAW, socket
from errno import EACCES, EAFNOSUPPORT, EOPNOTSUPP
from fcntl import ioctl

from slirp.config import Config, Network6
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
NLM_F_REPLACE = 0x100
NLM_F_CREATE = 0x400
RTM_NEWLINK = 16
RTM_NEWADDR = 20
RTM_NEWROUTE = 24
IFLA_NET_NS_FD = 28
IFA_ADDRESS = 1
IFA_F_NODAD = 0x02
RTA_OIF = 4
RTA_GATEWAY = 5
RT_TABLE_MAIN = 254
RTPROT_BOOT = 3
RTN_UNICAST = 1

_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_IFINFO = struct.Struct("=BxHiII")  # family, device type, index, flags, change mask
_IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
# family, lengths of destination and source, TOS, table, protocol, scope, type, flags
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")  # length, type; the value follows
_CONF6 = "/proc/sys/net/ipv6/conf"
_NO_IPV6 = (EOPNOTSUPP, EAFNOSUPPORT, EACCES)  # the first two: in the kernel; then: disable_ipv6


def configure(name: str, config: Config, mac: bytes) -> None:
    """Bring up `lo`, and `name` with MAC, MTU, addresses and default routes. Raises SlirpError.

    mac: what the interface has, or is given here.
    """
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
    if config.network6 is not None:
        _leave_ipv6_to_us(name)
    _bring_up(sock, interface)
    _add_default_route(sock, network.gateway)
    sock.close()
    if config.network6 is not None:
        _configure6(name, config.network6, mac)


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
    _netlink(RTM_NEWLINK, 0, interface, {IFLA_NET_NS_FD: struct.pack("=I", netns_fd)})


def _leave_ipv6_to_us(name: str) -> None:
    """Have the kernel make no addresses of advertisements, since we set what it would make, and let
    those that it makes be of use at once: nobody else is on the link.
    """
    for setting, value in (("accept_dad", "0"), ("accept_ra", "0")):
        try:
            with open(f"{_CONF6}/{name}/{setting}", "w") as file:
                file.write(value)
        except OSError:
            pass  # no IPv6, or no /proc to write to: addresses of ours need neither


def _configure6(name: str, network6: Network6, mac: bytes) -> None:
    """Address and default route; nothing where somebody has decided that there is no IPv6.

    Raises SlirpError.
    """
    index = _index(name)
    flags = NLM_F_CREATE | NLM_F_REPLACE
    address = _IFADDR.pack(AF_INET6, network6.prefix_len, IFA_F_NODAD, 0, index)
    route = _ROUTE.pack(AF_INET6, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0)
    interface = struct.pack("=I", index)
    try:
        _netlink(RTM_NEWADDR, flags, address, {IFA_ADDRESS: network6.guest(mac)})
        _netlink(RTM_NEWROUTE, flags, route, {RTA_GATEWAY: network6.gateway, RTA_OIF: interface})
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise SlirpError(f"cannot set IPv6 address and route: {reason(error)}") from None


def _netlink(kind: int, flags: int, body: bytes, attributes: dict[int, bytes]) -> None:
    """One rtnetlink request. Raises OSError. Values are of whole words."""
    for code, value in attributes.items():
        body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), code) + value
    length = _NLMSG.size + len(body)
    header = _NLMSG.pack(length, kind, flags | NLM_F_REQUEST | NLM_F_ACK, 1, 0)
    netlink = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE)
    try:
        netlink.send(header + body)
        answer = netlink.recv(4096)
    finally:
        netlink.close()
    _, kind, _, _, _ = _NLMSG.unpack_from(answer)
    (errno,) = struct.unpack_from("=i", answer, _NLMSG.size)
    if kind == NLMSG_ERROR and errno:
        raise OSError(-errno, os.strerror(-errno))


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
