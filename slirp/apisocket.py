"""The API socket's file: bound before we are ready, removed at the end, never somebody else's.

A path left over from a killed daemon is replaced, as slirp4netns does; a live server's, or a file
that is no socket, is not.
"""

from __future__ import annotations

import os
import stat
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, socket

from slirp.errors import SlirpError, reason

MAX_PATH_BYTES = 107  # sun_path less the terminator
# Go's clients do not retry when the backlog is full, and some publish hundreds of ports in a row.
BACKLOG = 4096
_MODE = 0o600  # who may connect may open ports of the host in our name


class ApiSocket:
    """A listening socket at `path`.

    sock: to be served by somebody; close() closes it too.
    """

    __slots__ = ("_identity", "_path", "sock")

    def __init__(self, path: str) -> None:
        raw = os.fsencode(path)
        if len(raw) > MAX_PATH_BYTES:
            raise SlirpError(
                f"the specified API socket path is too long (>= {MAX_PATH_BYTES + 1}): {path}"
            )
        self._path = path
        self.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        try:
            _clear(path)
            os.fchmod(self.sock.fileno(), _MODE)  # bind() gives the file this mode, less the umask
            self.sock.bind(path)
            self.sock.listen(BACKLOG)
            self._identity = _identity(path)
        except OSError as error:
            self.sock.close()
            raise SlirpError(f"cannot bind API socket {path}: {reason(error)}") from None
        except SlirpError:
            self.sock.close()
            raise

    def close(self) -> None:
        """Stop listening and remove the file, unless a successor has put its own there."""
        try:
            if _identity(self._path) == self._identity:
                os.unlink(self._path)
        except OSError:
            pass
        self.sock.close()


def _clear(path: str) -> None:
    """Remove a socket that nobody listens on. Raises SlirpError for anything else."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise SlirpError(f"cannot bind API socket {path}: exists and is not a socket")
    probe = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    try:
        probe.connect(path)
    except ConnectionRefusedError:
        os.unlink(path)
        return
    except BlockingIOError:
        pass  # a full backlog: somebody listens
    finally:
        probe.close()
    raise SlirpError(f"cannot bind API socket {path}: another process listens there")


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
