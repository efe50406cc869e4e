"""What the fuzzer has found is run again: every script and request of the corpus keeps the rules.

The scripts came from coverage-guided runs (tests/fuzz/README.md), each for something that none
before had reached, and those named after a fault showed it when it was there.
"""

from __future__ import annotations

import pathlib

import apitarget
import pytest

from slirp.core import fuzz_script

CORPUS = pathlib.Path(__file__).parent / "corpus"
SHARDS = 8


def shard(kind: str, number: int) -> list[pathlib.Path]:
    """Every eighth file of one kind."""
    return sorted((CORPUS / kind).iterdir())[number::SHARDS]


@pytest.mark.parametrize("number", range(SHARDS))
def test_scripts_break_no_rule(number: int) -> None:
    """Frames, events, time and faults as recorded; the rules are those of fuzz_check."""
    paths = shard("stack", number)
    assert paths
    broken = {path.name: fuzz_script.run(path.read_bytes()) for path in paths}
    assert not {name: rule for name, rule in broken.items() if rule is not None}


@pytest.mark.parametrize("number", range(SHARDS))
def test_requests_are_answered(number: int) -> None:
    """Whatever the bytes, an answer, and the table of forwards is what the engine has."""
    for path in shard("api", number):
        apitarget.run(path.read_bytes())


def test_a_script_runs_the_same_way_each_time() -> None:
    """Else a file of the corpus would be worth nothing: no clock, no randomness."""
    for path in sorted((CORPUS / "stack").iterdir())[:20]:
        script = path.read_bytes()
        assert fuzz_script.trace(script) == fuzz_script.trace(script)
