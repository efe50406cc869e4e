"""The slice of CPU time that the Engine's thread yields after crowds of datagrams (slice.pxd).

These tests ask the kernel for the slice of the thread that turned the Engine.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from harness.wired import PATIENCE_S, Wired, peer, port_of

SYS_SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}[platform.machine()]
ATTR = struct.Struct("=IIQiIQQQ")
SHORT_NS = 100_000
CROWD = 40
LINUX = tuple(int(part) for part in os.uname().release.split(".")[:2])

pytestmark = pytest.mark.skipif(LINUX < (6, 12), reason="the kernel gives all threads one slice")


def slice_ns() -> int:
    """Of this thread."""
    attr = ctypes.create_string_buffer(ATTR.size)
    call = ctypes.CDLL(None, use_errno=True).syscall
    assert call(SYS_SCHED_GETATTR, 0, attr, ATTR.size, 0) == 0, os.strerror(ctypes.get_errno())
    return int(ATTR.unpack(attr)[5])


def in_a_thread(test: Callable[..., None], *args: Any) -> None:
    """Run it where it may do as it likes with the thread."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            test(*args)
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


def send_at_once(wired: Wired, port: int, number: int) -> None:
    """So many datagrams wait for the Engine when it turns next."""
    for _ in range(number):
        wired.udp(port, b"one of many")
    wired.engine.run()


def short_and_usual(wired: Wired, port: int) -> None:
    usual = slice_ns()
    assert usual > SHORT_NS
    send_at_once(wired, port, 1)
    assert slice_ns() == usual
    send_at_once(wired, port, CROWD)
    assert slice_ns() == SHORT_NS
    deadline = time.monotonic() + PATIENCE_S
    while slice_ns() != usual:
        assert time.monotonic() < deadline, "the slice stays short"
        send_at_once(wired, port, 1)


def test_slice_is_short_while_crowds_come(wired: Wired) -> None:
    with peer() as server:
        in_a_thread(short_and_usual, wired, port_of(server))


def nice_value(wired: Wired, port: int) -> None:
    own = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, own, 5)
    send_at_once(wired, port, CROWD)
    assert slice_ns() == SHORT_NS
    assert os.getpriority(os.PRIO_PROCESS, own) == 5


def test_nice_value_is_kept(wired: Wired) -> None:
    """The call that sets the slice sets all."""
    with peer() as server:
        in_a_thread(nice_value, wired, port_of(server))


def another_policy(wired: Wired, port: int) -> None:
    own = threading.get_native_id()
    os.sched_setscheduler(own, os.SCHED_BATCH, os.sched_param(0))
    usual = slice_ns()
    send_at_once(wired, port, CROWD)
    assert (os.sched_getscheduler(own), slice_ns()) == (os.SCHED_BATCH, usual)


def test_another_policy_is_left_alone(wired: Wired) -> None:
    with peer() as server:
        in_a_thread(another_policy, wired, port_of(server))


def given_back(wired: Wired, port: int) -> None:
    usual = slice_ns()
    send_at_once(wired, port, CROWD)
    assert slice_ns() == SHORT_NS
    wired.close()
    assert slice_ns() == usual


def test_the_end_gives_the_slice_back(wired: Wired) -> None:
    with peer() as server:
        in_a_thread(given_back, wired, port_of(server))
