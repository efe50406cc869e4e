"""The TAP of somebody else's network namespace: join, open, configure, in a helper process.

Where the TAP is opened decides who notices the end. An open TAP holds the network namespace in
which /dev/net/tun was opened, so a daemon that opens it inside the target keeps the target alive
for ever. We open it in a namespace of our own and move the interface: when the target's last
process goes, the kernel destroys the interface with it, our descriptor reports that, and the daemon
can end. A persistent TAP that exists in the target already (RootlessKit makes one) can only be
joined in place; then the daemon watches the target process instead.
"""

from __future__ import annotations

import os
import time
from errno import EBUSY, EINVAL
from fcntl import ioctl

from slirp import handover, link, tap
from slirp.config import PID, Config
from slirp.core import oscalls
from slirp.errors import SlirpError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket

NS_GET_USERNS = 0xB701  # linux/nsfs.h

# A daemon that was told to end a moment ago may still hold the interface (Podman restarts a
# container in the same namespace without waiting for it).
_BUSY_TIMEOUT_S = 2.0
_BUSY_PERIOD_S = 0.02


def start(config: Config) -> handover.Child:
    """Fork the helper that opens and configures the target's TAP; receive_tap() has its outcome."""

    def work(sock: socket) -> None:
        netns_fd = _join(config)
        opened, in_place = _open_tap(config.tap_name, netns_fd)
        if config.configure:
            opened.mac = config.mac or opened.mac
            link.configure(config.tap_name, config, opened.mac)
        handover.send_tap(sock, opened, in_place=in_place)

    return handover.fork(work)


def _join(config: Config) -> int:
    """Enter the target's network namespace, through its user namespace where that is needed.

    Returns a descriptor of the network namespace.
    """
    is_pid = config.target_kind == PID
    netns_path = f"/proc/{config.target}/ns/net" if is_pid else config.target
    userns_path = config.userns_path or (f"/proc/{config.target}/ns/user" if is_pid else None)
    netns_fd = _open_namespace(netns_path)
    # Root needs no other identity, and would lose its rights over what is outside.
    if userns_path is not None and os.geteuid() != 0:
        userns_fd = _open_namespace(userns_path)
        try:
            oscalls.setns(userns_fd, oscalls.CLONE_NEWUSER)
        except OSError as error:
            if error.errno != EINVAL:  # we are in that user namespace already
                raise SlirpError(f"cannot join {userns_path}: {reason(error)}") from None
        os.close(userns_fd)
    try:
        _enter_network(netns_fd)
    except OSError as error:
        raise SlirpError(f"cannot join {netns_path}: {reason(error)}") from None
    return netns_fd


def _enter_network(netns_fd: int) -> None:
    try:
        oscalls.setns(netns_fd, oscalls.CLONE_NEWNET)
    except PermissionError:
        # A path says nothing of the user namespace, but the kernel knows who owns the network.
        oscalls.setns(ioctl(netns_fd, NS_GET_USERNS), oscalls.CLONE_NEWUSER)
        oscalls.setns(netns_fd, oscalls.CLONE_NEWNET)


def _open_namespace(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SlirpError(f"{path}: {reason(error)}") from None


def _open_tap(name: str, netns_fd: int) -> tuple[tap.Tap, bool]:
    """The TAP `name` of the namespace that we are in; also whether it was opened in place."""
    deadline = time.monotonic() + _BUSY_TIMEOUT_S
    while True:
        try:
            if not link.exists(name):
                opened = _open_outside(name, netns_fd)
                if opened is not None:
                    return opened, False
            return open_in_place(name), True
        except OSError as error:
            if error.errno != EBUSY or time.monotonic() > deadline:
                raise SlirpError(f"cannot set up {name}: {reason(error)}") from None
        time.sleep(_BUSY_PERIOD_S)


def open_in_place(name: str) -> tap.Tap:
    """The TAP `name` of the namespace that we are in. Raises OSError."""
    fd = tap.open_device()
    try:
        tap.attach(fd, name)
        return tap.negotiate(fd)
    except OSError:
        os.close(fd)
        raise


def _open_outside(name: str, netns_fd: int) -> tap.Tap | None:
    """Open the TAP in a namespace of its own and move the interface to `netns_fd`, where we return.

    None when the system does not let us do so (a limit of namespaces, an old kernel).
    """
    try:
        oscalls.unshare(oscalls.CLONE_NEWNET)
    except OSError:
        return None
    opened = None
    try:
        opened = open_in_place(name)
        link.move(name, netns_fd)
    except OSError:
        if opened is not None:
            os.close(opened.fd)
            opened = None
    finally:
        oscalls.setns(netns_fd, oscalls.CLONE_NEWNET)
    return opened
