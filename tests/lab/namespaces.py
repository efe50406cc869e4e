"""A namespace held by a process, and two ways into it.

*Commands* enter by nsenter(1). *Sockets* are made by a thread of our own that has entered the
network namespace with setns(2): a socket stays where it was made, so the test then uses it like any
other, from any thread, and sees addresses, errors and resets first hand, not through a tool's text.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import os
import pathlib
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar

T = TypeVar("T")
CLONE_NEWNET = 0x4000_0000
COMMAND_SECONDS = 60.0
# The holder says that its namespaces are made, then lives until its standard input ends.
HOLDER = ("sh", "-c", "echo; exec cat")

_libc = ctypes.CDLL(None, use_errno=True)


class CommandError(AssertionError):
    """A command in a namespace ended with another status than 0; the text holds what it printed."""


def owns_all_ids() -> bool:
    """Whether this process may become any user: not inside a user namespace that maps one id."""
    return int(pathlib.Path("/proc/self/uid_map").read_text().split()[2]) > 65535


def enter_network(pid: int) -> None:
    """Move the calling thread to the network namespace of process `pid`."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to the network of process {pid}")
    finally:
        os.close(fd)


def family_of(address: str) -> int:
    """The address family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Namespace:
    """The namespaces of one holder process.

    `maker` is the command (a prefix of HOLDER) that makes them; `kinds` are the nsenter options
    that lead into them. Close it, or use it as a context manager.
    """

    def __init__(self, maker: Sequence[str], kinds: Sequence[str]) -> None:
        self.holder = subprocess.Popen(
            [*maker, *HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/"
        )
        assert self.holder.stdout is not None
        if not self.holder.stdout.readline():
            raise CommandError(f"cannot make namespaces: {' '.join(maker)}")
        self.pid = self.holder.pid
        self.enter = ["nsenter", f"--target={self.pid}", *kinds, "--"]
        self._thread = concurrent.futures.ThreadPoolExecutor(
            max_workers=1, initializer=enter_network, initargs=(self.pid,)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the holder, and with it the namespaces, unless somebody else is inside."""
        self._thread.shutdown(wait=True)
        for stream in (self.holder.stdin, self.holder.stdout):
            if stream is not None:
                stream.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.holder.wait(timeout=5)
        self.holder.kill()
        self.holder.wait()

    # Commands

    def popen(self, *argv: str, **options: Any) -> subprocess.Popen[str]:
        """Start `argv` inside; options as for Popen, text by default."""
        return subprocess.Popen([*self.enter, *argv], **{"text": True, "cwd": "/", **options})

    def run(
        self, *argv: str, check: bool = True, timeout: float = COMMAND_SECONDS, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `argv` inside to its end; CommandError when `check` and it fails."""
        settings: dict[str, Any] = {"text": True, "cwd": "/", "stdin": subprocess.DEVNULL}
        if "input" in options:
            del settings["stdin"]
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [*self.enter, *argv],
            check=False,
            capture_output=True,
            timeout=timeout,
            **{**settings, **options},
        )
        if check and done.returncode != 0:
            raise CommandError(f"{argv} ended with {done.returncode}: {done.stderr or done.stdout}")
        return done

    # Sockets and settings of the network namespace

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call `function` in the thread that lives in this network namespace."""
        return self._thread.submit(function, *args).result()

    def sysctl(self, **settings: str) -> None:
        """Write settings below /proc/sys/net; `__` in a name stands for the slash."""

        def write() -> None:
            for name, value in settings.items():
                pathlib.Path("/proc/sys/net", name.replace("__", "/")).write_text(value)

        self.call(write)

    def new_socket(
        self, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET
    ) -> socket.socket:
        """A new socket in this namespace."""
        return self.call(socket.socket, family, kind)

    def listen(self, address: str = "0.0.0.0", port: int = 0, backlog: int = 512) -> socket.socket:
        """A listening TCP socket in this namespace; port 0 lets the kernel choose."""
        listener = self.new_socket(family=family_of(address))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(backlog)
        listener.settimeout(10)
        return listener

    def bind_udp(self, address: str = "0.0.0.0", port: int = 0) -> socket.socket:
        """A bound UDP socket in this namespace."""
        bound = self.new_socket(socket.SOCK_DGRAM, family_of(address))
        bound.bind((address, port))
        bound.settimeout(10)
        return bound

    def connect(self, address: str, port: int, timeout: float = 10.0) -> socket.socket:
        """A TCP connection from this namespace; raises what connect(2) raises."""
        client = self.new_socket(family=family_of(address))
        client.settimeout(timeout)
        try:
            client.connect((address, port))
        except BaseException:
            client.close()
            raise
        return client
