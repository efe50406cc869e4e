"""Every option: its name, its help, its effect. slirp4netns 1.3's, and those of `pyslirp run`."""

from __future__ import annotations

from _socket import AF_INET, AF_INET6

from slirp.config import (
    BESS,
    DEFAULT_CIDR,
    DEFAULT_CIDR6,
    DEFAULT_MTU,
    DEFAULT_RUN_MTU,
    MAX_MTU,
    PATH,
    PID,
    TAPFD,
    Config,
    RunConfig,
    is_number,
    parse_cidr,
    parse_cidr6,
    parse_count,
    parse_mac,
    parse_mtu,
    parse_publication,
    parse_size,
    parse_timeouts,
)
from slirp.errors import UsageError
from slirp.getopt import Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _set(attribute: str, value: object = True) -> Callable[[Config, str], None]:
    def apply(config: Config, _: str) -> None:
        setattr(config, attribute, value)

    return apply


def _store(attribute: str) -> Callable[[Config, str], None]:
    def apply(config: Config, text: str) -> None:
        setattr(config, attribute, text)

    return apply


def _fd(attribute: str, label: str) -> Callable[[Config, str], None]:
    def apply(config: Config, text: str) -> None:
        if not is_number(text):
            raise UsageError(f"{label} must be a non-negative integer")
        setattr(config, attribute, int(text))

    return apply


def _deprecated(old: str, new: str) -> Callable[[Config, str], None]:
    def apply(config: Config, value: str) -> None:
        config.warnings.append(f"--{old} is deprecated, please use --{new} instead")
        next(option for option in OPTIONS if option.long == new).apply(config, value)

    return apply


def _nothing(_: Config, __: str) -> None:
    """For what the parser does itself."""


def _mtu(config: Config, text: str) -> None:
    config.mtu = parse_mtu(text)


def _cidr(config: Config, text: str) -> None:
    config.network = parse_cidr(text)


def _enable_ipv6(config: Config, _: str) -> None:
    if config.network6 is None:
        config.network6 = parse_cidr6(DEFAULT_CIDR6)


def _cidr6(config: Config, text: str) -> None:
    config.network6 = parse_cidr6(text)


def _mac(config: Config, text: str) -> None:
    config.mac = parse_mac(text)


def _tcp_buffer(config: Config, text: str) -> None:
    config.tcp_buffer_bytes = parse_size(text, 1 << 16, 1 << 29)


def _memory_limit(config: Config, text: str) -> None:
    config.memory_bytes = parse_size(text, 1 << 20, 1 << 40)


def _udp_timeout(config: Config, text: str) -> None:
    config.udp_timeouts_s = parse_timeouts(text, config.udp_timeouts_s)


def _max_flows(config: Config, text: str) -> None:
    config.max_flows = parse_count(text, 64, 1 << 20)


def _outbound(family: int) -> Callable[[Config, str], None]:
    def apply(config: Config, text: str) -> None:
        config.outbound[family] = text

    return apply


def _netns_type(config: Config, text: str) -> None:
    if text not in (PATH, PID, TAPFD):
        raise UsageError(f'--netns-type must be "{PATH}", "{PID}" or "{TAPFD}"')
    config.target_kind = text


def _target_type(config: Config, text: str) -> None:
    if text not in ("netns", BESS):
        raise UsageError(f'--target-type must be either "netns" or "{BESS}"')
    config.bess = text == BESS


def _no_sandbox(config: Config, _: str) -> None:
    config.sandbox = False
    config.warnings.append("--no-sandbox: a guest that breaks out of pyslirp is you")


def _no_seccomp(config: Config, _: str) -> None:
    config.seccomp = False
    config.warnings.append("--no-seccomp: a guest that breaks into pyslirp may call the kernel")


def _publish(config: Config, text: str) -> None:
    assert isinstance(config, RunConfig)
    config.publish.append(parse_publication(text))


