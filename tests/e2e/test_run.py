"""`pyslirp run -- CMD`: namespaces, network and name service for one command."""

from __future__ import annotations

import pathlib
import signal
import socket
import subprocess
import time
from typing import Any

import pytest

from lab.daemons import default_command
from lab.servers import TRANSFER_BYTES, DnsServer, digest_of, receive_digest, serve, serve_http
from lab.topology import REMOTE, SUPERUSER, Topology, User

pytestmark = pytest.mark.beyond
OTHER_CONNECTIONS = 50
RUN_SECONDS = 60


def command(bed: Topology, *argv: str, user: User | None = None) -> list[str]:
    """The command line of `pyslirp run ARGV…` on the host."""
    return [*bed.host_command(user), *default_command(), "run", *argv]


def run(bed: Topology, *argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`pyslirp run ARGV…` to its end."""
    settings: dict[str, Any] = {"cwd": "/", **options}
    if "input" not in settings:
        settings["stdin"] = subprocess.DEVNULL
    user = settings.pop("user", None)
    return subprocess.run(
        command(bed, *argv, user=user),
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
        **settings,
    )


def children(pid: int) -> list[int]:
    """The child processes of `pid`."""
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent to notice its end does not."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


# Status and streams


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_exit_status_is_the_commands(bed: Topology, status: int) -> None:
    assert run(bed, "--", "sh", "-c", f"exit {status}").returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_death_by_signal_is_128_more(bed: Topology, number: int) -> None:
    assert run(bed, "--", "sh", "-c", f"kill -{number} $$").returncode == 128 + number


def test_command_that_is_not_there(bed: Topology) -> None:
    done = run(bed, "--", "no-such-command", env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"})
    assert done.returncode == 127
    assert "no-such-command" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_command_that_cannot_be_run(bed: Topology) -> None:
    done = run(bed, "--", "/etc/hostname")
    assert done.returncode == 126
    assert len(done.stderr.strip().splitlines()) == 1


def test_streams_are_the_callers(bed: Topology) -> None:
    script = "tr a-z A-Z; echo problem >&2"
    done = run(bed, "--", "sh", "-c", script, input="hello")
    assert done.stdout == "HELLO"
    assert done.stderr == "problem\n"


def test_arguments_and_environment_arrive_unchanged(bed: Topology) -> None:
    script = 'printf "%s|" "$@" "$FLAVOUR"'
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "FLAVOUR": "salt & pepper"}
    done = run(bed, "--", "sh", "-c", script, "sh", "a b", "", "-c", "--mtu=9", env=environment)
    assert done.stdout == "a b||-c|--mtu=9|salt & pepper|"


def test_working_directory_is_kept(bed: Topology) -> None:
    path = bed.workdir / "here"
    path.mkdir(exist_ok=True)
    path.chmod(0o755)
    done = subprocess.run(
        [*bed.host.enter, "sh", "-c", f'cd {path} && exec "$@"', "sh", *bed.user.become,
         *default_command(), "run", "--", "pwd"],
        capture_output=True, text=True, check=False, timeout=RUN_SECONDS,
    )  # fmt: skip
    assert done.stdout.strip() == str(path)


@pytest.mark.parametrize("option", ["--mtu=99999", "--cidr=1.2.3.4/99", "--no-such-option"])
def test_bad_option_runs_nothing(bed: Topology, option: str) -> None:
    done = run(bed, option, "--", "true")
    assert done.returncode not in (0, 126, 127)
    assert done.stderr
    assert "Traceback" not in done.stderr


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_is_passed_on(bed: Topology, number: int) -> None:
    script = "trap 'echo caught; exit 7' TERM HUP INT; echo ready; while :; do sleep 0.05; done"
    process = subprocess.Popen(
        command(bed, "--", "sh", "-c", script), stdout=subprocess.PIPE, text=True, cwd="/"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=10)
    assert process.returncode == 7
    assert output == "caught\n"


def test_command_dies_with_the_daemon(bed: Topology) -> None:
    process = subprocess.Popen(
        command(bed, "--", "sh", "-c", "echo $$; exec sleep 1000"),
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    assert process.stdout is not None
    inner = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 3
    while is_alive(inner) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(inner)


# What the command finds


def test_network_is_configured(bed: Topology) -> None:
    script = "id -u; ip -4 -o addr show dev tap0; ip route; cat /etc/resolv.conf"
    lines = run(bed, "--", "sh", "-c", script).stdout
    assert lines.startswith("0\n")
    assert "10.0.2.100/24" in lines
    assert "default via 10.0.2.2 dev tap0" in lines
    assert "nameserver 10.0.2.3" in lines


def test_resolver_of_the_host_is_not_touched(bed: Topology) -> None:
    before = bed.host.run("cat", "/etc/resolv.conf").stdout
    assert run(bed, "--", "grep", "-q", "10.0.2.3", "/etc/resolv.conf").returncode == 0
    assert bed.host.run("cat", "/etc/resolv.conf").stdout == before


def test_options_take_effect(bed: Topology) -> None:
    script = "ip link show tap0; ip -4 addr; cat /etc/resolv.conf"
    shown = run(bed, "--mtu=4000", "--cidr=10.77.0.0/24", "--", "sh", "-c", script).stdout
    assert "mtu 4000" in shown
    assert "10.77.0.100/24" in shown
    assert "nameserver 10.77.0.3" in shown


def test_names_and_hosts_are_reached(bed: Topology, dns: DnsServer) -> None:
    with serve_http(bed.remote.listen(), 5000) as port:
        script = (
            f"curl -sS http://remote.test:{port}/ | wc -c; ping -c1 10.0.2.2; ping -c1 {REMOTE}"
        )
        shown = run(bed, "--", "sh", "-c", script).stdout
    assert shown.startswith("5000\n")
    assert shown.count(" 0% packet loss") == 2


@pytest.mark.parametrize("mtu", [1500, 65520])
def test_file_there_and_back_beside_open_connections(bed: Topology, mtu: int) -> None:
    """Fetch it and hash it, fetch it again straight into an upload that the server hashes."""
    opened: list[socket.socket] = []

    def hold(client: socket.socket) -> None:
        opened.append(client)
        receive_digest(client)  # until the command ends

    with (
        serve_http(bed.remote.listen(), TRANSFER_BYTES) as port,
        serve(bed.remote.listen(), hold) as holding_port,
    ):
        url = f"http://{REMOTE}:{port}/file"
        script = f"""
            for i in $(seq {OTHER_CONNECTIONS}); do
                sleep 1000 | nc {REMOTE} {holding_port} >/dev/null 2>&1 &
            done
            curl -sS {url} | sha256sum | cut -d' ' -f1
            put="-T - -H Transfer-Encoding: -H Content-Length:{TRANSFER_BYTES}"
            curl -sS {url} | curl -sS $put {url}
            trap "" TERM
            kill 0
        """
        shown = run(bed, f"--mtu={mtu}", "--", "setsid", "-w", "bash", "-c", script)
    assert shown.returncode == 0
    assert shown.stdout.split() == [digest_of(TRANSFER_BYTES)] * 2
    assert len(opened) == OTHER_CONNECTIONS


def test_run_by_root(bed: Topology) -> None:
    with serve_http(bed.remote.listen(), 5000) as port:
        script = f"curl -sS http://{REMOTE}:{port}/ | wc -c"
        done = run(bed, "--", "sh", "-c", script, user=SUPERUSER)
    assert (done.returncode, done.stdout.strip()) == (0, "5000")


def test_nothing_is_left_behind(bed: Topology) -> None:
    process = subprocess.Popen(
        command(bed, "--", "sh", "-c", "echo ready; read line"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    inner = children(process.pid)
    assert inner
    process.stdin.write("\n")
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    assert not any(is_alive(pid) for pid in inner)
