"""The daemon from command line to "ready", in the order that gets there soonest.

  1. fork the helper that opens the TAP in the target's namespaces (netns)
  2. import the data plane while the helper works
  3. Engine, API socket, banner
  4. give up all rights that are not needed any more (sandbox)
  5. a thread turns the Engine: packets flow; now write "1" to the ready descriptor
  6. import asyncio and uvloop, and go on in an event loop (service)

What is imported here is on the way to ready, and a test holds it to that.
"""

from __future__ import annotations

import os

from slirp import log, netns, signals, tap
from slirp.apisocket import ApiSocket
from slirp.config import (
    BESS,
    PID,
    TAPFD,
    Config,
    RunConfig,
    format_ipv4,
    format_ipv6,
    format_mac,
)
from slirp.core import oscalls
from slirp.forwards import Forwards
from slirp.resolver import Resolvers
from slirp.tap import NO_LINK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Self

    from slirp.bess import Bess
    from slirp.outbound import Outbound
    from slirp.tap import Tap

EXIT_OK = 0
# Sockets cost a descriptor each, and a soft limit of 1024 is made for programs that use select().
_MAX_OPEN_FILES = 1 << 16
# Of these, what the guest cannot have, each flow being a socket: for the API, forwards, imports.
_OWN_FILES = 192
_MIN_FLOWS = 64


class Daemon:
    """Everything that lives as long as the daemon does; a context manager, which closes it.

    config:    what the user asked for.
    watches:   descriptors that may end us, each with what to do when it becomes readable: return an
               exit status, or None to go on.
    on_signal: the same for a signal, given whether a process sent it; the status may be minus the
               signal, to die by it.
    is_busy:   asked after the end, for a while: whether something must still be delivered.
    sandbox:   entered by serve().
    """

    def __init__(
        self, config: Config, opened: Tap, signums: list[int], command_pid: int | None = None
    ) -> None:
        from slirp.core.engine import Engine
        from slirp.driver import Driver
        from slirp.sandbox import Sandbox

        files = raise_file_limit()
        network = config.network
        ipv6 = _ipv6_settings(config, opened.mac)
        self.config = config
        self.engine = Engine(
            opened.fd,
            mtu=config.mtu,
            network4=network.address,
            prefix_len4=network.prefix_len,
            gateway4=network.gateway,
            dns4=network.dns,
            guest4=network.guest,
            gateway_mac=network.gateway_mac,
            guest_mac=opened.mac,
            offload=opened.offload,
            host_loopback=config.host_loopback,
            dns_enabled=config.dns,
            vnet_hdr=opened.vnet_hdr,
            max_flows=min(config.max_flows, max(files - _OWN_FILES, _MIN_FLOWS)),
            tcp_buffer_bytes=config.tcp_buffer_bytes,
            memory_bytes=config.memory_bytes,
            udp_timeouts_s=config.udp_timeouts_s,
            **ipv6,
        )
        self.outbound: Outbound | None = None
        self.resolvers = Resolvers() if config.dns else None
        if self.resolvers is not None:
            self.engine.set_dns(self.resolvers.servers)
        self.driver = Driver(self.engine, config, self.resolvers)
        if config.outbound:
            from slirp.outbound import Outbound

            self.outbound = Outbound(self._speak_from, config.outbound)
        self.forwards = Forwards(self.driver, network.guest, ipv6.get("guest6", b""))
        self.watches: dict[int, Callable[[], int | None]] = {}
        self.on_signal: Callable[[int, bool], int | None] = _die
        self.is_busy: Callable[[], bool] = _never
        self.sandbox = Sandbox(config, command_pid)
        # From here on a signal waits for the event loop, so that the API socket's file is removed.
        self.signals = signals.SignalFd([*signums, oscalls.SIGUSR1])
        self.api_socket = ApiSocket(config.api_path, opened.network) if config.api_path else None
        self.bess: Bess | None = None
        if config.target_kind == BESS:
            from slirp.bess import Bess

            self.bess = Bess(config.target)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        # In this order: a successor may wait for the TAP, and then wants the API socket's path.
        if self.api_socket is not None:
            self.api_socket.close()
        if self.bess is not None:
            self.bess.close()
        self.driver.close()
        self.engine.close()

    def serve(self, on_ready: Callable[[], None]) -> int:
        """Shut ourselves in, let packets flow, call `on_ready`, and go on until the end.

        Returns how it ended. Raises SlirpError.
        """
        self.sandbox.enter()
        self.driver.start()
        on_ready()
        from slirp import service

        return service.run(self)

    def _speak_from(self, address: bytes) -> None:
        self.driver.call(self.engine.set_outbound, address)

    def on_link_down(self) -> int | None:
        """The TAP has gone, and with it all that we are for; or the guest at a socket has."""
        if self.bess is not None:
            self.engine.set_link(NO_LINK)
            return None
        log.complain("the network namespace has gone")
        return EXIT_OK


