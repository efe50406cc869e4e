"""The event loop's half: what ends the daemon, in-process, with a pipe for a TAP."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import fakeengine
import pytest

from slirp import service
from slirp.config import Config, parse_cidr6
from slirp.core import oscalls
from slirp.driver import Driver


class Signals:
    """Stands for slirp.signals.SignalFd."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.arrived: list[tuple[int, bool]] = []

    def send(self, signum: int, by_process: bool = True) -> None:
        self.arrived.append((signum, by_process))
        os.eventfd_write(self.fd, 1)

    def read(self) -> list[tuple[int, bool]]:
        os.eventfd_read(self.fd)
        arrived, self.arrived = self.arrived, []
        return arrived


class Sandbox:
    """Stands for slirp.sandbox.Sandbox."""

    def __init__(self) -> None:
        self.tightened = 0

    def tighten(self) -> None:
        self.tightened += 1


class Daemon:
    """Stands for slirp.daemon.Daemon: the same attributes, nothing behind them."""

    def __init__(self) -> None:
        self.tap_fd, self.guest_fd = os.pipe2(os.O_NONBLOCK)
        self.engine = fakeengine.Engine(self.tap_fd)
        self.driver = Driver(self.engine, Config())  # type: ignore[arg-type]
        self.signals = Signals()
        self.watches: dict[int, Callable[[], int | None]] = {}
        self.on_signal: Callable[[int, bool], int | None] = lambda signum, _: -signum
        self.is_busy: Callable[[], bool] = lambda: False
        self.on_link_down = lambda: 0
        self.config = Config()
        self.resolvers = None
        self.api_socket = None
        self.sandbox = Sandbox()
        self.forwards = None
        self.resolvers = None
        self.outbound = None
        self.bess = None

    def run(self, after_s: float = 0.0, then: Callable[[], object] = lambda: None) -> int:
        """Serve, doing `then` after a while, to the end."""
        self.driver.start()
        timer = threading.Timer(after_s, then)
        timer.start()
        try:
            return service.run(self)  # type: ignore[arg-type]
        finally:
            timer.join()


@pytest.fixture(params=["uvloop", "asyncio"])
def daemon(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    if request.param == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)  # as if it were not installed
    made = Daemon()
    yield made
    made.driver.close()
    made.engine.close()
    os.close(made.guest_fd)
    os.close(made.signals.fd)


def test_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = service._new_loop()
    assert type(loop).__module__.startswith("uvloop")
    loop.close()
    monkeypatch.setitem(sys.modules, "uvloop", None)
    loop = service._new_loop()
    assert isinstance(loop, asyncio.SelectorEventLoop)
    loop.close()


def test_signal_ends_it(daemon: Daemon) -> None:
    assert daemon.run(0.05, lambda: daemon.signals.send(oscalls.SIGTERM)) == -oscalls.SIGTERM
    assert daemon.sandbox.tightened == 1


def test_signal_that_came_before_the_loop_ends_it(daemon: Daemon) -> None:
    daemon.signals.send(oscalls.SIGINT)
    assert daemon.run() == -oscalls.SIGINT


def test_hang_up_of_a_watched_descriptor_ends_it(daemon: Daemon) -> None:
    read_fd, write_fd = os.pipe()
    daemon.watches[read_fd] = lambda: 7
    assert daemon.run(0.05, lambda: os.close(write_fd)) == 7
    os.close(read_fd)


@pytest.mark.parametrize("path", [os.devnull, __file__])
def test_watched_file_that_epoll_refuses_ends_it_at_once(daemon: Daemon, path: str) -> None:
    fd = os.open(path, os.O_RDONLY)
    daemon.watches[fd] = lambda: 3
    assert daemon.run() == 3
    os.close(fd)


def test_watch_may_go_on(daemon: Daemon) -> None:
    fd = os.eventfd(2, os.EFD_SEMAPHORE)

    def on_readable() -> int | None:
        os.eventfd_read(fd)
        seen.append(fd)
        return None if len(seen) < 2 else 5

    seen: list[int] = []
    daemon.watches[fd] = on_readable
    assert daemon.run() == 5
    assert len(seen) == 2
    os.close(fd)


def test_link_down_ends_it(daemon: Daemon) -> None:
    daemon.engine.run = lambda: fakeengine.RUN_LINK_DOWN  # type: ignore[method-assign]
    assert daemon.run(0.05, lambda: os.write(daemon.guest_fd, b".")) == 0


def test_failure_of_the_driver_ends_it(daemon: Daemon) -> None:
    def fail(stop_fd: int, visit_us: int) -> int:
        raise OSError(stop_fd)

    daemon.engine.run_until = fail  # type: ignore[method-assign]
    with pytest.raises(OSError, match=r"\d"):
        daemon.run()


def test_link_down_before_the_loop_ends_it(daemon: Daemon) -> None:
    daemon.engine.run_until = lambda stop_fd, visit_us: fakeengine.RUN_LINK_DOWN  # type: ignore[method-assign]
    assert daemon.run() == 0


def test_lingers_while_something_is_on_its_way(daemon: Daemon) -> None:
    questions: list[None] = []

    def is_busy() -> bool:
        questions.append(None)
        return len(questions) < 5

    daemon.is_busy = is_busy
    assert daemon.run(0.02, lambda: daemon.signals.send(oscalls.SIGTERM)) == -oscalls.SIGTERM
    assert len(questions) == 5


def test_second_signal_ends_the_lingering(daemon: Daemon) -> None:
    daemon.is_busy = lambda: True

    def press_twice() -> None:
        daemon.signals.send(oscalls.SIGINT)
        time.sleep(0.1)
        daemon.signals.send(oscalls.SIGTERM)

    started = time.monotonic()
    assert daemon.run(0.02, press_twice) == -oscalls.SIGINT
    assert time.monotonic() - started < service.LINGER_S / 2


def test_what_ended_it_is_asked_once(daemon: Daemon) -> None:
    """A descriptor that hung up stays readable while we linger."""
    read_fd, write_fd = os.pipe()
    os.close(write_fd)
    calls: list[int] = []

    def on_readable() -> int:
        calls.append(read_fd)
        return 0

    daemon.watches[read_fd] = on_readable
    busy = iter([True] * 10 + [False])
    daemon.is_busy = lambda: next(busy)
    assert daemon.run() == 0
    assert len(calls) == 1
    os.close(read_fd)


def test_router_is_advertised_from_time_to_time(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("slirp.services.ra.PERIOD_S", 0.01)
    daemon.config.network6 = parse_cidr6("fd00::/64")
    daemon.run(0.2, lambda: daemon.signals.send(oscalls.SIGTERM))
    assert len(daemon.engine.sent) > 1
    assert {frame[:6] for frame in daemon.engine.sent} == {b"\x33\x33\0\0\0\1"}


def test_no_router_without_ipv6(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slirp.services.ra.PERIOD_S", 0.01)
    daemon.run(0.1, lambda: daemon.signals.send(oscalls.SIGTERM))
    assert daemon.engine.sent == []


def test_report_on_sigusr1(daemon: Daemon, capfd: pytest.CaptureFixture[str]) -> None:
    def report_then_end() -> None:
        daemon.signals.send(oscalls.SIGUSR1)
        time.sleep(0.2)
        daemon.signals.send(oscalls.SIGTERM)

    daemon.run(0.05, report_then_end)
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    assert lines[0] == {"stats": {"runs": 0}}
    assert lines[1] == {"flow": {"kind": "udp", "guest_addr": "10.0.2.100", "guest_port": 53}}
