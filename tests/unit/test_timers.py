"""The timer wheel: never early, at most a tick late, whatever the distance."""

from __future__ import annotations

import pytest

from slirp.core.testfaces import Timers

TICK = 1000
SPAN = [64**level * TICK for level in range(6)]  # microseconds that one slot of a level covers


def popped(wheel: Timers, now_us: int) -> list[int]:
    """All that is due, in the order it comes."""
    out = []
    while (which := wheel.pop(now_us)) is not None:
        out.append(which)
    return out


def test_empty_wheel_has_no_deadline() -> None:
    wheel = Timers(1)
    assert wheel.next() is None
    assert wheel.pop(10**12) is None
    assert wheel.armed == 0


@pytest.mark.parametrize("start", [0, 1, 999, 63_000, 64_000, 123_456_789, 2**30 * TICK - 5000])
@pytest.mark.parametrize(
    "distance",
    [
        *(1, 999, 1000, 1001, 63_999, 64_000, 64_001),
        *(SPAN[level] + delta for level in range(2, 6) for delta in (-TICK, -1, 0, 1, TICK)),
        *(3 * SPAN[5], 100 * SPAN[5]),
    ],
)
def test_due_at_its_time_and_not_before(start: int, distance: int) -> None:
    """One timer, driven by the wheel's own deadlines."""
    wheel = Timers(1, start)
    due = start + distance
    wheel.set(0, due)
    assert wheel.pop(due - 1) is None
    steps = 0
    while (at := wheel.next()) is not None:
        assert at <= due + TICK - 1, "would be late"
        steps += 1
        assert steps < 500, "the wheel crawls"
        if wheel.pop(max(at, due - 1)) is not None:
            assert max(at, due - 1) >= due, "early"
            break
    assert not wheel.is_set(0)
    assert wheel.armed == 0


@pytest.mark.parametrize("boundary", [64, 64**2, 64**3, 64**4, 64**5, 3 * 64**5])
def test_set_just_before_the_wheel_turns_over(boundary: int) -> None:
    """A short timer across the edge of every level; 64^5 ms are twelve days of uptime."""
    now = (boundary - 1) * TICK
    wheel = Timers(2, now)
    wheel.set(0, now + TICK)
    wheel.set(1, now + 5 * TICK)
    assert popped(wheel, now) == []
    assert popped(wheel, now + TICK) == [0]
    assert wheel.next() is not None
    assert popped(wheel, now + 5 * TICK) == [1]


def test_in_the_past_is_due_at_once() -> None:
    wheel = Timers(1, 10**9)
    wheel.set(0, 5)
    assert wheel.next() == 10**9
    assert popped(wheel, 10**9) == [0]


def test_set_again_moves_it() -> None:
    wheel = Timers(1)
    wheel.set(0, 5 * TICK)
    wheel.set(0, 50 * TICK)
    assert wheel.armed == 1
    assert popped(wheel, 49 * TICK) == []
    wheel.set(0, 49 * TICK)
    assert popped(wheel, 49 * TICK) == [0]


def test_cancelled_does_not_come() -> None:
    wheel = Timers(2)
    wheel.set(0, 5 * TICK)
    wheel.set(1, 5 * TICK)
    wheel.cancel(0)
    assert not wheel.is_set(0)
    assert popped(wheel, 10**9) == [1]


def test_cancel_of_what_is_not_set_changes_nothing() -> None:
    wheel = Timers(2)
    wheel.cancel(0)
    wheel.set(1, TICK)
    popped(wheel, TICK)
    wheel.cancel(1)
    assert wheel.armed == 0


def test_cancel_of_what_is_due_already() -> None:
    wheel = Timers(3)
    for which in range(3):
        wheel.set(which, TICK)
    assert wheel.pop(TICK) == 0
    wheel.cancel(1)
    assert popped(wheel, TICK) == [2]
    assert wheel.next() is None


def test_a_long_sleep_loses_none() -> None:
    """The clock jumps over thousands of slots: a suspended machine wakes up."""
    wheel = Timers(200)
    for which in range(200):
        wheel.set(which, (which * which + 1) * 37 * TICK)
    assert sorted(popped(wheel, 10**12)) == list(range(200))


def test_due_come_in_order_of_their_ticks() -> None:
    wheel = Timers(100)
    for which in range(100):
        wheel.set(which, (100 - which) * 7 * TICK)
    assert popped(wheel, 10**9) == list(range(99, -1, -1))
