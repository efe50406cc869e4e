"""Ranges of sequence space: merged, bounded, reported as RFC 2018 4 asks, across 2^32."""

from __future__ import annotations

import pytest

from slirp.core.testfaces import Ranges

WRAP = 2**32
HOLES = 32


def built(*pairs: tuple[int, int]) -> Ranges:
    ranges = Ranges()
    for start, end in pairs:
        assert ranges.add(start, end)
    return ranges


def test_disjoint_stay_apart_in_order() -> None:
    assert built((30, 40), (10, 20)).ranges == [(10, 20), (30, 40)]


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ((20, 30), [(10, 40)]),  # fills the gap
        ((20, 21), [(10, 21), (30, 40)]),  # touches the first
        ((29, 30), [(10, 20), (29, 40)]),  # touches the second
        ((21, 29), [(10, 20), (21, 29), (30, 40)]),
        ((12, 15), [(10, 20), (30, 40)]),  # known
        ((0, 50), [(0, 50)]),  # swallows all
        ((40, 50), [(10, 20), (30, 50)]),
        ((0, 5), [(0, 5), (10, 20), (30, 40)]),
        ((41, 50), [(10, 20), (30, 40), (41, 50)]),
    ],
)
def test_add(added: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert built((10, 20), (30, 40), added).ranges == expected


def test_across_the_end_of_the_number_space() -> None:
    ranges = built((WRAP - 10, 10), (20, 30), (10, 20))
    assert ranges.ranges == [(WRAP - 10, 30)]
    assert ranges.bytes_in(WRAP - 20, 40) == 40
    assert ranges.skip(WRAP - 5, 100) == (30, 100)


def test_full_list_refuses_another_hole_but_still_merges() -> None:
    ranges = built(*((100 * i, 100 * i + 10) for i in range(HOLES)))
    before = ranges.ranges
    assert not ranges.add(100 * HOLES, 100 * HOLES + 10)
    assert not ranges.add(50, 60)
    assert ranges.ranges == before
    assert ranges.add(10, 100)
    assert ranges.ranges[0] == (0, 110)
    assert ranges.add(250, 260)


def test_trim() -> None:
    ranges = built((10, 20), (30, 40))
    ranges.trim(10)
    assert ranges.ranges == [(10, 20), (30, 40)]
    ranges.trim(15)
    assert ranges.ranges == [(15, 20), (30, 40)]
    ranges.trim(25)
    assert ranges.ranges == [(30, 40)]
    ranges.trim(40)
    assert not ranges.allocated


def test_idle_costs_nothing() -> None:
    ranges = Ranges()
    assert not ranges.allocated
    ranges.trim(5)
    assert ranges.report(4) == []
    assert ranges.bytes_in(0, 100) == 0
    assert ranges.skip(7, 9) == (7, 9)


def test_report_newest_first() -> None:
    """RFC 2018 4: the first block tells of the segment that triggered the ACK, the others of those
    before it; the fifth and more, from the highest on."""
    ranges = built((50, 60), (10, 20), (70, 80), (90, 95), (30, 40))
    assert ranges.report(4) == [(30, 40), (90, 95), (70, 80), (10, 20)]
    assert ranges.report(1) == [(30, 40)]
    assert ranges.report(8) == [(30, 40), (90, 95), (70, 80), (10, 20), (50, 60)]


def test_report_names_the_whole_range_that_grew() -> None:
    ranges = built((10, 20), (30, 40), (20, 25))
    assert ranges.report(3) == [(10, 25), (30, 40)]


def test_report_when_the_latest_is_trimmed_away() -> None:
    ranges = built((30, 40), (10, 20))
    ranges.trim(25)
    assert ranges.report(3) == [(30, 40)]


def test_bytes_in_part() -> None:
    ranges = built((10, 20), (30, 40))
    assert ranges.bytes_in(15, 35) == 10
    assert ranges.bytes_in(20, 30) == 0
    assert ranges.bytes_in(35, 15) == 0


@pytest.mark.parametrize(
    ("at", "expected"),
    [(5, (5, 10)), (10, (20, 30)), (19, (20, 30)), (20, (20, 30)), (35, (40, 99)), (40, (40, 99))],
)
def test_skip(at: int, expected: tuple[int, int]) -> None:
    assert built((10, 20), (30, 40)).skip(at, 99) == expected
