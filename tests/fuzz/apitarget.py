"""The API under the fuzzer: bytes are requests, one behind each NUL, to one table of forwards.

Whatever comes, the answer is an object that says either what was asked for or what is wrong, and
the table holds just the forwards that its driver has.
"""

from __future__ import annotations

import errno
import json
import socket

from slirp import api, forwards
from slirp.forwards import Forwards

MAX_FORWARDS = 4


class Driver:
    """What Forwards needs of one; it refuses what the real one does."""

    def __init__(self) -> None:
        self.forwards: set[int] = set()
        self._next_id = 1

    def add_forward(self, proto: str, fd: int, guest_addr: bytes, guest_port: int) -> int:
        assert proto in ("tcp", "udp")
        assert len(guest_addr) in (4, 16)
        assert 1 <= guest_port <= 65535
        if len(self.forwards) == MAX_FORWARDS:
            raise OSError(errno.ENOSPC, "no room")
        self._next_id += 1
        self.forwards.add(self._next_id)
        return self._next_id

    def remove_forward(self, forward_id: int) -> bool:
        self.forwards.remove(forward_id)
        return True


def _open(family: int, transport: str, host_addr: str, host_port: int) -> int:
    """A port of the host: those below 1024 are not to be had. No descriptor, nothing to close."""
    assert transport in ("tcp", "udp")
    assert 1 <= host_port <= 65535
    socket.inet_pton(family, host_addr)
    if host_port < 1024:
        raise OSError(errno.EACCES, "not for you")
    return -1


def run(requests: bytes) -> None:
    """Serve the requests; AssertionError, or whatever was raised, when a rule does not hold."""
    opened, forwards._open = forwards._open, _open
    try:
        driver = Driver()
        guest6 = bytes.fromhex("fd000000000000000000000000000064")
        table = Forwards(driver, bytes((10, 0, 2, 100)), guest6)  # type: ignore[arg-type]
        for request in requests.split(b"\0"):
            reply = api.answer(table, request)
            assert json.loads(json.dumps(reply)) == reply
            assert ("return" in reply) != ("error" in reply)
            assert len(table.entries()) == len(driver.forwards) <= MAX_FORWARDS
    finally:
        forwards._open = opened
