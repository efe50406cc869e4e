"""Fixtures of the tests with the real runtimes: one user's machine for all, cleaned after each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab import machine as lab_machine
from lab.machine import Machine
from lab.servers import DnsServer, digest_of, serve_http
from lab.topology import REMOTE, Topology

FILE_BYTES = 8 << 20


@pytest.fixture(scope="session")
def user_machine(bed: Topology, dns: DnsServer) -> Iterator[Machine]:
    """A user's machine, whose names are resolved by the remote."""
    reason = lab_machine.why_not()
    if reason:
        pytest.skip(f"no container runtimes here: {reason}")
    with Machine(bed) as made:
        yield made


@pytest.fixture
def machine(user_machine: Machine) -> Iterator[Machine]:
    """The same, for one test: no daemon outlives what it was launched for."""
    yield user_machine
    user_machine.clean()
    user_machine.await_daemons(0)


@pytest.fixture
def download(bed: Topology) -> Iterator[str]:
    """A shell command that downloads a file by name and prints OK when it is what was sent."""
    with serve_http(bed.remote.listen(), FILE_BYTES) as port:
        digest = digest_of(FILE_BYTES)
        yield f"wget -q -O- http://remote.test:{port}/ | sha256sum | grep -q {digest} && echo OK"


@pytest.fixture
def remote_page(bed: Topology) -> Iterator[str]:
    """The address of a small page in the remote."""
    with serve_http(bed.remote.listen(), 100) as port:
        yield f"http://{REMOTE}:{port}/"
