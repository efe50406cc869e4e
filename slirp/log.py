"""Lines for people: the banner and warnings on stdout, errors on stderr, as slirp4netns has it.

Unbuffered and deaf to failure: our standard streams may be closed, or pipes whose reader was
killed, and a daemon must not die of having nobody to talk to. Warnings and errors are rationed:
whatever makes them, it cannot fill a disk. The number of those that were left out is told with the
next that is not.
"""

import os
import time

STDOUT = 1
STDERR = 2
_BURST = 50  # lines at once
_PERIOD_S = 10.0  # and one more each


class Ration:
    """A token bucket for lines."""

    __slots__ = ("_left_out", "_lines", "_since_s")

    def __init__(self) -> None:
        self._lines = float(_BURST)
        self._since_s = 0.0
        self._left_out = 0

    def admit(self, line: str, now_s: float) -> str | None:
        """`line`, with a word on those left out before it; None to leave it out too."""
        self._lines = min(self._lines + (now_s - self._since_s) / _PERIOD_S, _BURST)
        self._since_s = now_s
        if self._lines < 1:
            self._left_out += 1
            return None
        self._lines -= 1
        left_out, self._left_out = self._left_out, 0
        return f"{line} ({left_out} lines before it were left out)" if left_out else line


_ration = Ration()


def say(line: str) -> None:
    """Write one line to stdout."""
    put(STDOUT, os.fsencode(line + "\n"))


def warn(line: str) -> None:
    """Write one warning to stdout, where callers of slirp4netns look for it."""
    admitted = _ration.admit(line, time.monotonic())
    if admitted is not None:
        say(f"WARNING: {admitted}")


def complain(line: str) -> None:
    """Write one line to stderr, with our name, since others may write there too."""
    admitted = _ration.admit(line, time.monotonic())
    if admitted is not None:
        put(STDERR, os.fsencode(f"pyslirp: {admitted}\n"))


def put(fd: int, data: bytes) -> None:
    """Write all of `data` to `fd`, or as much as somebody is there to read."""
    rest = data
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError:
        pass
