"""Bad input: one clear line on stderr, a status other than 0, and never a traceback."""

from __future__ import annotations

import subprocess

import pytest

from lab.daemons import default_command
from lab.topology import Guest, Topology

pytestmark = pytest.mark.beyond
RUN_SECONDS = 10


Done = subprocess.CompletedProcess[str]


def invoke(bed: Topology, *argv: str) -> Done:
    """Run the program as the ordinary user on the host, to its end."""
    return subprocess.run(
        [*bed.host_command(), *default_command(), *argv],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
        cwd="/",
        stdin=subprocess.DEVNULL,
    )


def assert_one_line(done: Done, *words: str) -> None:
    """It failed with one line that holds all of `words`."""
    assert done.returncode not in (0, None)
    assert done.returncode > 0, f"killed by a signal: {done.returncode}"
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stdout
    for word in words:
        assert word.lower() in lines[0].lower(), lines[0]


@pytest.mark.parametrize("cidr", [
    "10.0.2.0", "10.0.2.0/33", "10.0.2.0/26", "10.0.2.0/0", "10.0.2.5/24", "300.0.2.0/24",
    "10.0.2/24", "fd00::/64", "/24", "", "10.0.2.0/x", "10.0.2.0/-1",
])  # fmt: skip
def test_wrong_cidr(bed: Topology, cidr: str) -> None:
    assert_one_line(invoke(bed, "-c", f"--cidr={cidr}", "1", "tap0"))


@pytest.mark.parametrize("mtu", ["65522", "0", "-1", "abc", "", "1e3", "99999999999999999999"])
def test_wrong_mtu(bed: Topology, mtu: str) -> None:
    assert_one_line(invoke(bed, "-c", f"--mtu={mtu}", "1", "tap0"), "mtu")


@pytest.mark.parametrize("pid", ["999999999", "0", "-5", "abc", "", "1x", "99999999999999999999"])
def test_no_such_process(bed: Topology, pid: str) -> None:
    assert_one_line(invoke(bed, "-c", "--", pid, "tap0"))


def test_process_of_somebody_else(bed: Topology) -> None:
    if bed.user.uid == 0:
        pytest.skip("no other user is mapped here")
    assert_one_line(invoke(bed, "-c", "1", "tap0"))


@pytest.mark.parametrize("path", ["/nowhere/netns", "/dev/null", "/", "/etc/hostname", ""])
def test_path_that_is_no_network_namespace(bed: Topology, path: str) -> None:
    assert_one_line(invoke(bed, "-c", "--netns-type=path", path, "tap0"))


def test_path_to_another_kind_of_namespace(bed: Topology) -> None:
    guest = bed.guest()
    path = f"/proc/{guest.pid}/ns/uts"
    done = invoke(bed, "-c", "--netns-type=path", f"--userns-path=/proc/{guest.pid}/ns/user", path)
    bed.release(guest)
    assert_one_line(done)


@pytest.mark.parametrize("name", ["name-is-too-long", "", "a/b", "with space", "..", "tap%d%d"])
def test_impossible_interface_name(bed: Topology, name: str) -> None:
    guest = bed.guest()
    done = invoke(bed, "-c", str(guest.pid), name)
    bed.release(guest)
    assert_one_line(done)


def test_interface_in_use(bed: Topology) -> None:
    guest = bed.guest()
    guest.run("ip", "link", "add", "tap0", "type", "dummy", check=False)
    guest.run("ip", "link", "add", "tap0", "type", "veth", check=False)
    done = invoke(bed, "-c", str(guest.pid), "tap0")
    bed.release(guest)
    assert_one_line(done, "tap0")


@pytest.mark.parametrize(
    "mac", ["", "1", "00:11:22:33:44", "00:11:22:33:44:gg", "01:00:5e:00:00:01"]
)
def test_wrong_mac(bed: Topology, mac: str) -> None:
    assert_one_line(invoke(bed, "-c", f"--macaddress={mac}", "1", "tap0"), "mac")


