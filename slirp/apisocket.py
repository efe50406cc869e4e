"""The API socket's file: bound before we are ready, removed at the end, never somebody else's.

A path left over from a killed daemon is replaced, as slirp4netns does; a live server's, or a file
that is no socket, is not.

Who may connect may open ports of the host in our name. The file's mode lets in its owner and root;
and we ask again who a client is. The guest can be that same owner, where it has no ids of its own,
and see the file, where it shares our mounts; but it lives in the network namespace that we serve,
and so does its end of the connection: the kernel makes the accepted socket in the client's
namespace, of which a cookie tells (SO_NETNS_COOKIE, Linux 5.14).
"""

from __future__ import annotations

import os
import stat
import struct
from _socket import (
    AF_UNIX,
    SO_PEERCRED,
    SOCK_CLOEXEC,
    SOCK_NONBLOCK,
    SOCK_STREAM,
    SOL_SOCKET,
    socket,
)

from slirp.errors import SlirpError, reason

MAX_PATH_BYTES = 107  # sun_path less the terminator
# Go's clients do not retry when the backlog is full, and some publish hundreds of ports in a row.
BACKLOG = 4096
_MODE = 0o600
_SO_NETNS_COOKIE = 71  # asm-generic/socket.h
_COOKIE = struct.Struct("=Q")
_UCRED = struct.Struct("3i")  # pid, uid, gid
_ROOT = 0
_OVERFLOW_UID = 65534  # whoever has no number in our user namespace


class ApiSocket:
    """A listening socket at `path`.

    sock:          to be served by somebody; close() closes it too.
    guest_network: the guest's network_cookie(); 0 when it is not known.
    """

    __slots__ = ("_identity", "_path", "guest_network", "sock")
    what = "API socket"
    kind = SOCK_STREAM

    def __init__(self, path: str, guest_network: int = 0) -> None:
        raw = os.fsencode(path)
        if len(raw) > MAX_PATH_BYTES:
            raise SlirpError(
                f"the specified {self.what} path is too long (>= {MAX_PATH_BYTES + 1}): {path}"
            )
        self._path = path
        self.guest_network = guest_network
        self.sock = socket(AF_UNIX, self.kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        try:
            self._clear(path)
            os.fchmod(self.sock.fileno(), _MODE)  # bind() gives the file this mode, less the umask
            self.sock.bind(path)
            self.sock.listen(BACKLOG)
            self._path = os.path.abspath(path)  # our working directory will be another
            self._identity = _identity(path)
        except OSError as error:
            self.sock.close()
            raise SlirpError(f"cannot bind {self.what} {path}: {reason(error)}") from None
        except SlirpError:
            self.sock.close()
            raise

    def refusal(self, client_fd: int) -> str | None:
        """Why the client of an accepted connection may not use the API; None when it may."""
        client = socket(AF_UNIX, SOCK_STREAM, 0, client_fd)
        try:
            _, uid, _ = _UCRED.unpack(client.getsockopt(SOL_SOCKET, SO_PEERCRED, _UCRED.size))
            network = network_cookie(client)
        finally:
            client.detach()
        if network and network == self.guest_network:
            return "the guest itself"
        if uid in (os.geteuid(), _ROOT) or (uid == _OVERFLOW_UID and self._is_private()):
            return None
        return "another user"

    def _is_private(self) -> bool:
        """Whether the file's mode lets nobody in but us and root, who may have no number here."""
        try:
            return not stat.S_IMODE(os.lstat(self._path).st_mode) & ~_MODE
        except OSError:
            return False

    def close(self) -> None:
        """Stop listening and remove the file, unless a successor has put its own there."""
        try:
            if _identity(self._path) == self._identity:
                os.unlink(self._path)
        except OSError:
            pass
        self.sock.close()

    def _clear(self, path: str) -> None:
        """Remove a socket that nobody listens on. Raises SlirpError for anything else."""
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(status.st_mode):
            raise SlirpError(f"cannot bind {self.what} {path}: exists and is not a socket")
        probe = socket(AF_UNIX, self.kind | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # a full backlog: somebody listens
        finally:
            probe.close()
        raise SlirpError(f"cannot bind {self.what} {path}: another process listens there")


def network_cookie(sock: socket) -> int:
    """What names the network namespace of `sock`; 0 where the kernel does not tell."""
    try:
        answer = sock.getsockopt(SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE.size)
    except OSError:
        return 0
    cookie: int = _COOKIE.unpack(answer)[0]
    return cookie


def _identity(path: str) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
