"""Fixtures: a stack for a test, whose accounts are settled when the test has passed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.lan import Lan
from harness.net import Net
from harness.tcp import Tcp
from harness.wired import Wired


def _settled(request: pytest.FixtureRequest, nets: list[Net]) -> Iterator[None]:
    """Settle every net, unless the test has failed already."""
    failed_before = request.session.testsfailed
    yield
    if request.session.testsfailed == failed_before:
        for net in nets:
            net.settle()


@pytest.fixture
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    """A stack of the usual settings."""
    net = Net()
    for _ in _settled(request, [net]):
        yield net


@pytest.fixture
def tcp(request: pytest.FixtureRequest) -> Iterator[Tcp]:
    """A stack of the usual settings, for connections."""
    tcp = Tcp()
    for _ in _settled(request, [tcp]):
        yield tcp


@pytest.fixture
def make_tcp(request: pytest.FixtureRequest) -> Iterator[Callable[..., Tcp]]:
    """Stacks of the test's own settings: make_tcp(mtu=..., ...)."""
    nets: list[Net] = []

    def make(**settings: object) -> Tcp:
        tcp = Tcp(**settings)  # type: ignore[arg-type]
        nets.append(tcp)
        return tcp

    for _ in _settled(request, nets):
        yield make


@pytest.fixture
def make_lan(request: pytest.FixtureRequest) -> Iterator[Callable[..., Lan]]:
    """Stacks of the test's own settings, for datagrams: make_lan(mtu=..., ...)."""
    nets: list[Net] = []

    def make(**settings: object) -> Lan:
        lan = Lan(**settings)  # type: ignore[arg-type]
        nets.append(lan)
        return lan

    for _ in _settled(request, nets):
        yield make


@pytest.fixture
def lan(make_lan: Callable[..., Lan]) -> Lan:
    """A stack of the usual settings, for datagrams."""
    return make_lan()


@pytest.fixture
def make_wired() -> Iterator[Callable[..., Wired]]:
    """Engines of the test's own settings; the process has no descriptor more at the end."""
    before = set(os.listdir("/proc/self/fd"))
    made: list[Wired] = []

    def make(**settings: Any) -> Wired:
        made.append(Wired(**settings))
        return made[-1]

    yield make
    for wired in made:
        wired.close()
    after = set(os.listdir("/proc/self/fd"))
    assert len(after) == len(before), "descriptors were left open"


@pytest.fixture
def wired(make_wired: Callable[..., Wired]) -> Wired:
    """An engine of the usual settings."""
    return make_wired()