@pytest.mark.parametrize("option", ["--ready-fd", "--exit-fd"])
@pytest.mark.parametrize("fd", ["77", "-1", "x", ""])
def test_wrong_fd(bed: Topology, option: str, fd: str) -> None:
    guest = bed.guest()
    done = invoke(bed, "-c", f"{option}={fd}", str(guest.pid), "tap0")
    bed.release(guest)
    assert_one_line(done)


@pytest.mark.parametrize("fd", ["0", "77", "x"])
def test_fd_that_is_no_tap(bed: Topology, fd: str) -> None:
    assert_one_line(invoke(bed, "--netns-type=tapfd", fd))


@pytest.mark.parametrize(
    "argv",
    [("--netns-type=nonsense", "1"), ("--userns-path=/nowhere", "--netns-type=path", "/x", "tap0")],
    ids=" ".join,
)
def test_wrong_target_options(bed: Topology, argv: tuple[str, ...]) -> None:
    assert_one_line(invoke(bed, *argv))


@pytest.mark.parametrize("option", ["--no-such-option", "-Z", "--disable", "--mtu"])
def test_wrong_option_is_a_usage_error(bed: Topology, option: str) -> None:
    done = invoke(bed, option)
    assert done.returncode == 1
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_no_argument_is_a_usage_error(bed: Topology) -> None:
    done = invoke(bed)
    assert done.returncode == 1
    assert "Usage" in done.stdout + done.stderr


def test_missing_interface_name_is_a_usage_error(bed: Topology) -> None:
    done = invoke(bed, "-c", "1")
    assert done.returncode == 1
    assert "TAPNAME" in done.stderr


@pytest.mark.parametrize("mtu", ["1", "67", "68", "256", "575"])
def test_tiny_mtu_is_refused_in_one_line_or_works(bed: Topology, mtu: str) -> None:
    guest = bed.guest()
    with subprocess.Popen(
        [*bed.host_command(), *default_command(), "-c", f"--mtu={mtu}", str(guest.pid), "tap0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
    ) as daemon:
        try:
            _, errors = daemon.communicate(timeout=1)
        except subprocess.TimeoutExpired:
            assert f"mtu {mtu} " in guest.run("ip", "link", "show", "tap0").stdout
            daemon.terminate()
        else:
            assert_one_line(subprocess.CompletedProcess([], daemon.returncode, "", errors), "mtu")
    bed.release(guest)


def test_no_access_to_the_tun_device(bed: Topology) -> None:
    if bed.user.uid == 0:
        pytest.skip("root of a user namespace cannot change a device node")
    guest: Guest = bed.guest()
    script = 'mount -t tmpfs none /dev/net && mknod -m 600 /dev/net/tun c 10 200 && exec "$@"'
    argv = [
        *bed.host.enter,
        *("unshare", "--mount", "sh", "-c", script, "sh", *bed.user.become),
        *(*default_command(), "-c", str(guest.pid), "tap0"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    bed.release(guest)
    assert_one_line(done, "/dev/net/tun")
    run = [*argv[: argv.index("-c", argv.index("sh") + 2)], "run", "--", "true"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert_one_line(done, "/dev/net/tun")


# Help


def test_help_and_version_go_to_stdout(bed: Topology) -> None:
    for option in ("-h", "--help"):
        done = invoke(bed, option)
        assert (done.returncode, done.stderr) == (0, "")
        for word in (
            *("--netns-type", "--cidr", "--mtu", "--disable-host-loopback", "--enable-ipv6"),
            *("--api-socket", "--enable-sandbox", "--enable-seccomp", "--outbound-addr"),
        ):
            assert word in done.stdout
    for option in ("-v", "--version"):
        done = invoke(bed, option)
        assert (done.returncode, done.stderr) == (0, "")
        assert "version" in done.stdout
