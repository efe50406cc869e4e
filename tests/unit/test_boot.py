"""The way to ready: what it must not import, whatever the machine's speed."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

import slirp

# Each of these costs 3 to 200 ms. What needs them comes after ready (slirp.service).
LATE = (
    *("asyncio", "uvloop", "pyroute2", "dpkt", "scapy", "slirp.service", "slirp.api"),
    *("slirp.services", "slirp.services.dhcp4"),
    *("json", "logging", "socket", "signal", "subprocess", "threading", "ssl", "ctypes"),
    *("argparse", "dataclasses", "typing", "re", "contextlib", "importlib.metadata"),
    *("ipaddress", "inspect", "selectors", "tempfile", "shutil", "random"),
)
# The data plane brings these along, but while the TAP is made; before that, nothing may.
BEFORE_THE_FORK = (
    *(*LATE, "enum", "collections", "functools"),
    *("slirp.core.engine", "slirp.core.confine", "slirp.sandbox", "slirp.seccomp"),
)


def loaded_by(*modules: str) -> set[str]:
    """All modules of a fresh interpreter that has imported `modules`."""
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    tree = pathlib.Path(slirp.__file__).parents[1]  # this tree, or where it is installed
    # -I -S: nothing but what our own imports drag in; the path is then ours to give.
    paths = [str(tree), *(path for path in sys.path if path.endswith("site-packages"))]
    script = f"import sys; sys.path[:0] = {json.dumps(paths)}; {script}"
    run = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


@pytest.fixture(scope="module")
def at_the_fork() -> set[str]:
    return loaded_by("slirp.cli", "slirp.daemon", "slirp.run")


@pytest.fixture(scope="module")
def at_ready() -> set[str]:
    late = ("slirp.driver", "slirp.sandbox", "resource")
    return loaded_by("slirp.cli", "slirp.daemon", "slirp.run", *late)


@pytest.mark.parametrize("module", BEFORE_THE_FORK)
def test_not_before_the_helper_is_forked(at_the_fork: set[str], module: str) -> None:
    assert module not in at_the_fork


@pytest.mark.parametrize("module", LATE)
def test_not_on_the_way_to_ready(at_ready: set[str], module: str) -> None:
    assert module not in at_ready


def test_what_is_late_is_used_later() -> None:
    """The list above would hide a misspelling."""
    assert {"asyncio", "json", "socket", "slirp.api"} <= loaded_by("slirp.service")
