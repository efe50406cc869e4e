"""The daemons under test or comparison: started as an ordinary user, timed until ready, stopped.

Slirp is any program with slirp4netns's command line: pyslirp in two builds, or slirp4netns itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from lab.topology import Guest, Topology, User

READY_SECONDS = 10.0
STOP_SECONDS = 5.0
_serial = itertools.count(1)


def default_command() -> list[str]:
    """PYSLIRP_E2E_BIN, or the pyslirp that is installed beside the running Python."""
    chosen = os.environ.get("PYSLIRP_E2E_BIN")
    if chosen:
        return shlex.split(chosen)
    beside = pathlib.Path(sys.executable).with_name("pyslirp")
    return [str(beside) if beside.exists() else shutil.which("pyslirp") or "pyslirp"]


@dataclasses.dataclass(frozen=True)
class Usage:
    """What a process has used until now."""

    cpu_seconds: float
    pss_bytes: int
    rss_bytes: int


def usage(pid: int) -> Usage:
    """CPU time of all threads of `pid` and its memory now."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # utime, stime: proc(5) fields 14 and 15
    memory = dict.fromkeys(("Pss:", "Rss:"), 0)
    with contextlib.suppress(OSError):
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            key, value, *_ = line.split()
            if key in memory:
                memory[key] = int(value) * 1024
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), memory["Pss:"], memory["Rss:"])


class ApiError(Exception):
    """The reply held `error`; the text is its `desc`."""


class Slirp:
    """One running daemon, attached to a guest.

    `options` come before the target; `target` replaces the guest's pid. With `configure` the daemon
    sets the address itself (-c). `ready_seconds` is the time from launch to the ready byte;
    `ended_by_test` says whether its end was asked for.
    """

    def __init__(
        self,
        bed: Topology,
        guest: Guest,
        *options: str,
        command: Sequence[str] | None = None,
        target: Sequence[str] | None = None,
        user: User | None = None,
        configure: bool = True,
        api: bool = False,
        wait: bool = True,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        **popen: Any,
    ) -> None:
        self.guest = guest
        self.ended_by_test = False
        self.output_path = bed.workdir / f"daemon-{next(_serial)}.log"
        self.api_path = bed.workdir / f"api-{next(_serial)}.sock" if api else None
        ready_read, ready_write = os.pipe()
        exit_read, self._exit_write = os.pipe()
        argv = [
            *bed.host_command(user or guest.user),
            *("setpriv", "--pdeathsig=KILL"),
            *(command or default_command()),
            *(["--configure"] if configure else []),
            *(["--api-socket", str(self.api_path)] if self.api_path else []),
            *("--ready-fd", str(ready_write), "--exit-fd", str(exit_read)),
            *options,
            *(target or (str(guest.pid), "tap0")),
        ]
        settings: dict[str, Any] = {"cwd": "/", "stdin": subprocess.DEVNULL, **popen}
        started = time.monotonic()
        with self.output_path.open("wb") as output:
            settings = {"stdout": output, "stderr": subprocess.STDOUT, **settings}
            self.process = subprocess.Popen(
                argv, pass_fds=(ready_write, exit_read, *pass_fds), env=env, **settings
            )
        os.close(ready_write)
        os.close(exit_read)
        self.pid = self.process.pid
        self.ready_byte = b""
        self.ready_seconds = 0.0
        try:
            if wait:
                self._await_ready(ready_read, started)
        finally:
            os.close(ready_read)

    def _await_ready(self, ready_read: int, started: float) -> None:
        readable, _, _ = select.select([ready_read], [], [], READY_SECONDS)
        self.ready_seconds = time.monotonic() - started
        self.ready_byte = os.read(ready_read, 16) if readable else b""
        if self.ready_byte != b"1":
            self.stop()
            raise AssertionError(f"not ready ({self.ready_byte!r}): {self.output}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def output(self) -> str:
        """What the daemon has written until now, both streams."""
        return self.output_path.read_text(errors="replace")

    def hang_up(self) -> None:
        """Close our end of the exit fd, as a container monitor that dies does."""
        self.ended_by_test = True
        if self._exit_write >= 0:
            os.close(self._exit_write)
            self._exit_write = -1

    def send_signal(self, number: int) -> None:
        """Send a signal that is meant to end it."""
        self.ended_by_test = True
        self.process.send_signal(number)

    def wait(self, timeout: float = STOP_SECONDS) -> int:
        """The exit status, negative for a signal."""
        self.ended_by_test = True
        return self.process.wait(timeout=timeout)

    def stop(self) -> None:
        """End the daemon, by force if need be."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=STOP_SECONDS)
        self.process.kill()
        self.process.wait()
        self.hang_up()

    # API socket

    def request_raw(self, request: bytes, timeout: float = 10.0) -> bytes:
        """One exchange on the API socket, octets as they are."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(timeout)
            client.connect(str(self.api_path))
            with contextlib.suppress(BrokenPipeError):  # it may refuse before it has read all
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: client.recv(65536), b""))

    def request(self, execute: str, **arguments: Any) -> dict[str, Any]:
        """One command; its reply, or ApiError."""
        body: dict[str, Any] = {"execute": execute}
        if arguments:
            body["arguments"] = arguments
        reply = json.loads(self.request_raw(json.dumps(body).encode()))
        if "error" in reply:
            raise ApiError(reply["error"]["desc"])
        return dict(reply)

    def forward(self, proto: str, host_port: int, guest_port: int, **more: Any) -> int:
        """add_hostfwd; the id of the new forward."""
        reply = self.request(
            "add_hostfwd", proto=proto, host_port=host_port, guest_port=guest_port, **more
        )
        return int(reply["return"]["id"])


class Pasta:
    """passt's pasta, attached to a guest: the peer of the benchmark."""

    def __init__(self, bed: Topology, guest: Guest, *options: str) -> None:
        pid_path = bed.workdir / f"pasta-{next(_serial)}.pid"
        argv = [
            *bed.host_command(),
            *("pasta", "--config-net", "--quiet", "--ns-ifname", "tap0", "--pid", str(pid_path)),
            "--no-map-gw",  # our gateway is the remote itself: do not let it stand for the host
            *options,
            str(guest.pid),
        ]
        started = time.monotonic()
        # It goes to the background when it is ready: the end of this command is its ready signal.
        done = subprocess.run(
            argv, cwd="/", check=False, capture_output=True, text=True, timeout=READY_SECONDS
        )
        self.ready_seconds = time.monotonic() - started
        if done.returncode != 0:
            raise AssertionError(f"pasta: {done.stderr}")
        self.pid = int(pid_path.read_text())

    def stop(self) -> None:
        """End it: it is no child of ours, so all we can do is ask."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
