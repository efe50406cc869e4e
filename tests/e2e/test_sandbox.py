"""Confinement: what a process that is shut in as the daemon is can and cannot do, layer by layer.

lab.confined goes through the daemon's own code and then tries one thing; the daemon itself is
looked at from outside.
"""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from lab import confined
from lab.daemons import Slirp, default_command
from lab.servers import DNS_PORT, DnsServer, echo, receive_exactly, serve
from lab.topology import REMOTE, REMOTE_SECOND, SUPERUSER, Guest, Topology, User

Attach = Callable[..., Slirp]
pytestmark = pytest.mark.beyond
CAP_NET_BIND_SERVICE = 1 << 10


class Cell:
    """Runs lab.confined in one of the situations that a daemon is launched in."""

    def __init__(self, prefix: list[str]) -> None:
        self.prefix = prefix
        self.output = ""

    def attempt(self, what: str, *options: str) -> str:
        """What became of it: "done", an errno's name, the call that was filtered, or the
        signal that ended it.
        """
        done = subprocess.run(
            [*self.prefix, sys.executable, "-P", confined.__file__, what, *options],
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            env={"PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.output = done.stdout + done.stderr
        said = done.stdout.split()
        assert "ready" in said, self.output
        if said[-1] != "ready":
            return said[-1]
        line = re.search(
            r"^pyslirp: system call \d+ (\(.*\)) is not allowed: the end$", done.stderr, re.M
        )
        if done.returncode == -signal.SIGSYS and line is not None:
            return line[1]
        return signal.Signals(-done.returncode).name


SITUATIONS = ("ordinary", "podman", "root")


@pytest.fixture(params=SITUATIONS)
def cell(request: pytest.FixtureRequest, bed: Topology) -> Iterator[Cell]:
    """An ordinary user, root of a user namespace as under Podman, and root itself."""
    guest = bed.guest()
    prefixes = {
        "ordinary": bed.host_command(),
        "root": bed.host_command(SUPERUSER),
        "podman": [
            *bed.host_command(),
            *("nsenter", f"--target={guest.pid}", "--user", "--preserve-credentials", "--"),
            *("unshare", "--mount"),
        ],
    }
    yield Cell(prefixes[request.param])
    bed.release(guest)


NEEDED = (
    "nothing read-resolv-conf import-late start-thread use-memory fail-loudly signal-self tcp udp "
    "ping"
)


@pytest.mark.parametrize("what", NEEDED.split())
def test_what_it_needs_works(cell: Cell, what: str) -> None:
    assert cell.attempt(what) == "done"
    assert "WARNING" not in cell.output, "every layer must be in force on the test machine"


def test_abort_is_seen_as_one(cell: Cell) -> None:
    assert cell.attempt("abort") == "SIGABRT"


NO_FILES = "read-system read-home list-root read-proc read-device"


@pytest.mark.parametrize("what", NO_FILES.split())
def test_files_are_not_there(cell: Cell, what: str) -> None:
    """The empty root comes first, and Landlock alone does it too."""
    assert cell.attempt(what) == "ENOENT"
    assert cell.attempt(what, "--no-seccomp", "without=landlock") == "ENOENT"
    assert cell.attempt(what, "--no-seccomp", "without=namespaces") == "EACCES"


@pytest.mark.parametrize("what", ["write", "write-tmp"])
def test_nothing_is_written(cell: Cell, what: str) -> None:
    assert cell.attempt(what) == "EROFS"
    assert cell.attempt(what, "without=namespaces", "without=landlock") == "EROFS"
    assert cell.attempt(what, "--no-seccomp") in ("EROFS", "EACCES", "ENOENT")
    assert cell.attempt(what, "--no-seccomp", "without=namespaces") == "EACCES"


FORBIDDEN = {
    "exec": "execve",
    "fork": "clone",
    "ptrace": "ptrace",
    "read-memory": "process_vm_readv",
    "signal": "kill",
    "signal-all": "kill",
    "make-directory": "unknown",
    "user-namespace": "unshare",
    "mount-namespace": "unshare",
    "network-namespace": "unshare",
    "mount": "mount",
    "unmount": "umount2",
    "raw": "socket",
    "packet": "socket",
    "netlink": "socket",
    "unix": "socket",
    "vsock": "socket",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_call_is_filtered(cell: Cell, what: str) -> None:
    """The end, and one line that names the call."""
    assert cell.attempt(what) == f"({FORBIDDEN[what]})"
    assert cell.attempt(what, "--no-sandbox", "early") == f"({FORBIDDEN[what]})"
    assert len([line for line in cell.output.splitlines() if line.startswith("pyslirp: ")]) == 1


@pytest.mark.parametrize(
    ("what", "refusal"),
    [
        ("exec", "ENOENT"),
        ("mount-namespace", "EPERM"),
        ("network-namespace", "EPERM"),
        ("mount", "EPERM"),
        ("unmount", "EPERM"),
        ("ptrace", "EPERM"),
        ("signal", "EPERM"),
        ("packet", "EPERM"),
        ("raw", "EPERM"),
        ("connect-abstract", "EPERM"),
    ],
)
def test_without_the_filter_the_sandbox_holds(cell: Cell, what: str, refusal: str) -> None:
    """No capabilities, an empty root, and Landlock's scopes."""
    assert cell.attempt(what, "--no-seccomp") == refusal


def test_abstract_sockets_are_out_of_reach(cell: Cell) -> None:
    assert cell.attempt("connect-abstract") == "EPERM"
    assert cell.attempt("connect-abstract", "without=landlock") == "done"


def test_code_is_mapped_until_everything_is_imported(cell: Cell) -> None:
    assert cell.attempt("map-code", "early") == "done"
    assert cell.attempt("map-code") == "EPERM"


def test_limits_stay(cell: Cell) -> None:
    assert cell.attempt("set-limit") == "EPERM"


@pytest.mark.parametrize("layer", ["namespaces", "landlock"])
def test_missing_layer_is_named_in_one_line(cell: Cell, layer: str) -> None:
    assert cell.attempt("nothing", f"without={layer}") == "done"
    names = {"namespaces": "mount namespace", "landlock": "Landlock"}
    text = f"a part of the sandbox: {names[layer]} (Function not implemented)"
    assert cell.output.count("WARNING") == 1
    assert text in cell.output


# The daemon itself


def status(pid: int) -> dict[str, str]:
    """What /proc says of a process."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def threads_are_confined(pid: int) -> bool:
    """Every thread, under the filter at least once."""
    tasks = os.listdir(f"/proc/{pid}/task")
    return all(
        (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
        for found in (status(int(task)) for task in tasks)
    )


@pytest.mark.parametrize("user", [None, SUPERUSER], ids=["ordinary", "root"])
def test_daemon_is_confined_when_it_is_ready(
    bed: Topology, attach: Attach, user: User | None
) -> None:
    net = attach("--require-sandbox", api=True, user=user)
    assert threads_are_confined(net.pid)
    found = status(net.pid)
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert int(found[name], 16) & ~CAP_NET_BIND_SERVICE == 0
    if user is None:
        ours, host = (os.readlink(f"/proc/{pid}/ns/user") for pid in (net.pid, bed.host.pid))
        assert ours != host, "where no capability is worth anything outside"
    for kind in ("mnt", "ipc", "uts"):
        ours = os.readlink(f"/proc/{bed.host.pid}/ns/{kind}")
        assert os.readlink(f"/proc/{net.pid}/ns/{kind}") != ours
    assert os.readlink(f"/proc/{net.pid}/ns/net") == os.readlink(f"/proc/{bed.host.pid}/ns/net")
    root = pathlib.Path(f"/proc/{net.pid}/root")
    places = {"etc", "lib", "lib64", "python", "run", "tmp", "usr"}
    assert {"etc", "run"} <= set(os.listdir(root)) <= places
    assert not (root / "proc").exists()


def test_filter_is_tightened_when_the_loop_runs(attach: Attach) -> None:
    net = attach(api=True)
    net.request("list_hostfwd")  # it is the loop that answers
    tasks = os.listdir(f"/proc/{net.pid}/task")
    assert {status(int(task))["Seccomp_filters"] for task in tasks} == {"2"}


def test_no_sandbox_and_no_seccomp_are_loud(bed: Topology, attach: Attach) -> None:
    net = attach("--no-sandbox", "--no-seccomp")
    assert "WARNING: --no-sandbox: " in net.output
    assert "WARNING: --no-seccomp: " in net.output
    assert (status(net.pid)["Seccomp"], status(net.pid)["NoNewPrivs"]) == ("0", "0")


def test_enabled_explicitly_is_silent(attach: Attach) -> None:
    net = attach("--enable-sandbox", "--enable-seccomp", "--disable-host-loopback")
    assert "WARNING" not in net.output


def without_unshare() -> list[str]:
    """The prefix that runs a program on a system where unshare() is refused, as some containers."""
    script = """
import os, struct, sys
from slirp.core import confine
number = confine.call_numbers()["unshare"]
program = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (6, 0, 0, 0x50001), (6, 0, 0, 0x7fff0000)]
confine.set_no_new_privs()
confine.filter_calls(b"".join(struct.pack("=HBBI", *line) for line in program))
os.execv(sys.argv[1], sys.argv[1:])
"""
    return [sys.executable, "-P", "-c", script, *default_command()]


def test_refused_layer_is_told_and_done_without(bed: Topology, attach: Attach) -> None:
    net = attach(command=without_unshare())
    text = "WARNING: this system refuses a part of the sandbox: mount namespace (Operation not"
    assert net.output.count(text) == 1
    with serve(bed.remote.listen(), echo) as port, net.guest.connect(REMOTE, port) as client:
        client.sendall(b"alive")
        assert receive_exactly(client, 5) == b"alive"


def test_refused_layer_is_an_error_where_it_is_required(bed: Topology, attach: Attach) -> None:
    net = attach("--require-sandbox", command=without_unshare(), wait=False)
    assert net.wait(10) == 1
    assert net.output.splitlines()[-1] == (
        "pyslirp: this system refuses a part of the sandbox: "
        "mount namespace (Operation not permitted)"
    )


def test_it_dies_with_its_parent(bed: Topology, attach: Attach) -> None:
    """RootlessKit's arrangement, which a change of credentials would undo."""
    guest = bed.guest()
    script = 'setpriv --pdeathsig=KILL "$@" & echo $!; wait'
    net = attach(command=["sh", "-c", script, "sh", *default_command()], guest=guest)
    pid = int(net.output.splitlines()[0])
    assert status(pid)["Seccomp"] == "2"
    net.send_signal(signal.SIGKILL)
    net.wait()
    deadline = time.monotonic() + 10
    while pathlib.Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not pathlib.Path(f"/proc/{pid}").exists()


# What must still be readable


@pytest.fixture
def two_servers(bed: Topology, dns: DnsServer) -> Iterator[None]:
    """A second name server, which knows second.test."""
    datagrams = bed.remote.bind_udp(REMOTE_SECOND, DNS_PORT)
    listener = bed.remote.listen(REMOTE_SECOND, DNS_PORT)
    with DnsServer(datagrams, listener, {"second.test": "192.0.2.2"}).running():
        yield


def resolves(guest: Guest, name: str) -> bool:
    """Whether the guest's DNS knows `name`."""
    options = ("+short", "+tries=1", "+time=2")
    done = guest.run("dig", "@10.0.2.3", *options, name, check=False)
    return done.stdout.startswith("192.0.2.")


def replace(path: pathlib.Path, server: str) -> None:
    """What NetworkManager and systemd-resolved do: a new file takes the old one's name."""
    fresh = path.with_suffix(".new")
    fresh.write_text(f"nameserver {server}\n")
    fresh.chmod(0o644)
    fresh.rename(path)


LAYOUTS = {
    "file": None,
    "systemd-resolved": "../run/systemd/resolve/stub-resolv.conf",
    "NetworkManager": "/var/run/NetworkManager/resolv.conf",
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_resolv_conf_is_followed_through_links_and_replacements(
    bed: Topology, attach: Attach, two_servers: None, layout: str
) -> None:
    home = bed.workdir / f"layout-{layout}"
    target = LAYOUTS[layout]
    for name in ("etc", "run/systemd/resolve", "run/NetworkManager"):
        (home / name).mkdir(parents=True)
    link = home / "etc" / "resolv.conf"
    path = link
    if target is not None:
        link.symlink_to(target)
        path = home / "run" / target.partition("run/")[2]
    replace(path, REMOTE)
    script = (
        f"umount /etc/resolv.conf; mount --rbind {home}/etc /etc; mount --rbind {home}/run /run; "
        'exec "$@"'
    )
    become = ("unshare", "--mount", "sh", "-c", script, "sh", *bed.user.become)
    net = attach("--require-sandbox", user=User(bed.user.uid, become), guest=bed.guest())
    assert resolves(net.guest, "example.test")
    replace(path, REMOTE_SECOND)
    time.sleep(1.1)  # it is looked at once a second
    assert resolves(net.guest, "second.test")
    if target is not None:  # somebody takes over and puts a file in the link's place
        replace(link, REMOTE)
        time.sleep(1.1)
        assert resolves(net.guest, "example.test")


def test_api_sockets_file_goes_with_the_daemon(attach: Attach) -> None:
    net = attach(api=True)
    assert net.api_path is not None
    net.request("list_hostfwd")
    net.hang_up()
    assert net.wait() == 0
    assert not net.api_path.exists()


def test_guest_cannot_use_the_api(bed: Topology, net: Slirp) -> None:
    """It is the same user, and it sees the same file."""
    ask = f'nc.openbsd -NU {net.api_path} <<<\'{{"execute": "list_hostfwd"}}\''
    reply = net.guest.run("bash", "-c", ask).stdout
    assert reply == '{"error":{"desc":"not allowed: the guest itself"}}'


def test_other_users_cannot_use_the_api_whatever_its_mode(bed: Topology, net: Slirp) -> None:
    assert net.api_path is not None
    bed.workdir.chmod(0o755)
    net.api_path.chmod(0o666)
    ask = f'nc.openbsd -NU {net.api_path} <<<\'{{"execute": "list_hostfwd"}}\''
    other = User(
        bed.user.uid + 2000,
        tuple(
            word.replace(str(bed.user.uid), str(bed.user.uid + 2000)) for word in bed.user.become
        ),
    )
    done = subprocess.run(
        [*bed.host_command(other), "bash", "-c", ask], capture_output=True, text=True, check=False
    )
    assert done.stdout == '{"error":{"desc":"not allowed: another user"}}'
