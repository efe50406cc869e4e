"""What the core costs, in instructions (bench/instructions.py): the benchmark's form for CI."""

from __future__ import annotations

import pathlib
import sys

import pytest

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))

from bench import instructions, micro

OPERATIONS = 32 * 45  # whole batches, and whole trains of segments


@pytest.mark.parametrize("name", micro.CELLS)
def test_the_mill_turns_what_it_says(name: str) -> None:
    """An operation that is refused, or carries nothing, would be a cheap one."""
    operation = micro.CELLS[name]()
    mill = operation.mill
    up, down = mill.bytes_to_host, mill.bytes_to_guest
    assert operation.turn(OPERATIONS) > 0
    refused = {"drop_udp_malformed": OPERATIONS} if name == "parse" else {}
    assert operation.dropped() == refused
    assert mill.bytes_to_host - up == OPERATIONS * operation.up
    assert mill.bytes_to_guest - down >= OPERATIONS * operation.down


def test_no_operation_takes_other_instructions_than_expected() -> None:
    """Whoever changes what an operation costs renews the table: bench/instructions.py --update."""
    before = instructions.expected()
    assert set(before) == set(micro.CELLS) - instructions.SKIPPED
    assert instructions.changes(instructions.count(list(before)), before) == []


def test_a_dearer_operation_is_told_of() -> None:
    dearer = 1 + 2 * instructions.TOLERANCE
    assert instructions.changes({"a": 100 * dearer, "b": 100}, {"a": 100, "b": 101}) == [
        "a: 116 instructions, not 100"
    ]
