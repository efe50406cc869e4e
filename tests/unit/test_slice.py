"""The scheduler's slice (oscalls): set for a thread and for those that it begins."""

from __future__ import annotations

import os
import threading

import pytest

from slirp.core import oscalls

SLICE_US = 300
LINUX = tuple(int(part) for part in os.uname().release.split(".")[:2])


def in_a_thread(seen: list[int]) -> None:
    """What a slice was before it was set, after that, and in a thread of the thread's."""
    seen.append(oscalls.time_slice_us())
    oscalls.set_time_slice(SLICE_US)
    seen.append(oscalls.time_slice_us())
    inner = threading.Thread(target=lambda: seen.append(oscalls.time_slice_us()))
    inner.start()
    inner.join()


def slices() -> list[int]:
    seen: list[int] = []
    thread = threading.Thread(target=in_a_thread, args=(seen,))
    thread.start()
    thread.join()
    return seen


@pytest.mark.skipif(LINUX < (6, 12), reason="the kernel gives all threads the same slice")
def test_slice_of_a_thread_and_its_threads() -> None:
    before = oscalls.time_slice_us()
    usual, after, inherited = slices()
    assert (usual, after, inherited) == (before, SLICE_US, SLICE_US)
    assert before != SLICE_US
    assert oscalls.time_slice_us() == before  # nobody else's


def test_nice_value_is_kept() -> None:
    """The call that sets the slice sets all."""
    nice: list[int] = []

    def lower() -> None:
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, 5)
        oscalls.set_time_slice(SLICE_US)
        nice.append(os.getpriority(os.PRIO_PROCESS, own))

    thread = threading.Thread(target=lower)
    thread.start()
    thread.join()
    assert nice == [5]


def test_another_policy_is_left_alone() -> None:
    policy: list[int] = []

    def change() -> None:
        own = threading.get_native_id()
        os.sched_setscheduler(own, os.SCHED_BATCH, os.sched_param(0))
        oscalls.set_time_slice(SLICE_US)
        policy.append(os.sched_getscheduler(own))
        policy.append(oscalls.time_slice_us())

    thread = threading.Thread(target=change)
    thread.start()
    thread.join()
    assert policy == [os.SCHED_BATCH, 0]
