"""`pyslirp run`: a command in new namespaces with a network, and nothing to clean up.

    daemon                                  child
    fork ---------------------------------> new user, network and mount namespaces
    write the identity maps <-- UNSHARED -- wait
    import the data plane   -- MAPPED ----> our resolv.conf; TAP, addresses, route
    Engine, API, forwards   <------- TAP -- wait
    packets flow            -- GO --------> the command

The command is a child of the daemon: they share the terminal, the daemon passes on the signals that
are meant for the command and ends with its status, and should the daemon die the kernel kills the
command.
"""

from __future__ import annotations

import os
import struct
from fcntl import ioctl

from slirp import daemon, handover, link, log, netns
from slirp.config import RunConfig, format_ipv4
from slirp.core import oscalls
from slirp.errors import SlirpError, reason
from slirp.resolver import RESOLV_CONF

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Mapping
    from typing import Any

    from slirp.core.engine import Engine

SIOCOUTQ = 0x5411  # linux/sockios.h

_UNSHARED = b"unshared"
_UNSHARED_AS_ROOT = b"unshared, no user namespace"
_MAPPED = b"mapped"
_GO = b"go"

# What a shell says of a command that cannot be started, and of one that was killed.
_EXIT_NOT_EXECUTABLE = 126
_EXIT_NOT_FOUND = 127
_EXIT_SIGNAL_BASE = 128

# A connection on which nothing has happened for so long waits for a process that has gone.
_SETTLED_US = 300_000

# SIGUSR1 is the daemon's own everywhere: it asks for a report.
_SIGNALS = [
    oscalls.SIGHUP,
    oscalls.SIGINT,
    oscalls.SIGQUIT,
    oscalls.SIGTERM,
    oscalls.SIGUSR2,
    oscalls.SIGWINCH,
]
_SCRATCH = "/tmp"  # any directory that exists everywhere: hidden for a moment, in the child only


def main(config: RunConfig) -> int:
    """Run the command; its exit status, or 128 + n when signal n killed it. Raises SlirpError."""
    child = handover.fork(lambda sock: _become_command(config, sock))
    daemon.keep_only([child.sock.fileno()])
    _let_go_of_streams()
    if child.receive_step() == _UNSHARED:
        _map_identity(child.pid, config)
    child.send_step(_MAPPED)
    import slirp.core.engine
    import slirp.sandbox  # noqa: F401 (15 ms that the child needs anyway)

    opened, _ = child.receive_tap()
    for warning in config.warnings:
        log.complain(warning)
    command = _Command(child.pid)
    with daemon.Daemon(config, opened, _SIGNALS, child.pid) as host:
        for wish in config.publish:
            host.forwards.add(wish.proto, wish.host_addr, wish.host_port, "", wish.guest_port)
        host.watches[os.pidfd_open(child.pid)] = command.reap
        host.on_signal = command.pass_on
        host.is_busy = lambda: host.driver.call(_is_busy, host.engine)
        return host.serve(lambda: child.send_step(_GO))


class _Command:
    """The running command."""

    def __init__(self, pid: int) -> None:
        self._pid: int | None = pid

    def reap(self) -> int:
        """Collect the command, which has ended. Returns its exit status in a shell's terms."""
        assert self._pid is not None
        _, status = os.waitpid(self._pid, 0)
        self._pid = None
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else _EXIT_SIGNAL_BASE - code

    def pass_on(self, signum: int, by_process: bool) -> int | None:
        """Give it a signal that a process sent to us; the terminal's it has got by itself."""
        if self._pid is None:
            return _EXIT_SIGNAL_BASE + signum
        if by_process:
            try:
                os.kill(self._pid, signum)
            except OSError as error:
                log.complain(f"cannot pass on signal {signum}: {reason(error)}")
        return None


def _is_busy(engine: Engine) -> bool:
    """Whether connections are still delivering what the command sent before it ended.

    Its sockets outlive it in the namespace that our TAP holds, as they would on a real machine.
    """
    engine.run()  # flows() tells the time of the last turn
    return any(_is_delivering(flow) for flow in engine.flows())


def _is_delivering(flow: Mapping[str, Any]) -> bool:
    if flow["kind"] != "tcp" or flow["host_state"] == "CLOSED":
        return False
    if flow["to_host_bytes"] > 0 or flow["idle_us"] < _SETTLED_US:
        return True
    # What the host's kernel has not delivered yet would be lost if the connection were reset now.
    (undelivered,) = struct.unpack("i", ioctl(flow["fd"], SIOCOUTQ, bytes(4)))
    return bool(undelivered)


