"""What every test of the tree shares: system tests are skipped, with the reason, where the machine
refuses them. Fixtures live with their tests (tests/harness, tests/e2e/conftest.py).
"""

from __future__ import annotations

import signal

import pytest

from lab.topology import why_not


def pytest_configure() -> None:
    """Who starts us in the background may have us ignore these signals; whom we start must not."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs namespaces when they cannot be had."""
    system_tests = [item for item in items if item.get_closest_marker("e2e")]
    reason = why_not() if system_tests else None
    for item in system_tests if reason else ():
        item.add_marker(pytest.mark.skip(reason=f"no system tests here: {reason}"))
