"""The slice of CPU time that the Engine's thread yields after crowds of datagrams (slice.pxd).

The Engine is turned by a thread, as the daemon has it; these tests ask the kernel for its slice.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from harness.wired import PATIENCE_S, Wired, peer, port_of

SYS_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}[platform.machine()]
ATTR = struct.Struct("=IIQiIQQQ")
SHORT_NS = 100_000
CROWD = 40
LINUX = tuple(int(part) for part in os.uname().release.split(".")[:2])

pytestmark = pytest.mark.skipif(LINUX < (6, 12), reason="the kernel gives all threads one slice")


def slice_ns(thread: int = 0) -> int:
    """Of a thread, 0 for this one."""
    attr = ctypes.create_string_buffer(ATTR.size)
    call = ctypes.CDLL(None, use_errno=True).syscall
    assert call(SYS_SCHED_GETATTR, thread, attr, ATTR.size, 0) == 0, os.strerror(ctypes.get_errno())
    return int(ATTR.unpack(attr)[5])


class Turned:
    """An Engine that a thread turns, and what the thread's slice was before and after that."""

    def __init__(
        self, wired: Wired, server: socket.socket, prepare: Callable[[int], object]
    ) -> None:
        self.wired, self.server = wired, server
        self.before = self.after = 0
        self.thread = 0
        self._prepare = prepare
        self._stop, self._tell = os.pipe()
        self._ready = threading.Event()
        self._own = threading.Thread(target=self._run)
        self._own.start()
        assert self._ready.wait(PATIENCE_S)

    def _run(self) -> None:
        self.thread = threading.get_native_id()
        self._prepare(self.thread)
        self.before = slice_ns()
        self._ready.set()
        self.wired.engine.run_until(self._stop)
        self.after = slice_ns()

    def stop(self) -> None:
        os.write(self._tell, b".")
        self._own.join()
        os.close(self._stop)
        os.close(self._tell)

    def send_until(self, number: int, wanted_ns: int) -> None:
        """Send so many datagrams at a time until the thread has that slice."""
        deadline = time.monotonic() + PATIENCE_S
        while slice_ns(self.thread) != wanted_ns:
            assert time.monotonic() < deadline, f"not {wanted_ns} ns"
            self.send(number)

    def send(self, number: int) -> None:
        with contextlib.suppress(BlockingIOError):
            for _ in range(number):
                self.wired.udp(port_of(self.server), b"one of many")


@contextlib.contextmanager
def turned(wired: Wired, prepare: Callable[[int], object] = int) -> Iterator[Turned]:
    with peer() as server:
        turned = Turned(wired, server, prepare)
        try:
            yield turned
        finally:
            turned.stop()


def test_slice_is_short_while_crowds_come(wired: Wired) -> None:
    with turned(wired) as engine:
        assert engine.before > SHORT_NS
        engine.send_until(CROWD, SHORT_NS)
        engine.send_until(1, engine.before)


def test_the_next_thread_has_a_short_slice_too(wired: Wired) -> None:
    """A thread ends with each request to the API; it has its own slice again then."""
    for _ in range(2):
        with turned(wired) as engine:
            engine.send_until(CROWD, SHORT_NS)
        assert engine.after == engine.before > SHORT_NS


def test_nice_value_is_kept(wired: Wired) -> None:
    """The call that sets the slice sets all."""
    with turned(wired, lambda own: os.setpriority(os.PRIO_PROCESS, own, 5)) as engine:
        engine.send_until(CROWD, SHORT_NS)
        assert os.getpriority(os.PRIO_PROCESS, engine.thread) == 5


def test_another_policy_is_left_alone(wired: Wired) -> None:

    def prepare(own: int) -> None:
        os.sched_setscheduler(own, os.SCHED_BATCH, os.sched_param(0))

    with peer() as server:
        for _ in range(CROWD):  # all in the Engine's first batch
            wired.udp(port_of(server), b"one of many")
        engine = Turned(wired, server, prepare)
        try:
            for _ in range(CROWD):
                assert server.recv(100) == b"one of many"
            assert os.sched_getscheduler(engine.thread) == os.SCHED_BATCH
            assert slice_ns(engine.thread) == engine.before
        finally:
            engine.stop()