def _let_go_of_streams() -> None:
    """A pipe that the command closes must read as closed, so we hold on to stderr only."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, log.STDOUT)
    os.close(null)


def _map_identity(pid: int, config: RunConfig) -> None:
    """Decide who the caller is in the new user namespace: root, or with --map-current-user itself.

    Root keeps all identities that it has: a namespace without them could not read its own files.
    """
    euid, egid = os.geteuid(), os.getegid()
    if euid == 0:
        uid_map, gid_map = _own_extents("uid_map"), _own_extents("gid_map")
    else:
        keep = config.map_current_user
        uid_map = f"{euid if keep else 0} {euid} 1"
        gid_map = f"{egid if keep else 0} {egid} 1"
        _write_proc(pid, "setgroups", "deny")  # else gid_map is refused, user_namespaces(7)
    _write_proc(pid, "uid_map", uid_map)
    _write_proc(pid, "gid_map", gid_map)


def _own_extents(name: str) -> str:
    """The identities that we have ourselves, each mapped to itself."""
    with open(f"/proc/self/{name}") as file:
        extents = [line.split() for line in file]
    return "".join(f"{inside} {inside} {count}\n" for inside, _, count in extents)


def _write_proc(pid: int, name: str, text: str) -> None:
    try:
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise SlirpError(f"cannot write {name} of the user namespace: {reason(error)}") from None


# ---- the child -------------------------------------------------------------------------------


def _become_command(config: RunConfig, sock: socket) -> None:
    parent = os.getppid()
    sock.send(_UNSHARED if _unshare() else _UNSHARED_AS_ROOT)
    _await(sock, _MAPPED)
    if config.dns:
        _mount_resolv_conf(config)
    try:
        opened = netns.open_in_place(config.tap_name)
    except OSError as error:
        raise SlirpError(f"cannot set up {config.tap_name}: {reason(error)}") from None
    opened.mac = config.mac or opened.mac
    link.configure(config.tap_name, config, opened.mac)
    handover.send_tap(sock, opened, in_place=True)
    _await(sock, _GO)
    # After the last change of identity, which would clear it.
    oscalls.set_parent_death_signal(oscalls.SIGKILL)
    if os.getppid() == parent:
        _exec(config.command)


def _await(sock: socket, step: bytes) -> None:
    if sock.recv(len(step)) != step:
        os._exit(1)  # the daemon has ended, and said why


def _unshare() -> bool:
    """Leave for new namespaces; whether there is a user namespace among them."""
    network_and_mounts = oscalls.CLONE_NEWNET | oscalls.CLONE_NEWNS
    try:
        oscalls.unshare(oscalls.CLONE_NEWUSER | network_and_mounts)
        return True
    except OSError as error:
        if os.geteuid() != 0:
            raise SlirpError(
                f"cannot create a user namespace: {reason(error)} "
                "(see user.max_user_namespaces and your system's rules for unprivileged ones)"
            ) from None
    try:
        oscalls.unshare(network_and_mounts)  # root does without
        return False
    except OSError as error:
        raise SlirpError(f"cannot create namespaces: {reason(error)}") from None


def _mount_resolv_conf(config: RunConfig) -> None:
    """Let the command see a resolv.conf with our DNS and the host's search domains.

    The file lives on a tmpfs of its own that is out of sight as soon as the file is in place: the
    host's file system is not touched, and need not be writable.
    """
    text = _resolv_conf(format_ipv4(config.network.dns))
    source = f"{_SCRATCH}/resolv.conf"
    try:
        oscalls.mount("none", "/", "", oscalls.MS_REC | oscalls.MS_PRIVATE)
        flags = oscalls.MS_NOSUID | oscalls.MS_NODEV
        oscalls.mount("tmpfs", _SCRATCH, "tmpfs", flags, "size=64k,mode=0755")
        try:
            with open(source, "w", errors="surrogateescape") as file:
                file.write(text)
            oscalls.mount(source, RESOLV_CONF, "", oscalls.MS_BIND)
        finally:
            oscalls.umount(_SCRATCH, oscalls.MNT_DETACH)
    except OSError as error:
        log.complain(f"{RESOLV_CONF} stays the host's: {reason(error)}")


def _resolv_conf(dns: str) -> str:
    lines = [f"nameserver {dns}\n"]
    try:
        with open(RESOLV_CONF, errors="surrogateescape") as file:
            lines += [line for line in file if line.split()[:1] in (["search"], ["options"])]
    except OSError:
        pass  # no search domains, then
    return "".join(lines)


def _exec(command: list[str]) -> None:
    for signum in (oscalls.SIGPIPE, oscalls.SIGXFSZ):  # which Python ignores
        oscalls.reset_signal(signum)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        log.complain(f"{command[0]}: {reason(error)}")
        missing = isinstance(error, FileNotFoundError)
        os._exit(_EXIT_NOT_FOUND if missing else _EXIT_NOT_EXECUTABLE)
