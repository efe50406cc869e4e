"""What every test of the tree shares: system tests are skipped, with the reason, where the machine
refuses them. Fixtures live with their tests (tests/harness, tests/e2e/conftest.py).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing is skipped for want of a tool or a right: a skip could hide a case for ever.

    Only what the kernel does not have cannot be installed.
    """
    report = yield
    if report.skipped and os.environ.get("CI") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if "the kernel" not in reason:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: not to be skipped in CI: {reason}"
    return report