def main(config: Config) -> int:
    """The whole program after the command line. Returns the exit status. Raises SlirpError."""
    signals.restore_interrupt()
    if isinstance(config, RunConfig):
        from slirp import run

        return run.main(config)
    keep_only(_named_fds(config))
    for warning in config.warnings:
        log.warn(warning)
    opened, target_fd = _open_tap(config)
    signums = [oscalls.SIGTERM, oscalls.SIGINT, oscalls.SIGHUP]
    with Daemon(config, opened, signums) as daemon:
        if config.exit_fd is not None:
            daemon.watches[config.exit_fd] = lambda: EXIT_OK
        if target_fd is not None:
            daemon.watches[target_fd] = lambda: _on_target_exit(config)
        _announce(config)
        outcome = daemon.serve(lambda: _notify_ready(config))
    if outcome < 0:
        daemon.signals.die_by(-outcome)
    return outcome


def _ipv6_settings(config: Config, guest_mac: bytes) -> dict[str, Any]:
    """What the Engine is told of IPv6."""
    network6 = config.network6
    if network6 is None:
        return {}
    return {
        "network6": network6.address,
        "prefix_len6": network6.prefix_len,
        "gateway6": network6.gateway,
        "dns6": network6.dns,
        "guest6": network6.guest(guest_mac),
    }


def _open_tap(config: Config) -> tuple[Tap, int | None]:
    """The target's TAP, and a pidfd of the target where only that tells of its end."""
    if config.target_kind == TAPFD:
        return tap.adopt(int(config.target)), None
    if config.target_kind == BESS:
        return tap.none(), None
    target_fd = _open_process(config)
    helper = netns.start(config)
    import slirp.core.engine
    import slirp.sandbox  # noqa: F401 (15 ms that the helper needs anyway)

    opened, in_place = helper.receive_tap()
    helper.reap()
    if target_fd is not None and not in_place:
        os.close(target_fd)  # the TAP will tell
        target_fd = None
    return opened, target_fd


def keep_only(fds: Iterable[int]) -> None:
    """Close all descriptors but the standard streams and `fds`: what our caller leaked."""
    first = log.STDERR + 1
    for fd in sorted(fd for fd in fds if fd >= first):
        os.closerange(first, fd)
        first = fd + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))


def raise_file_limit() -> int:
    """Allow ourselves as many open files as we may need and are let. Returns how many."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return wanted if soft == resource.RLIM_INFINITY else soft


def _named_fds(config: Config) -> list[int]:
    named = [config.ready_fd, config.exit_fd]
    if config.target_kind == TAPFD:
        named.append(int(config.target))
    return [fd for fd in named if fd is not None]


def _open_process(config: Config) -> int | None:
    """A pidfd of the target, or None when it is no process or the helper will say what is wrong."""
    if config.target_kind != PID:
        return None
    try:
        return os.pidfd_open(int(config.target))
    except OSError:
        return None


def _on_target_exit(config: Config) -> int:
    log.complain(f"process {config.target} has ended")
    return EXIT_OK


def _announce(config: Config) -> None:
    network = config.network
    log.say("Starting slirp")
    for label, value in (
        ("MTU", str(config.mtu)),
        ("Network", format_ipv4(network.address)),
        ("Netmask", format_ipv4(network.netmask)),
        ("Gateway", format_ipv4(network.gateway)),
        ("DNS", format_ipv4(network.dns) if config.dns else None),
        ("DHCP begin", format_ipv4(network.dhcp_pool[0])),
        ("DHCP end", format_ipv4(network.dhcp_pool[-1])),
        ("Recommended IP", format_ipv4(network.guest)),
        *_ipv6_lines(config),
        ("API Socket", config.api_path or None),
        ("MAC address", format_mac(config.mac) if config.mac else None),
    ):
        if value is not None:
            log.say(f"* {label + ':':<16} {value}")
    if config.host_loopback:
        log.warn(
            f"127.0.0.1:* on the host is accessible as {format_ipv4(network.gateway)} "
            "(set --disable-host-loopback to prohibit connecting to 127.0.0.1:*)"
        )


def _ipv6_lines(config: Config) -> list[tuple[str, str | None]]:
    network6 = config.network6
    if network6 is None:
        return []
    return [
        ("IPv6 Network", f"{format_ipv6(network6.address)}/{network6.prefix_len}"),
        ("IPv6 Gateway", format_ipv6(network6.gateway)),
        ("IPv6 DNS", format_ipv6(network6.dns) if config.dns else None),
    ]


def _notify_ready(config: Config) -> None:
    if config.ready_fd is None:
        return
    log.put(config.ready_fd, b"1")
    if config.ready_fd > log.STDERR:
        os.close(config.ready_fd)


def _never() -> bool:
    return False


def _die(signum: int, _by_process: bool) -> int:
    return -signum
