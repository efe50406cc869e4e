"""Who turns the Engine: the thread first, then the loop, never both."""

from __future__ import annotations

import asyncio
import os
import pathlib
from collections.abc import Iterator

import fakeengine
import pytest

from slirp.core import engine as real
from slirp.driver import LoopDriver, ThreadDriver
from slirp.resolver import Resolvers


class Link:
    """A fake Engine on a pipe: a byte is a frame, the end of file the end of the TAP."""

    def __init__(self) -> None:
        read_fd, self.guest_fd = os.pipe2(os.O_NONBLOCK)
        self.engine = _PipeEngine(read_fd)

    def frame(self) -> None:
        os.write(self.guest_fd, b".")

    def cut(self) -> None:
        os.close(self.guest_fd)
        self.guest_fd = -1


class _PipeEngine(fakeengine.Engine):
    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._fd = fd
        self.frames = 0
        self.turns_left = 0  # how often run() will say that there is more

    def run(self) -> int:
        self.runs += 1
        if self.turns_left:
            self.turns_left -= 1
            return fakeengine.RUN_MORE
        try:
            data = os.read(self._fd, 4096)
        except BlockingIOError:
            return fakeengine.RUN_IDLE
        self.frames += len(data)
        return fakeengine.RUN_IDLE if data else fakeengine.RUN_LINK_DOWN


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    yield made
    made.engine.close()
    if made.guest_fd >= 0:
        os.close(made.guest_fd)


def test_the_fake_speaks_the_engines_flags() -> None:
    for name in ("RUN_IDLE", "RUN_MORE", "RUN_LINK_DOWN"):
        assert getattr(real, name) == getattr(fakeengine, name)


def test_thread_turns_and_stops(link: Link) -> None:
    driver = ThreadDriver(link.engine)  # type: ignore[arg-type]
    driver.start()
    link.frame()
    while not link.engine.frames:
        pass
    assert driver.stop()
    runs = link.engine.runs
    link.frame()
    assert link.engine.runs == runs


def test_thread_reports_the_end_of_the_link(link: Link) -> None:
    driver = ThreadDriver(link.engine)  # type: ignore[arg-type]
    driver.start()
    link.cut()
    while not link.engine.runs:
        pass
    assert not driver.stop()


def test_thread_hands_errors_over(link: Link) -> None:
    def fail(stop_fd: int) -> int:
        raise OSError(stop_fd)

    link.engine.run_until = fail  # type: ignore[method-assign]
    driver = ThreadDriver(link.engine)  # type: ignore[arg-type]
    driver.start()
    with pytest.raises(OSError, match=r"\d"):
        driver.stop()


async def test_loop_turns_on_frames(link: Link) -> None:
    driver = LoopDriver(asyncio.get_running_loop(), link.engine, None, _never)  # type: ignore[arg-type]
    link.frame()
    driver.start()
    assert link.engine.frames == 1  # what came before start() does not wait for the next frame
    link.frame()
    await asyncio.sleep(0.01)
    assert link.engine.frames == 2
    driver.stop()
    link.frame()
    await asyncio.sleep(0.01)
    assert link.engine.frames == 2


async def test_loop_gives_others_a_turn_and_comes_back(link: Link) -> None:
    loop = asyncio.get_running_loop()
    driver = LoopDriver(loop, link.engine, None, _never)  # type: ignore[arg-type]
    link.engine.turns_left = 50
    link.frame()
    driver.start()
    order: list[int] = []
    loop.call_soon(lambda: order.append(link.engine.turns_left))
    await asyncio.sleep(0.05)
    assert order
    assert order[0] > 40
    # at most one scheduled turn and one by the descriptor in a round: no avalanche
    assert link.engine.turns_left == 0
    assert link.engine.frames == 1
    driver.stop()


async def test_loop_reports_the_end_of_the_link_once(link: Link) -> None:
    ends: list[None] = []
    driver = LoopDriver(
        asyncio.get_running_loop(),
        link.engine,  # type: ignore[arg-type]
        None,
        lambda: ends.append(None),
    )
    driver.start()
    link.cut()
    await asyncio.sleep(0.02)
    assert ends == [None]


async def test_changed_name_servers_reach_the_engine_before_the_next_frame(
    link: Link, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    resolvers = Resolvers(str(path))
    driver = LoopDriver(asyncio.get_running_loop(), link.engine, resolvers, _never)  # type: ignore[arg-type]
    path.write_text("nameserver 192.0.2.22\n")
    link.frame()
    driver.start()
    assert link.engine.dns == [bytes([192, 0, 2, 22])]
    driver.stop()


def _never() -> None:
    raise AssertionError("the link is up")
