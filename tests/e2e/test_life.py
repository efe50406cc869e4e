"""Beginning and end: ready fd, exit fd, signals, the target's end, what the caller leaves us."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import pytest

from lab.daemons import Slirp, default_command, usage
from lab.namespaces import owns_all_ids
from lab.servers import echo, receive_exactly, serve
from lab.topology import REMOTE, SUPERUSER, Topology

Attach = Callable[..., Slirp]
MAX_RSS_BYTES = 30 << 20


def assert_connected(bed: Topology, net: Slirp) -> None:
    """One exchange between guest and remote."""
    with serve(bed.remote.listen(), echo) as port, net.guest.connect(REMOTE, port) as client:
        client.sendall(b"alive")
        assert receive_exactly(client, 5) == b"alive"


# Ready


def test_ready_means_that_packets_flow_and_the_api_listens(bed: Topology, attach: Attach) -> None:
    with bed.remote.listen() as listener:
        port = listener.getsockname()[1]
        net = attach(api=True)  # returns as soon as the ready byte has come
        started = time.monotonic()
        net.request("list_hostfwd")
        net.guest.connect(REMOTE, port, timeout=2).close()
        assert time.monotonic() - started < 1
    assert net.ready_byte == b"1"
    assert net.guest.addresses() == ["10.0.2.100/24"]


def test_ready_fd_holds_one_byte_and_is_closed(bed: Topology, attach: Attach) -> None:
    read_end, write_end = os.pipe()
    guest = bed.guest()
    argv = [*bed.host_command(), *default_command(), "-c", "-r", str(write_end)]
    daemon = subprocess.Popen([*argv, str(guest.pid), "tap0"], pass_fds=(write_end,))
    os.close(write_end)
    try:
        with os.fdopen(read_end, "rb") as ready:
            assert ready.read() == b"1"  # to the end of file
        assert daemon.poll() is None
    finally:
        daemon.terminate()
        daemon.wait()
        bed.release(guest)


def test_failed_start_leaves_the_ready_fd_silent(attach: Attach) -> None:
    with pytest.raises(AssertionError, match=r"not ready \(b''\)"):
        attach(target=("999999999", "tap0"))


def test_resident_memory(bed: Topology, net: Slirp) -> None:
    assert_connected(bed, net)
    time.sleep(0.5)
    assert usage(net.pid).pss_bytes < MAX_RSS_BYTES


# End


def test_exit_fd_that_hangs_up_ends_it(net: Slirp) -> None:
    net.hang_up()
    assert net.wait(2) == 0


def test_exit_fd_at_once(attach: Attach) -> None:
    net = attach(wait=False)
    net.hang_up()
    assert net.wait(5) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("settle_seconds", [0.0, 0.5])
def test_signal_ends_it(attach: Attach, number: int, settle_seconds: float) -> None:
    net = attach(api=True)
    time.sleep(settle_seconds)
    net.send_signal(number)
    assert net.wait(2) in (0, -number, 128 + number)


def test_end_frees_the_interface_for_the_next(bed: Topology, attach: Attach) -> None:
    guest = bed.guest()
    for _ in range(3):
        net = attach(guest=guest) if _ == 2 else Slirp(bed, guest)
        assert_connected(bed, net)
        net.hang_up()
        assert net.wait(2) == 0
    assert "tap0" not in guest.run("ip", "link").stdout


@pytest.mark.beyond
def test_target_that_ends_ends_it(attach: Attach) -> None:
    net = attach()
    net.guest.close()
    assert net.wait(5) == 0


@pytest.mark.beyond
def test_idle_daemon_uses_no_cpu(net: Slirp) -> None:
    time.sleep(1)
    before = usage(net.pid).cpu_seconds
    time.sleep(2)
    assert usage(net.pid).cpu_seconds - before <= 0.02


# What the caller leaves us

CLOSED_STREAMS = (
    "import os, sys\n"
    "for fd in map(int, sys.argv[1].split(',')): os.close(fd)\n"
    "os.execvp(sys.argv[2], sys.argv[2:])\n"
)


@pytest.mark.parametrize("closed", ["0", "1", "2", "0,1,2"])
def test_closed_standard_streams(bed: Topology, attach: Attach, closed: str) -> None:
    command = [sys.executable, "-c", CLOSED_STREAMS, closed, *default_command()]
    if bed.user.uid and not _reachable(sys.executable, bed):
        command[0] = "/usr/bin/python3"
    assert_connected(bed, attach(command=command, api=True))


def _reachable(program: str, bed: Topology) -> bool:
    tried = subprocess.run(
        [*bed.user.become, program, "-c", ""], capture_output=True, check=False, cwd="/"
    )
    return tried.returncode == 0


def test_empty_environment(bed: Topology, attach: Attach) -> None:
    # nsenter and setpriv still need a PATH; env(1) then takes everything away.
    path = _which(default_command())
    assert_connected(bed, attach(command=["env", "-i", *path], api=True))


@pytest.mark.parametrize(
    "setting",
    [
        *("PYTHONDEVMODE=1", "PYTHONINSPECT=1", "PYTHONMALLOC=debug", "PYTHONOPTIMIZE=2"),
        *("PYTHONWARNINGS=error", "PYTHONPROFILEIMPORTTIME=1", "PYTHONSAFEPATH=1"),
        *("PYTHONPATH=/nonexistent", "PYTHONIOENCODING=ascii", "LC_ALL=xx_YY.nothing"),
        *("_CONTAINERS_USERNS_CONFIGURED=done", "LISTEN_FDS=1", "NOTIFY_SOCKET=/nonexistent"),
    ],
)
def test_environment_of_the_caller(bed: Topology, attach: Attach, setting: str) -> None:
    command = ["env", setting, *_which(default_command())]
    net = attach(command=command, api=True)
    assert_connected(bed, net)
    net.request("list_hostfwd")
    net.hang_up()
    assert net.wait() == 0


def _which(command: Sequence[str]) -> list[str]:
    return [shutil.which(command[0]) or command[0], *command[1:]]


def test_working_directory_that_is_gone(bed: Topology, attach: Attach) -> None:
    lost = bed.workdir / "lost"
    lost.mkdir()
    script = f'cd {lost} && rmdir {lost} && exec "$@"'
    lost.chmod(0o777)
    command = ["sh", "-c", script, "sh", *default_command()]
    assert_connected(bed, attach(command=command))


@pytest.mark.skipif(not owns_all_ids(), reason="no other user is mapped here")
def test_working_directory_that_is_closed_to_us(bed: Topology, attach: Attach) -> None:
    private = bed.workdir / "private"
    private.mkdir(mode=0o700)
    # nsenter changes to the root directory: it is root's shell that goes there, and setpriv next.
    enter = ["sh", "-c", f'cd {private} && exec "$@"', "sh"]
    become, guest = bed.user.become, bed.guest()
    command = [*enter, *become, *default_command()]
    assert_connected(bed, attach(command=command, guest=guest, user=SUPERUSER))
    private.rmdir()


def test_output_that_nobody_reads(bed: Topology, attach: Attach) -> None:
    read_end, write_end = os.pipe()
    net = attach(stdout=write_end, stderr=write_end, api=True)
    os.close(write_end)
    os.close(read_end)
    net.request("list_hostfwd")
    assert_connected(bed, net)
    time.sleep(0.2)
    net.process.send_signal(signal.SIGUSR1)  # more to say, and still nobody there
    net.request("list_hostfwd")
    assert_connected(bed, net)


def test_other_file_descriptors_of_the_caller_do_no_harm(bed: Topology, attach: Attach) -> None:
    with open("/dev/null", "rb") as a, open("/dev/zero", "rb") as b:
        high = os.dup2(a.fileno(), 200)
        net = attach(pass_fds=(a.fileno(), b.fileno(), high), api=True)
        os.close(high)
    assert_connected(bed, net)


def test_another_name_for_the_program(bed: Topology, attach: Attach) -> None:
    link = bed.workdir / "slirp4netns"
    link.unlink(missing_ok=True)
    link.symlink_to(_which(default_command())[0])
    net = attach(command=[str(link), *default_command()[1:]])
    assert_connected(bed, net)


def test_run_by_root_for_a_users_namespace(bed: Topology, attach: Attach) -> None:
    if bed.user.uid == 0:
        pytest.skip("no other user is mapped here")
    guest = bed.guest()
    net = attach(guest=guest, user=SUPERUSER)
    assert_connected(bed, net)


def test_run_by_root_for_roots_namespace(bed: Topology, attach: Attach) -> None:
    assert_connected(bed, attach(user=SUPERUSER, api=True))
