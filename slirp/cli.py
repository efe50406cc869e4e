"""argv -> Config: the command line of slirp4netns 1.3, word for word where programs read it.

Podman, Buildah and RootlessKit grep --help for option names and pass --enable-ipv6,
--enable-sandbox and --enable-seccomp without asking, so an option may lack its machinery and still
has to be accepted, with a warning, as long as the caller is no worse off without it. What would
silently do something else than asked (another source address, another kind of target) is refused.
"""

from __future__ import annotations

import os
import sys

from slirp import __version__, log
from slirp.config import (
    MAX_MTU,
    PATH,
    PID,
    TAPFD,
    Config,
    RunConfig,
    check_tap_name,
    is_number,
    parse_cidr,
    parse_mac,
    parse_mtu,
    parse_publication,
)
from slirp.errors import SlirpError, UsageError, reason
from slirp.options import Option, scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PROGRAM = "pyslirp"
RUN = "run"
# The release of slirp4netns whose command line and API these are, and the configuration level of
# its library that scripts look for before they use --disable-dns (3) and the like.
COMPATIBLE_WITH = "1.3"
SLIRP_CONFIG_VERSION_MAX = 4

EXIT_OK = 0
EXIT_FAILURE = 1


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. argv includes the program's name. Returns the exit status."""
    _hold_standard_streams()
    path, *words = sys.argv if argv is None else argv
    name = os.path.basename(path)
    if name in ("", "__main__.py"):
        name = PROGRAM
    run = words[:1] == [RUN]
    try:
        if run:
            config: Config | None = parse_run(words[1:])
        else:
            config = parse(words, name)
        if config is None:
            return EXIT_OK
        from slirp import daemon

        return daemon.main(config)
    except UsageError as error:
        if not run:
            log.say(usage(name))
        log.complain(f"{name}: {error}")
    except SlirpError as error:
        log.complain(f"{name}: {error}" if run else str(error))
    return EXIT_FAILURE


def parse(words: Sequence[str], name: str = PROGRAM) -> Config | None:
    """The words after the program's name; None when they only asked for --help or --version.

    name: how the program was called, for its help.

    Raises SlirpError, UsageError.
    """
    config = Config()
    operands: list[str] = []
    for option, value in scan(words, OPTIONS, until_operand=False):
        if option is None:
            operands.append(value)
        elif option.long == "help":
            log.say(usage(name))
            return None
        elif option.long == "version":
            log.say(version())
            return None
        else:
            option.apply(config, value)
    _take_operands(config, operands)
    _check_target(config)
    if config.mac is not None and not config.configure:
        raise UsageError("--macaddress cannot be specified when --configure or -c is not specified")
    for label, fd in (("ready-fd", config.ready_fd), ("exit-fd", config.exit_fd)):
        if fd is not None:
            check_fd(label, fd)
    return config


def parse_run(words: Sequence[str]) -> RunConfig | None:
    """The words after `pyslirp run`; None when they only asked for --help. Raises SlirpError."""
    config = RunConfig()
    for option, value in scan(words, RUN_OPTIONS, until_operand=True):
        if option is None:
            config.command.append(value)
        elif option.long == "help":
            log.say(run_usage())
            return None
        else:
            option.apply(config, value)
    check_tap_name(config.tap_name)
    if not config.command:
        config.command = [os.environ.get("SHELL") or "/bin/sh"]
    return config


def usage(name: str) -> str:
    """The text of --help."""
    return "\n".join(
        [
            f"Usage: {name} [OPTION]... PID|PATH|FD [TAPNAME]",
            f"       {name} {RUN} [OPTION]... [--] [COMMAND [ARG]...]",
            "User-mode networking for unprivileged network namespaces.",
            "",
            *_option_lines(OPTIONS),
        ]
    )


def run_usage() -> str:
    """The text of `run --help`."""
    return "\n".join(
        [
            f"Usage: {PROGRAM} {RUN} [OPTION]... [--] [COMMAND [ARG]...]",
            "Run COMMAND (default: $SHELL) in user, network and mount namespaces of its own.",
            "",
            *_option_lines(RUN_OPTIONS),
        ]
    )


def version() -> str:
    """The text of --version. Clients take what follows the last "version" on a line for ours."""
    return "\n".join(
        [
            f"{PROGRAM} version {__version__}",
            f"slirp4netns: {COMPATIBLE_WITH} (command line and API)",
            f"SLIRP_CONFIG_VERSION_MAX: {SLIRP_CONFIG_VERSION_MAX}",
        ]
    )


def check_fd(label: str, fd: int) -> None:
    """Refuse a descriptor that the caller did not leave open. Raises SlirpError."""
    try:
        os.fstat(fd)
    except OSError as error:
        raise SlirpError(f"{label} {fd}: {reason(error)}") from None


def _take_operands(config: Config, operands: list[str]) -> None:
    wanted = 1 if config.target_kind == TAPFD else 2
    if not operands:
        raise UsageError("the target (PID, PATH or FD) is missing")
    if len(operands) < wanted:
        raise UsageError("TAPNAME is missing")
    config.target = operands[0]
    if wanted > 1:
        config.tap_name = operands[1]
        check_tap_name(config.tap_name)
    if len(operands) > wanted:
        config.warnings.append("too many arguments")


