"""Every way a frame can end is provoked by some test.

What a test names in `dropped` has to have happened, once for each time that it is named; so it is
enough to find every name in the sources of the tests beside this one.
"""

from __future__ import annotations

import ast
from pathlib import Path

from harness.lan import Lan
from slirp.core.stats import Counter, Drop

HERE = Path(__file__).parent


def named(source: str) -> set[str]:
    """The members of Drop that a module speaks of."""
    return {
        node.attr
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Drop"
    }


def test_every_drop_is_provoked() -> None:
    sources = [path.read_text() for path in HERE.glob("test_*.py") if path.name != "test_drops.py"]
    spoken_of = set().union(*map(named, sources))
    drops = {drop.name for drop in Drop} - {"DROP_NONE", "DROP_COUNT"}
    assert drops == spoken_of


def test_every_drop_and_counter_is_told(lan: Lan) -> None:
    """By its name in lower case, drops with their prefix, counters without."""
    names = {drop.name.lower() for drop in Drop if drop.name not in ("DROP_NONE", "DROP_COUNT")}
    names |= {counter.name[4:].lower() for counter in Counter if counter.name != "CTR_COUNT"}
    gauges = {"flows", "timers", "buffer_blocks", "flow_bytes", "reassemblies"}
    assert set(lan.stack.stats()) == names | gauges
    assert not any(lan.stack.stats()[name] for name in names)
