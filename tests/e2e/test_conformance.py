"""The cases of tests/conformance on the program under test, all of them before the first verdict.

`tools/dev.py conform` prints them as a table, beside slirp4netns and the kernel.
"""

from __future__ import annotations

import pytest

from conformance.suite import FAIL, Result, load, run

pytestmark = pytest.mark.beyond
CASES = load()


@pytest.fixture(scope="session")
def results(request: pytest.FixtureRequest) -> dict[str, Result]:
    """How the cases that were selected went."""
    chosen = {item.name for item in request.session.items}
    return run("pyslirp", [case for case in CASES if f"test_case[{case.name}]" in chosen])


@pytest.mark.parametrize("name", [case.name for case in CASES])
def test_case(results: dict[str, Result], name: str) -> None:
    result = results[name]
    print("\n".join(result.story))
    assert result.outcome != FAIL, f"{result.case}: {result.reason}"
