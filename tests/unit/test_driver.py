"""Who turns the Engine: a thread, and nobody else meanwhile."""

from __future__ import annotations

import os
import pathlib
import select
import time
from collections.abc import Iterator

import fakeengine
import pytest

from slirp.config import Config
from slirp.core import engine as real
from slirp.driver import Driver
from slirp.resolver import Resolvers
from slirp.services import Services

PATIENCE_S = 10


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

    def run(self) -> int:
        self.runs += 1
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
    for name in ("RUN_IDLE", "RUN_MORE", "RUN_LINK_DOWN", "RUN_PUNTED"):
        assert getattr(real, name) == getattr(fakeengine, name)


def drive(link: Link, resolvers: Resolvers | None = None) -> Driver:
    driver = Driver(link.engine, Config(), resolvers)  # type: ignore[arg-type]
    driver.start()
    return driver


def await_frames(link: Link, count: int) -> None:
    while link.engine.frames < count:
        pass


def test_turns_and_stops(link: Link) -> None:
    driver = drive(link)
    link.frame()
    await_frames(link, 1)
    assert driver.stop()
    runs = link.engine.runs
    link.frame()
    assert link.engine.runs == runs
    driver.close()


def test_stops_once(link: Link) -> None:
    driver = drive(link)
    assert driver.stop()
    assert driver.stop()
    driver.close()


def test_others_have_the_engine_to_themselves_and_it_goes_on(link: Link) -> None:
    driver = drive(link)

    def frames_while_alone() -> int:
        before = link.engine.runs
        link.frame()
        time.sleep(0.01)
        return link.engine.runs - before

    for _ in range(3):
        assert driver.call(frames_while_alone) == 0
    await_frames(link, 3)
    driver.close()


def test_goes_on_after_a_call_that_failed(link: Link) -> None:
    driver = drive(link)
    with pytest.raises(OSError, match="forwards"):
        driver.call(_fail, "forwards")
    link.frame()
    await_frames(link, 1)
    driver.close()


def test_calls_before_the_start_do_not_start_it(link: Link) -> None:
    driver = Driver(link.engine, Config())  # type: ignore[arg-type]
    link.frame()
    assert driver.add_forward("tcp", os.dup(0), bytes(4), 80) in link.engine.forwards
    assert link.engine.runs == 0
    driver.close()


def test_forwards_pass_through(link: Link) -> None:
    driver = drive(link)
    forward_id = driver.add_forward("udp", os.dup(0), bytes(4), 53)
    assert driver.remove_forward(forward_id)
    assert not driver.remove_forward(forward_id)
    driver.close()


def test_reports_the_end_of_the_link(link: Link) -> None:
    driver = drive(link)
    link.cut()
    assert select.select([driver.ended_fd], [], [], PATIENCE_S)[0]
    assert driver.call(lambda: "still ours") == "still ours"
    assert not driver.stop()
    driver.close()


def test_hands_errors_over(link: Link) -> None:
    def fail(stop_fd: int, visit_us: int) -> int:
        raise OSError(stop_fd)

    link.engine.run_until = fail  # type: ignore[method-assign]
    driver = drive(link)
    assert select.select([driver.ended_fd], [], [], PATIENCE_S)[0]
    with pytest.raises(OSError, match=r"\d"):
        driver.stop()
    driver.close()


def test_changed_name_servers_reach_the_engine_before_the_next_frame(
    link: Link, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    resolvers = Resolvers(str(path))
    visits: list[list[bytes]] = []

    def visit(stop_fd: int, visit_us: int) -> int:
        visits.append(link.engine.dns)
        path.write_text(f"nameserver 192.0.2.{22 + len(visits)}\n")
        resolvers._next_check_s = 0.0  # a second has passed
        return fakeengine.RUN_MORE if len(visits) < 3 else fakeengine.RUN_IDLE

    link.engine.run_until = visit  # type: ignore[method-assign]
    path.write_text("nameserver 192.0.2.22\n")
    driver = drive(link, resolvers)
    while len(visits) < 3:
        pass
    driver.close()
    assert visits == [[bytes([192, 0, 2, last])] for last in (22, 23, 24)]


def test_punted_frames_are_answered(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order in which they came, and nothing is sent where there is no answer."""

    def answer(_: Services, frame: bytes, now_s: float) -> bytes | None:
        return None if frame == b"nonsense" else b"to " + frame

    monkeypatch.setattr(Services, "answer", answer)
    turns = iter(
        [
            (fakeengine.RUN_PUNTED, [b"one", b"nonsense", b"two"]),
            (fakeengine.RUN_PUNTED | fakeengine.RUN_MORE, [b"three"]),
            (fakeengine.RUN_PUNTED | fakeengine.RUN_LINK_DOWN, [b"four"]),
        ]
    )

    def turn(stop_fd: int, visit_us: int) -> int:
        flags, link.engine.waiting = next(turns)
        return flags

    link.engine.run_until = turn  # type: ignore[method-assign]
    driver = drive(link)
    assert select.select([driver.ended_fd], [], [], PATIENCE_S)[0]
    assert link.engine.sent == [b"to one", b"to two", b"to three", b"to four"]
    driver.close()


def _fail(what: str) -> None:
    raise OSError(what)
