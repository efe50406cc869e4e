"""--target-type=bess: the guest is a User Mode Linux, or whoever speaks Ethernet over a socket.

We listen at a path (AF_UNIX, SOCK_SEQPACKET); a message is a frame, without a virtio-net header.
One guest at a time: when it has gone, as at a reboot, the next is taken, whom the kernel has kept
waiting. Flows of the one before live on until they time out, as they would behind a router.
"""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_SEQPACKET

from slirp.apisocket import ApiSocket


class Bess(ApiSocket):
    """The listening socket; `sock` is readable when a guest is there."""

    what = "target socket"
    kind = SOCK_SEQPACKET

    def accept(self) -> int | None:
        """The guest's descriptor, non-blocking; None when it has gone again already."""
        import socket

        try:
            with socket.fromfd(self.sock.fileno(), AF_UNIX, SOCK_SEQPACKET) as listener:
                guest, _ = listener.accept()
        except OSError:
            return None
        guest.setblocking(False)
        return guest.detach()
