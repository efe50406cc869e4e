"""The control plane in real namespaces, with an Engine that carries nothing: what depends on the
kernel but needs no traffic. The system tests of the whole daemon are in tests/e2e.
"""

from __future__ import annotations

import os
import pathlib
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

import slirp

pytestmark = pytest.mark.e2e

FAKE = [sys.executable, str(pathlib.Path(__file__).with_name("fakeengine.py"))]
TERMINAL_PATIENCE_S = 30
TREE = str(pathlib.Path(slirp.__file__).parents[1])  # this tree, or where it is installed


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": TREE}


@pytest.fixture
def target() -> Iterator[int]:
    """The pid of a process in user and network namespaces of its own."""
    holder = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", "echo; exec sleep 60"],
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    yield holder.pid
    holder.kill()
    holder.wait()
    holder.stdout.close()


class Started:
    """A daemon of ours that has become ready."""

    def __init__(self, *words: str, through: tuple[str, ...] = ()) -> None:
        ready_fd, write_fd = os.pipe()
        self.process = subprocess.Popen(
            [*through, *FAKE, "-c", "-r", str(write_fd), *words],
            pass_fds=(write_fd,),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
        )
        os.close(write_fd)
        self.ready = os.read(ready_fd, 2)
        os.close(ready_fd)

    def end(self) -> tuple[int, str]:
        """Wait for its end: exit status and stderr."""
        _, errors = self.process.communicate(timeout=10)
        return self.process.returncode, errors


def test_signal_at_the_instant_of_ready_removes_the_api_socket(
    target: int, tmp_path: pathlib.Path
) -> None:
    api = tmp_path / "s"
    daemon = Started("-a", str(api), str(target), "tap0")
    assert daemon.ready == b"1"
    assert api.is_socket()
    daemon.process.terminate()
    assert daemon.end() == (-signal.SIGTERM, "")
    assert not api.exists()


def test_ignored_signals_stay_ignored(target: int) -> None:
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        daemon = Started(str(target), "tap0")
    finally:
        signal.signal(signal.SIGHUP, old)
    daemon.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert daemon.process.poll() is None
    daemon.process.terminate()
    daemon.end()


def test_successor_waits_for_the_interface(target: int) -> None:
    """Podman restarts a container in the same namespace while the old daemon is still going."""
    old = Started(str(target), "tap0")
    ending = subprocess.Popen(["sh", "-c", f"sleep 0.2; kill {old.process.pid}"])
    new = Started(str(target), "tap0")
    assert new.ready == b"1"
    ending.wait()
    old.end()
    new.process.terminate()
    new.end()


def test_end_of_the_namespace_ends_the_daemon(target: int) -> None:
    daemon = Started(str(target), "tap0")
    os.kill(target, signal.SIGKILL)
    assert daemon.end() == (0, "pyslirp: the network namespace has gone\n")


def test_where_no_namespace_can_be_made_the_tap_is_opened_in_place(target: int) -> None:
    """The daemon then watches the process."""
    inside = ("nsenter", "--preserve-credentials", "--user", "--target", str(target))
    limit = "/proc/sys/user/max_net_namespaces"
    subprocess.run([*inside, "sh", "-c", f"echo 0 > {limit}"], check=True)
    daemon = Started(str(target), "tap0", through=inside)
    assert daemon.ready == b"1"
    os.kill(target, signal.SIGKILL)
    assert daemon.end() == (0, f"pyslirp: process {target} has ended\n")


def in_terminal(script: list[tuple[str, str]]) -> str:
    """Type into an interactive shell on a terminal of its own, each time when it has shown what is
    awaited; all that it shows.
    """
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(environment(), PS1="$ ", TERM="dumb")
        os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
    shown, seen = "", 0
    for awaited, keys in script:
        while (at := shown.find(awaited, seen)) < 0:
            assert select.select([fd], [], [], TERMINAL_PATIENCE_S)[0], f"no {awaited!r}: {shown!r}"
            shown += os.read(fd, 4096).decode(errors="replace")
        seen = at + len(awaited)
        os.write(fd, keys.encode())
    try:
        while data := os.read(fd, 4096):
            shown += data.decode(errors="replace")
    except OSError:
        pass  # how a terminal says end of file
    os.close(fd)
    os.waitpid(pid, 0)
    return shown


def test_terminal_interrupts_the_command_once() -> None:
    script = "trap 'echo caught' INT; echo ready; sleep 9; sleep 0.5; exit 3"
    run = f'{" ".join(FAKE)} run sh -c "{script}"; echo rc=$?\r'
    shown = in_terminal([("$ ", run), ("\nready", "\x03"), ("\nrc=", "exit\r")])
    assert shown.count("\ncaught") + shown.count("^Ccaught") == 1
    assert "\nrc=3" in shown


def test_terminal_stops_and_continues_both() -> None:
    run = f"{' '.join(FAKE)} run sh -c 'echo ready; sleep 1.5'; echo rc=$?\r"
    shown = in_terminal(
        [
            ("$ ", run),
            ("\nready", "\x1a"),
            ("Stopped", "fg; echo end=$?\r"),
            ("\nend=", "exit\r"),
        ]
    )
    assert "\nend=0" in shown
