"""Lines for people: how many at most."""

from __future__ import annotations

from slirp.log import Ration


def test_lines_are_rationed_and_the_missing_counted() -> None:
    ration = Ration()
    assert [ration.admit("x", 1000.0) for _ in range(50)] == ["x"] * 50
    assert [ration.admit("x", 1000.0 + at) for at in range(9)] == [None] * 9
    assert ration.admit("y", 1010.0) == "y (9 lines before it were left out)"
    assert ration.admit("x", 1010.1) is None
    assert ration.admit("z", 1020.1) == "z (1 lines before it were left out)"


def test_quiet_time_does_not_add_up() -> None:
    ration = Ration()
    for now_s in (0.0, 1e9):
        assert [ration.admit("x", now_s) for _ in range(51)] == ["x"] * 50 + [None]
        assert ration.admit("x", now_s) is None
        ration = Ration()
