"""Lines for people: the banner and warnings on stdout, errors on stderr, as slirp4netns has it.

Unbuffered and deaf to failure: our standard streams may be closed, or pipes whose reader was
killed, and a daemon must not die of having nobody to talk to.
"""

import os

STDOUT = 1
STDERR = 2


def say(line: str) -> None:
    """Write one line to stdout."""
    put(STDOUT, os.fsencode(line + "\n"))


def warn(line: str) -> None:
    """Write one warning to stdout, where callers of slirp4netns look for it."""
    say(f"WARNING: {line}")


def complain(line: str) -> None:
    """Write one line to stderr, with our name, since others may write there too."""
    put(STDERR, os.fsencode(f"pyslirp: {line}\n"))


def put(fd: int, data: bytes) -> None:
    """Write all of `data` to `fd`, or as much as somebody is there to read."""
    rest = data
    try:
        while rest:
            rest = rest[os.write(fd, rest) :]
    except OSError:
        pass
