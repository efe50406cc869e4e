"""Landlock: no file but those named, no signal and no abstract socket beyond ourselves.

Where the mount namespace takes files out of sight, this takes the rights to them away, from
whatever is in sight and by descriptors too, and holds where a container around us forbids mounts.
The rules go by directory, so that a file that is replaced stays readable. Every right that the
kernel's version knows is denied; a right that it does not know yet it cannot deny.

Of the network it could deny TCP by port. The guest may connect to any, so that only binding is
left: where no port can be asked of us, none but one of the kernel's own choice may be had.
"""

from __future__ import annotations

import os

from slirp.core import confine

# linux/landlock.h
READ_FILE = 1 << 2
READ_DIR = 1 << 3
REMOVE_FILE = 1 << 5
NET_BIND_TCP = 1 << 0
SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
SCOPE_SIGNAL = 1 << 1

_READ = READ_FILE | READ_DIR
# The first version has 13 rights to files; later ones brought REFER, TRUNCATE and IOCTL_DEV.
_FILE_RIGHTS = 13
_SINCE = ((2, 1 << 13), (3, 1 << 14), (5, 1 << 15))
_NET_SINCE = 4
_SCOPE_SINCE = 6


def restrict(readable: list[str], removable: list[str], *, signals: bool, ports: bool) -> None:
    """Leave this thread nothing but reading beneath `readable` and removing files in `removable`.

    signals: others may be signalled. ports: any TCP port may be bound. Raises OSError.
    """
    abi = confine.landlock_abi()
    files = (1 << _FILE_RIGHTS) - 1
    for since, right in _SINCE:
        if abi >= since:
            files |= right
    net = NET_BIND_TCP if abi >= _NET_SINCE and not ports else 0
    scoped = 0
    if abi >= _SCOPE_SINCE:
        scoped = SCOPE_ABSTRACT_UNIX_SOCKET | (0 if signals else SCOPE_SIGNAL)
    paths: list[tuple[int, int]] = []
    try:
        for places, rights in ((readable, _READ), (removable, REMOVE_FILE)):
            for place in places:
                paths.append((os.open(place, os.O_PATH | os.O_CLOEXEC), rights))
        any_port = [(0, NET_BIND_TCP)] if net else []
        confine.landlock_restrict(files, net, scoped, paths, any_port)
    finally:
        for fd, _ in paths:
            os.close(fd)
