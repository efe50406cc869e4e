"""Signals as data: blocked, and read from a descriptor by whoever runs the process.

A descriptor serves before and after the event loop exists, interrupts nothing, and tells who sent a
signal: the terminal, which sends Ctrl-C to the whole foreground group, or a process that means us.
A signal that our caller chose to ignore (nohup) stays ignored.
"""

from __future__ import annotations

import os
import struct

from slirp.core import oscalls

_SIGINFO_BYTES = 128  # struct signalfd_siginfo
_SIGINFO = struct.Struct("=Iii")  # ssi_signo, ssi_errno, ssi_code; the rest is not for us


class SignalFd:
    """The given signals, from now on delivered here only."""

    __slots__ = ("_signals", "fd")

    def __init__(self, signals: list[int]) -> None:
        self._signals = [signum for signum in signals if not oscalls.is_ignored(signum)]
        self.fd = oscalls.signal_fd(self._signals)

    def read(self) -> list[tuple[int, bool]]:
        """What has arrived: (signal, whether a process sent it rather than the kernel)."""
        arrived: list[tuple[int, bool]] = []
        while True:
            try:
                info = os.read(self.fd, _SIGINFO_BYTES)
            except BlockingIOError:
                return arrived
            signum, _, code = _SIGINFO.unpack_from(info)
            arrived.append((signum, code <= 0))

    def die_by(self, signum: int) -> None:
        """End this process by `signum`, as if it had never been caught."""
        oscalls.reset_signal(signum)
        oscalls.unblock_signals(self._signals)
        os.kill(os.getpid(), signum)


def restore_interrupt() -> None:
    """Let Ctrl-C end the process instead of raising KeyboardInterrupt somewhere."""
    if not oscalls.is_ignored(oscalls.SIGINT):
        oscalls.reset_signal(oscalls.SIGINT)