_NO_HOST_LOOPBACK = Option(
    "disable-host-loopback",
    "",
    "",
    "prohibit connecting to 127.0.0.1:* on the host namespace",
    _set("host_loopback", False),
)
_MTU = Option("mtu", "m", "MTU", f"specify MTU (default={DEFAULT_MTU}, max={MAX_MTU})", _mtu)
_RUN_MTU = Option(
    "mtu", "m", "MTU", f"specify MTU (default={DEFAULT_RUN_MTU}, max={MAX_MTU})", _mtu
)
_API = Option("api-socket", "a", "PATH", "specify API socket path", _store("api_path"))
_CIDR = Option("cidr", "", "CIDR", f"specify network address CIDR (default={DEFAULT_CIDR})", _cidr)
_CIDR6 = Option(
    "cidr6",
    "",
    "CIDR",
    f"enable IPv6, with this prefix of 64 bits (default={DEFAULT_CIDR6})",
    _cidr6,
    ours=True,
)
_NO_DNS = Option(
    "disable-dns",
    "",
    "",
    "do not redirect 10.0.2.3 (network address + 3) to the host's DNS",
    _set("dns", False),
)
_CONFINEMENT = (
    Option("no-sandbox", "", "", "run without a sandbox, for debugging", _no_sandbox, ours=True),
    Option(
        "no-seccomp", "", "", "do not filter system calls, for debugging", _no_seccomp, ours=True
    ),
    Option(
        "require-sandbox",
        "",
        "",
        "fail where the system refuses a part of the two",
        _set("require_sandbox"),
        ours=True,
    ),
)
_LIMITS = (
    Option(
        "tcp-buffer",
        "",
        "SIZE",
        "memory that a TCP connection may use in each direction (default=4M)",
        _tcp_buffer,
        ours=True,
    ),
    Option(
        "memory-limit",
        "",
        "SIZE",
        "memory that all connections together may use for data (default=256M)",
        _memory_limit,
        ours=True,
    ),
    Option(
        "max-flows",
        "",
        "N",
        "connections, UDP mappings and pings at a time (default=32768)",
        _max_flows,
        ours=True,
    ),
    Option(
        "udp-timeout",
        "",
        "S[,S[,S]]",
        "seconds for UDP: answered, not yet answered, DNS (default=180,30,10)",
        _udp_timeout,
        ours=True,
    ),
)
HELP = Option("help", "h", "", "show this help and exit", _nothing)
VERSION = Option("version", "v", "", "show version and exit", _nothing)

OPTIONS: tuple[Option, ...] = (
    Option("configure", "c", "", "bring up the interface", _set("configure")),
    Option(
        "exit-fd", "e", "FD", "specify the FD for terminating pyslirp", _fd("exit_fd", "exit-fd")
    ),
    Option(
        "ready-fd",
        "r",
        "FD",
        "specify the FD to write to when the network is configured",
        _fd("ready_fd", "ready-fd"),
    ),
    _MTU,
    Option("enable-ipv6", "6", "", "enable IPv6", _enable_ipv6),
    _API,
    _CIDR,
    _CIDR6,
    _NO_HOST_LOOPBACK,
    Option(
        "netns-type",
        "",
        "TYPE",
        "specify network namespace type ([path|pid|tapfd], default=pid)",
        _netns_type,
    ),
    Option("userns-path", "", "PATH", "specify user namespace path", _store("userns_path")),
    Option("enable-sandbox", "", "", "run in a sandbox (the default)", _nothing),
    Option("enable-seccomp", "", "", "filter our own system calls (the default)", _nothing),
    *_CONFINEMENT,
    Option(
        "outbound-addr",
        "",
        "IPv4",
        "specify the IPv4 address, or the interface, to speak to the world from",
        _outbound(AF_INET),
    ),
    Option(
        "outbound-addr6",
        "",
        "IPv6",
        "specify the IPv6 address, or the interface, to speak to the world from",
        _outbound(AF_INET6),
    ),
    _NO_DNS,
    Option(
        "macaddress", "", "MAC", "specify the MAC address of the TAP (only valid with -c)", _mac
    ),
    Option(
        "target-type",
        "",
        "TYPE",
        "specify the target type ([netns|bess], default=netns)",
        _target_type,
    ),
    *_LIMITS,
    HELP,
    VERSION,
    Option(
        "no-host-loopback", "", "", "", _deprecated("no-host-loopback", "disable-host-loopback")
    ),
    Option("create-sandbox", "", "", "", _deprecated("create-sandbox", "enable-sandbox")),
)

RUN_OPTIONS: tuple[Option, ...] = (
    Option(
        "publish",
        "p",
        "[ADDR:]PORT:PORT[/udp]",
        "forward a port of the host to the command",
        _publish,
    ),
    _RUN_MTU,
    _CIDR,
    _CIDR6,
    Option("enable-ipv6", "6", "", "enable IPv6 (the default)", _enable_ipv6),
    Option("disable-ipv6", "", "", "the network is IPv4 only", _set("network6", None)),
    _API,
    _NO_HOST_LOOPBACK,
    _NO_DNS,
    Option("macaddress", "", "MAC", "specify the MAC address of the TAP", _mac),
    Option("tap-name", "", "NAME", "name of the interface (default=tap0)", _store("tap_name")),
    Option(
        "map-current-user",
        "",
        "",
        "keep the caller's user id instead of becoming root inside",
        _set("map_current_user"),
    ),
    *_CONFINEMENT,
    *_LIMITS,
    HELP,
)
