"""argv -> Config, and the texts: word for word slirp4netns's where programs read them.

Podman, Buildah and RootlessKit grep --help for option names before each start; dockerd takes the
version from --version.
"""

from __future__ import annotations

import os
import sys

from slirp import __version__, log
from slirp.config import (
    BESS,
    MIN_MTU6,
    PID,
    TAPFD,
    Config,
    RunConfig,
    check_tap_name,
    is_number,
)
from slirp.errors import SlirpError, UsageError, reason
from slirp.getopt import Option, scan
from slirp.options import HELP, OPTIONS, RUN_OPTIONS, VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

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
        config = parse_run(words[1:]) if run else parse(words, name)
        if config is None:
            return EXIT_OK
        from slirp import daemon

        return daemon.main(config)
    except SlirpError as error:
        if isinstance(error, UsageError) and not run:  # where stdout is the command's
            log.say(usage(name))
        log.complain(str(error))
        return EXIT_FAILURE


def console() -> NoReturn:
    """The program: main(), then out at once.

    The interpreter's own farewell takes 60 ms, in which a runtime may already want the TAP's name.
    """
    os._exit(main())


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
        elif option is HELP or option is VERSION:
            log.say(usage(name) if option is HELP else version())
            return None
        else:
            option.apply(config, value)
    _take_operands(config, operands)
    _check_target(config)
    _check_mtu6(config)
    if config.mac is not None and not config.configure:
        raise UsageError("--macaddress cannot be specified when --configure or -c is not specified")
    for label, fd in (("ready-fd", config.ready_fd), ("exit-fd", config.exit_fd)):
        if fd is not None:
            _check_fd(label, fd)
    return config


def parse_run(words: Sequence[str]) -> RunConfig | None:
    """The words after `pyslirp run`; None when they only asked for --help. Raises SlirpError."""
    config = RunConfig()
    for option, value in scan(words, RUN_OPTIONS, until_operand=True):
        if option is None:
            config.command.append(value)
        elif option is HELP:
            log.say(run_usage())
            return None
        else:
            option.apply(config, value)
    check_tap_name(config.tap_name)
    _check_mtu6(config)
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


def _check_fd(label: str, fd: int) -> None:
    """Refuse a descriptor that the caller did not leave open. Raises SlirpError."""
    try:
        os.fstat(fd)
    except OSError as error:
        raise SlirpError(f"{label} {fd}: {reason(error)}") from None


def _take_operands(config: Config, operands: list[str]) -> None:
    if config.bess:
        config.target_kind = BESS
    wanted = 1 if config.target_kind in (TAPFD, BESS) else 2
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
    elif config.target_kind == BESS:
        if config.configure:
            raise UsageError("--configure conflicts with --target-type=bess")
    elif config.target_kind == TAPFD:
        if not is_number(target):
            raise UsageError("FD must be a non-negative integer")
        _check_fd("tapfd", int(target))
        if config.configure:
            raise UsageError("--configure conflicts with --netns-type=tapfd")
    elif is_number(target) and not os.path.exists(target):
        # `--netns-type=path PID TAPNAME` is often typed, and can mean nothing else.
        config.target_kind = PID
    else:
        _check_path("existing path expected when --netns-type=path", target)
    if config.userns_path is not None:
        _check_path("userns path doesn't exist", config.userns_path)


def _check_mtu6(config: Config) -> None:
    """Do without IPv6 where the link is too narrow for it, as the kernel does."""
    if config.network6 is not None and config.mtu < MIN_MTU6:
        config.network6 = None
        config.warnings.append(f"no IPv6, which needs an MTU of {MIN_MTU6}")


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
