"""How a child process hands an opened TAP to the daemon: one message over a socket pair.

Entering another user namespace is a one-way street, and Python imports what it needs for set-up
only into the process that does the set-up; so a child opens the TAP and sends it here by
SCM_RIGHTS. A message is a tag and either the TAP's properties with the descriptor or the text of an
error.
"""

from __future__ import annotations

import os
import struct
from _socket import (
    AF_UNIX,
    CMSG_SPACE,
    MSG_CMSG_CLOEXEC,
    SCM_RIGHTS,
    SOCK_CLOEXEC,
    SOCK_DGRAM,
    SOCK_SEQPACKET,
    SOL_SOCKET,
    socket,
    socketpair,
)

from slirp.apisocket import network_cookie
from slirp.errors import SlirpError
from slirp.tap import Tap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_TAP = b"T"
_ERROR = b"E"
_PROPERTIES = struct.Struct("=cI??6sQ")  # tag, offload, vnet_hdr, in_place, mac, network
_FD = struct.Struct("i")
_MAX_MESSAGE_BYTES = 4096


class Child:
    """The daemon's end: a process at work on a TAP.

    pid:  ours to reap.
    sock: connected to the other end; SOCK_SEQPACKET, so that a send is a message.
    """

    __slots__ = ("pid", "sock")

    def __init__(self, pid: int, sock: socket) -> None:
        self.pid = pid
        self.sock = sock

    def receive_tap(self) -> tuple[Tap, bool]:
        """Wait for the TAP; also whether it was opened in the namespace that it serves.

        Raises SlirpError with the child's words, or when it ended without any.
        """
        message, fd = self._receive()
        _, offload, vnet_hdr, in_place, mac, network = _PROPERTIES.unpack(message)
        return Tap(fd, mac, offload, vnet_hdr, network), in_place

    def receive_step(self) -> bytes:
        """Wait until the child has sent a step of send_step(). Raises as receive_tap() does."""
        return self._receive()[0]

    def send_step(self, step: bytes) -> None:
        """Let the child go on from where it waits for `step`; its end is noticed elsewhere."""
        try:
            self.sock.send(step)
        except BrokenPipeError:
            return

    def reap(self) -> None:
        """Collect the child, which has nothing more to do."""
        os.waitpid(self.pid, 0)
        self.sock.close()

    def _receive(self) -> tuple[bytes, int]:
        message, control, _, _ = self.sock.recvmsg(
            _MAX_MESSAGE_BYTES, CMSG_SPACE(_FD.size), MSG_CMSG_CLOEXEC
        )
        if message[:1] == _ERROR:
            raise SlirpError(os.fsdecode(message[len(_ERROR) :]))
        if not message:
            raise SlirpError(f"the process that sets up the TAP {self._fate()}")
        return message, _FD.unpack(control[0][2])[0] if control else -1

    def _fate(self) -> str:
        _, status = os.waitpid(self.pid, 0)
        if os.WIFSIGNALED(status):
            return f"was killed by signal {os.WTERMSIG(status)}"
        return f"ended with status {os.WEXITSTATUS(status)}"


def fork(work: Callable[[socket], None]) -> Child:
    """Run `work` in a child; it is given the other end of the socket pair.

    SlirpError and OSError that it raises reach receive_tap(). The child never returns from here.
    """
    ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC)
    pid = os.fork()
    if pid:
        theirs.close()
        return Child(pid, ours)
    status = 1
    try:
        ours.close()
        work(theirs)
        status = 0
    except (SlirpError, OSError) as error:
        text = os.fsencode(str(error).replace("\n", " "))
        theirs.send(_ERROR + text[: _MAX_MESSAGE_BYTES - len(_ERROR)])
    finally:
        os._exit(status)


def send_tap(sock: socket, tap: Tap, *, in_place: bool) -> None:
    """Hand `tap` over, from the network namespace that it serves.

    in_place: it was opened there, too.
    """
    probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    network = network_cookie(probe)
    probe.close()
    message = _PROPERTIES.pack(_TAP, tap.offload, tap.vnet_hdr, in_place, tap.mac, network)
    sock.sendmsg([message], [(SOL_SOCKET, SCM_RIGHTS, _FD.pack(tap.fd))])