def _check_target(config: Config) -> None:
    target = config.target
    if config.target_kind == PID:
        if not is_number(target) or int(target) == 0:
            raise UsageError("PID must be a positive integer")
    elif config.target_kind == TAPFD:
        if not is_number(target):
            raise UsageError("FD must be a non-negative integer")
        check_fd("tapfd", int(target))
        if config.configure:
            raise UsageError("--configure conflicts with --netns-type=tapfd")
    elif is_number(target) and not os.path.exists(target):
        # `--netns-type=path PID TAPNAME` is how it is often typed, and there is nothing else it
        # could mean.
        config.target_kind = PID
    else:
        _check_path("existing path expected when --netns-type=path", target)
    if config.userns_path is not None:
        _check_path("userns path doesn't exist", config.userns_path)


def _check_path(complaint: str, path: str) -> None:
    try:
        os.stat(path)
    except OSError as error:
        raise SlirpError(f"{complaint}: {path}: {reason(error)}") from None


def _option_lines(table: Sequence[Option]) -> list[str]:
    shown = [option for option in table if option.help]
    width = max(len(str(option)) for option in shown)
    return [f"{option!s:<{width}}  {option.help}" for option in shown]


def _hold_standard_streams() -> None:
    """Fill closed standard streams, lest a socket of ours gets number 1 and the banner."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= log.STDERR:
        fd = os.dup(fd)
    os.close(fd)


# ---- the option table ------------------------------------------------------------------------


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


def _warn(text: str) -> Callable[[Config, str], None]:
    def apply(config: Config, _: str) -> None:
        config.warnings.append(text)

    return apply


def _refuse(text: str) -> Callable[[Config, str], None]:
    def apply(_: Config, __: str) -> None:
        raise SlirpError(text)

    return apply


def _deprecated(old: str, new: str) -> Callable[[Config, str], None]:
    def apply(config: Config, value: str) -> None:
        config.warnings.append(f"--{old} is deprecated, please use --{new} instead")
        next(option for option in OPTIONS if option.long == new).apply(config, value)

    return apply


def _mtu(config: Config, text: str) -> None:
    config.mtu = parse_mtu(text)


def _cidr(config: Config, text: str) -> None:
    config.network = parse_cidr(text)


def _mac(config: Config, text: str) -> None:
    config.mac = parse_mac(text)


def _netns_type(config: Config, text: str) -> None:
    if text not in (PATH, PID, TAPFD):
        raise UsageError(f'--netns-type must be "{PATH}", "{PID}" or "{TAPFD}"')
    config.target_kind = text


def _target_type(_: Config, text: str) -> None:
    if text == "bess":
        raise SlirpError("--target-type=bess is not supported")
    if text != "netns":
        raise UsageError('--target-type must be either "netns" or "bess"')


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
_MTU = Option("mtu", "m", "MTU", f"specify MTU (default=1500, max={MAX_MTU})", _mtu)
_RUN_MTU = Option("mtu", "m", "MTU", f"specify MTU (default=65520, max={MAX_MTU})", _mtu)
_API = Option("api-socket", "a", "PATH", "specify API socket path", _store("api_path"))
_CIDR = Option("cidr", "", "CIDR", "specify network address CIDR (default=10.0.2.0/24)", _cidr)
_NO_DNS = Option(
    "disable-dns",
    "",
    "",
    "do not redirect 10.0.2.3 (network address + 3) to the host's DNS",
    _set("dns", False),
)
_HELP = Option("help", "h", "", "show this help and exit", _set("warnings", []))

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
    Option(
        "enable-ipv6",
        "6",
        "",
        "accepted, not supported yet: the network is IPv4 only",
        _warn("--enable-ipv6 is not supported yet, the network is IPv4 only"),
    ),
    _API,
    _CIDR,
    _NO_HOST_LOOPBACK,
    Option(
        "netns-type",
        "",
        "TYPE",
        "specify network namespace type ([path|pid|tapfd], default=pid)",
        _netns_type,
    ),
    Option("userns-path", "", "PATH", "specify user namespace path", _store("userns_path")),
    Option(
        "enable-sandbox",
        "",
        "",
        "accepted, not supported yet: no sandbox",
        _warn("--enable-sandbox is not supported yet, running without a sandbox"),
    ),
    Option(
        "enable-seccomp",
        "",
        "",
        "accepted, not supported yet: no system call filter",
        _warn("--enable-seccomp is not supported yet, running without a system call filter"),
    ),
    Option(
        "outbound-addr",
        "",
        "IPv4",
        "not supported yet: sets the address that outbound IPv4 traffic comes from",
        _refuse("--outbound-addr is not supported yet"),
    ),
    Option(
        "outbound-addr6",
        "",
        "IPv6",
        "accepted, not supported yet: there is no IPv6 traffic",
        _warn("--outbound-addr6 is not supported yet, the network is IPv4 only"),
    ),
    _NO_DNS,
    Option(
        "macaddress", "", "MAC", "specify the MAC address of the TAP (only valid with -c)", _mac
    ),
    Option(
        "target-type",
        "",
        "TYPE",
        "specify the target type ([netns|bess], default=netns; bess is not supported)",
        _target_type,
    ),
    _HELP,
    Option("version", "v", "", "show version and exit", _set("warnings", [])),
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
    _HELP,
)
