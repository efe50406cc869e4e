"""An Engine that carries nothing: the face of slirp.core.engine for tests of the control plane.

It reads and forgets what the guest sends, notices the end of the TAP, and keeps account of what it
was told. `python fakeengine.py WORD...` is the command line with this Engine in it.
"""

from __future__ import annotations

import errno
import os
import select
import sys
import types

RUN_IDLE = 0
RUN_MORE = 1
RUN_LINK_DOWN = 2
RUN_PUNTED = 4

MAX_FORWARDS = 64


class Engine:
    """Same calls, same ownership of descriptors, no network."""

    def __init__(self, tap_fd: int, **settings: object) -> None:
        self.settings = settings
        self.dns: list[bytes] = []
        self.forwards: dict[int, tuple[str, int, bytes, int]] = {}
        self.runs = 0
        self.waiting: list[bytes] = []  # frames for the services
        self.sent: list[bytes] = []  # and from them
        self.closed = False
        self.pings_forbidden = False
        self._tap_fd = tap_fd
        self._next_id = 7  # not the API's first id: nobody may take one for the other
        self._epoll = select.epoll()
        self._epoll.register(tap_fd, select.EPOLLIN)

    def fileno(self) -> int:
        return self._epoll.fileno()

    def run(self) -> int:
        self.runs += 1
        while True:
            try:
                os.read(self._tap_fd, 1 << 17)
            except BlockingIOError:
                return RUN_IDLE
            except OSError as error:
                if error.errno == errno.EIO:  # the interface is down, not gone
                    return RUN_IDLE
                return RUN_LINK_DOWN

    def run_until(self, stop_fd: int, visit_us: int = 0) -> int:
        poll = select.poll()
        poll.register(stop_fd, select.POLLIN)
        poll.register(self._epoll.fileno(), select.POLLIN)
        while True:
            ready = [fd for fd, _ in poll.poll()]
            if stop_fd in ready:
                return RUN_IDLE
            if self.run() & RUN_LINK_DOWN:
                return RUN_LINK_DOWN

    def ping_forbidden(self) -> bool:
        return self.pings_forbidden

    def set_dns(self, servers: list[bytes]) -> None:
        self.dns = servers

    def add_forward(self, proto: str, listen_fd: int, guest_addr: bytes, guest_port: int) -> int:
        if len(self.forwards) >= MAX_FORWARDS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        id_ = self._next_id
        self._next_id += 1
        self.forwards[id_] = (proto, listen_fd, guest_addr, guest_port)
        return id_

    def remove_forward(self, forward_id: int) -> bool:
        forward = self.forwards.pop(forward_id, None)
        if forward is None:
            return False
        os.close(forward[1])
        return True

    def punted(self) -> list[bytes]:
        waiting, self.waiting = self.waiting, []
        return waiting

    def send_frame(self, frame: bytes) -> None:
        self.sent.append(frame)

    def stats(self) -> dict[str, int]:
        return {"runs": self.runs}

    def flows(self) -> list[dict[str, object]]:
        return [{"kind": "udp", "guest_addr": b"\x0a\x00\x02\x64", "guest_port": 53}]

    def close(self) -> None:
        for id_ in list(self.forwards):
            self.remove_forward(id_)
        self._epoll.close()
        os.close(self._tap_fd)
        self.closed = True


def install() -> None:
    """Let `import slirp.core.engine` find this module's Engine."""
    module = types.ModuleType("slirp.core.engine")
    for name in ("Engine", "RUN_IDLE", "RUN_LINK_DOWN", "RUN_MORE", "RUN_PUNTED"):
        setattr(module, name, globals()[name])
    sys.modules[module.__name__] = module


if __name__ == "__main__":
    install()
    from slirp.cli import main

    sys.exit(main(["pyslirp", *sys.argv[1:]]))
