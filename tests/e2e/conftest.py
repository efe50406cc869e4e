"""Fixtures of the system tests: one topology for all, a guest and a daemon for each.

The program under test is PYSLIRP_E2E_BIN, or the pyslirp installed beside the running Python. The
same tests run on slirp4netns itself, which shows that they ask for what it does; where we promise
more than it does, a test is marked `beyond` and skipped there.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.daemons import Slirp, default_command
from lab.servers import DNS_PORT, DnsServer
from lab.topology import REMOTE, Topology

Attach = Callable[..., Slirp]
LONG_TEXT = "".join(f"{number:05}" for number in range(600))
HUGE_TEXT = "".join(f"{number:05}" for number in range(790))
RECORDS = {
    "example.test": "192.0.2.80",
    "remote.test": REMOTE,
    "long.test": LONG_TEXT,
    "huge.test": HUGE_TEXT,
}
HERE = pathlib.Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Register the marks of this directory."""
    config.addinivalue_line("markers", "beyond: promises more than slirp4netns 1.2 keeps")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is a system test."""
    original = pathlib.Path(default_command()[0]).name == "slirp4netns"
    for item in items:
        if not item.path.is_relative_to(HERE):
            continue
        item.add_marker(pytest.mark.e2e)
        if original and item.get_closest_marker("beyond"):
            item.add_marker(pytest.mark.skip(reason="slirp4netns 1.2 does otherwise"))


@pytest.fixture(scope="session")
def bed() -> Iterator[Topology]:
    """Host and remote."""
    with Topology() as topology:
        yield topology


@pytest.fixture(scope="session")
def dns(bed: Topology) -> Iterator[DnsServer]:
    """The name server in the remote that the host's resolv.conf names."""
    datagrams = bed.remote.bind_udp(REMOTE, DNS_PORT)
    listener = bed.remote.listen(REMOTE, DNS_PORT)
    with DnsServer(datagrams, listener, RECORDS).running() as server:
        yield server


@pytest.fixture
def attach(bed: Topology) -> Iterator[Attach]:
    """Attach a daemon with the given options to a new guest (or to `guest`); ends with the test.

    A daemon that is not asked to end must live to the end of the test, and none may ever print a
    traceback or a sanitizer's report.
    """
    daemons: list[Slirp] = []

    def start(*options: str, **settings: Any) -> Slirp:
        guest = settings.pop("guest", None) or bed.guest(settings.get("user"))
        daemon = Slirp(bed, guest, *options, **settings)
        daemons.append(daemon)
        return daemon

    yield start
    for daemon in daemons:
        died = daemon.process.poll() is not None and not daemon.ended_by_test
        daemon.stop()
        bed.release(daemon.guest)
        print(f"--- output of the daemon {daemon.pid}:\n{daemon.output}")
        assert not died, f"the daemon ended by itself with {daemon.process.returncode}"
        assert "Traceback" not in daemon.output
        assert "Sanitizer" not in daemon.output


@pytest.fixture
def net(attach: Attach) -> Slirp:
    """A guest on a daemon with the defaults (-c) and an API socket."""
    return attach(api=True)
