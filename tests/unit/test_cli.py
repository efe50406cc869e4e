"""The command line: what becomes of it, what it says, and that its readers find their words."""

from __future__ import annotations

import os
import pathlib
import re
from socket import AF_INET, AF_INET6

import pytest

from slirp import cli
from slirp.config import PATH, PID, TAPFD, Config, RunConfig
from slirp.errors import SlirpError, UsageError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def parse(*words: str) -> Config:
    config = cli.parse(words)
    assert config is not None
    return config


def refusal(*words: str) -> str:
    with pytest.raises(SlirpError) as refused:
        cli.parse(words)
    return str(refused.value)


def test_defaults() -> None:
    config = parse("42", "tap0")
    assert (config.target_kind, config.target, config.tap_name) == (PID, "42", "tap0")
    assert (config.configure, config.mtu, config.mac) == (False, 1500, None)
    assert (config.api_path, config.ready_fd, config.exit_fd) == (None, None, None)
    assert (config.host_loopback, config.dns, config.warnings) == (True, True, [])
    assert (config.sandbox, config.seccomp, config.require_sandbox) == (True, True, False)


def test_podmans_line(tmp_path: pathlib.Path) -> None:
    read_fd, write_fd = os.pipe()
    config = parse(
        *("--disable-host-loopback", "--mtu=65520", "--enable-sandbox", "--enable-seccomp"),
        *("--enable-ipv6", "-c", "-r", str(write_fd), "-e", str(read_fd)),
        *("--api-socket", "/x/y.net", "--netns-type=path", str(tmp_path), "tap0"),
    )
    assert (config.target_kind, config.target) == (PATH, str(tmp_path))
    assert (config.ready_fd, config.exit_fd) == (write_fd, read_fd)
    assert (config.mtu, config.host_loopback, config.configure) == (65520, False, True)
    assert config.api_path == "/x/y.net"
    assert (config.sandbox, config.seccomp, config.require_sandbox) == (True, True, False)
    assert config.network6 is not None
    assert config.warnings == []
    os.close(read_fd)
    os.close(write_fd)


@pytest.mark.parametrize("name", ["sandbox", "seccomp"])
def test_confinement_is_turned_off_loudly(name: str) -> None:
    config = parse(f"--no-{name}", "42", "tap0")
    assert not getattr(config, name)
    assert config.warnings[0].startswith(f"--no-{name}: ")
    command = cli.parse_run([f"--no-{name}", "--require-sandbox", "true"])
    assert command is not None
    assert not getattr(command, name)
    assert command.require_sandbox


def test_ipv6_is_off_unless_asked_for() -> None:
    assert parse("42", "tap0").network6 is None
    network6 = parse("-6", "42", "tap0").network6
    assert network6 is not None
    assert network6.gateway == bytes.fromhex("fd00" + "00" * 13 + "02")


@pytest.mark.parametrize("words", [["--cidr6=fd12:3::/64", "-6"], ["-6", "--cidr6", "fd12:3::/64"]])
def test_ipv6_prefix_of_ones_choice(words: list[str]) -> None:
    network6 = parse(*words, "42", "tap0").network6
    assert network6 is not None
    assert network6.address == bytes.fromhex("fd120003" + "00" * 12)


@pytest.mark.parametrize(
    ("word", "attribute", "value"),
    [
        ("--ma=02:11:22:33:44:55", "mac", bytes.fromhex("021122334455")),
        ("--cid=10.9.0.0/24", "network", None),
        ("--mt=1400", "mtu", 1400),
        ("--t=netns", "target_kind", PID),
        ("--no", "host_loopback", False),
    ],
)
def test_abbreviations_of_slirp4netns_options(word: str, attribute: str, value: object) -> None:
    """Options that only we have take none of them away."""
    config = parse("-c", word, "42", "tap0")
    got = getattr(config, attribute)
    assert got == value if value is not None else got.gateway == bytes([10, 9, 0, 2])


def test_link_too_narrow_for_ipv6() -> None:
    config = parse("-6", "--mtu=1279", "42", "tap0")
    assert config.network6 is None
    assert config.warnings == ["no IPv6, which needs an MTU of 1280"]
    assert parse("-6", "--mtu=1280", "42", "tap0").network6 is not None


def test_rootlesskits_line() -> None:
    config = parse(
        *("--mtu", "65520", "-r", "2", "--disable-host-loopback", "--cidr", "10.0.4.0/24"),
        *("--api-socket", "/run/s", "42", "tap0"),
    )
    assert (config.ready_fd, config.mtu, config.configure) == (2, 65520, False)
    assert config.network.gateway == bytes([10, 0, 4, 2])


def test_old_spellings_warn() -> None:
    config = parse("--no-host-loopback", "--create-sandbox", "42", "tap0")
    assert not config.host_loopback
    assert config.warnings[0] == (
        "--no-host-loopback is deprecated, please use --disable-host-loopback instead"
    )


def test_too_many_arguments_are_a_warning() -> None:
    assert parse("42", "tap0", "x", "y").warnings == ["too many arguments"]


def test_path_that_is_a_process() -> None:
    config = parse("--netns-type=path", "4194304999", "tap0")
    assert (config.target_kind, config.target) == (PID, "4194304999")


def test_tapfd_needs_no_name() -> None:
    config = parse("--netns-type=tapfd", "0")
    assert (config.target_kind, config.target, config.tap_name) == (TAPFD, "0", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the target (PID, PATH or FD) is missing"),
        (["42"], "TAPNAME is missing"),
        (["abc", "tap0"], "PID must be a positive integer"),
        (["0", "tap0"], "PID must be a positive integer"),
        (["--", "-1", "tap0"], "PID must be a positive integer"),
        (["-e", "abc", "42", "tap0"], "exit-fd must be a non-negative integer"),
        (["-r", "-1", "42", "tap0"], "ready-fd must be a non-negative integer"),
        (["-m", "0", "42", "tap0"], "MTU must be a positive integer (< 65522, at least 576)"),
        (["--netns-type=foo", "42", "tap0"], '--netns-type must be "path", "pid" or "tapfd"'),
        (["--netns-type=tapfd", "x"], "FD must be a non-negative integer"),
        (["--netns-type=tapfd", "-c", "0"], "--configure conflicts with --netns-type=tapfd"),
        (["--target-type=foo", "42", "tap0"], '--target-type must be either "netns" or "bess"'),
        (
            ["--macaddress=02:11:22:33:44:55", "42", "tap0"],
            "--macaddress cannot be specified when --configure or -c is not specified",
        ),
    ],
)
def test_usage_errors(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refused:
        cli.parse(words)
    assert str(refused.value) == message


def test_bess_takes_a_path_alone() -> None:
    config = parse("--target-type=bess", "/run/s")
    assert (config.target_kind, config.target) == ("bess", "/run/s")
    assert parse("--target-type=netns", "42", "tap0").target_kind == "pid"
    complaint = refusal("--target-type=bess", "--configure", "/run/s")
    assert complaint == "--configure conflicts with --target-type=bess"


def test_outbound_addresses() -> None:
    config = parse("--outbound-addr=192.0.2.1", "--outbound-addr6=eth0", "42", "tap0")
    assert config.outbound == {AF_INET: "192.0.2.1", AF_INET6: "eth0"}


def test_refusals_that_are_no_usage_errors() -> None:
    assert refusal("42", "x" * 16).startswith("invalid TAPNAME")
    assert refusal("-r", "4096", "42", "tap0") == "ready-fd 4096: Bad file descriptor"
    assert refusal("--netns-type=path", "/nonexistent", "tap0") == (
        "existing path expected when --netns-type=path: /nonexistent: No such file or directory"
    )
    assert refusal("--userns-path=/nonexistent", "42", "tap0") == (
        "userns path doesn't exist: /nonexistent: No such file or directory"
    )


@pytest.mark.parametrize(
    ("word", "attribute", "value"),
    [
        ("--tcp-buffer=64K", "tcp_buffer_bytes", 65536),
        ("--tcp-buffer=1000000", "tcp_buffer_bytes", 1_000_000),
        ("--memory-limit=2G", "memory_bytes", 2 << 30),
        ("--max-flows=64", "max_flows", 64),
        ("--udp-timeout=300", "udp_timeouts_s", (300, 30, 10)),
        ("--udp-timeout=300,60", "udp_timeouts_s", (300, 60, 10)),
        ("--udp-timeout=1,2,3", "udp_timeouts_s", (1, 2, 3)),
    ],
)
def test_limits_are_taken(word: str, attribute: str, value: object) -> None:
    config = parse(word, "42", "tap0")
    assert getattr(config, attribute) == value


@pytest.mark.parametrize(
    "word",
    [
        "--tcp-buffer=63K",
        "--tcp-buffer=1G",
        "--tcp-buffer=",
        "--memory-limit=lots",
        "--max-flows=1K",
        "--udp-timeout=",
        "--udp-timeout=0",
        "--udp-timeout=1,2,3,4",
    ],
)
def test_limits_have_limits(word: str) -> None:
    assert refusal(word, "42", "tap0").startswith("invalid ")


# ---- what it says ------------------------------------------------------------------------------


def test_help_is_golden() -> None:
    assert cli.usage("pyslirp") + "\n" == (GOLDEN / "help.txt").read_text()


def test_run_help_is_golden() -> None:
    assert cli.run_usage() + "\n" == (GOLDEN / "run_help.txt").read_text()


@pytest.mark.parametrize(
    "word",
    [
        # slirp4netns 1.3's own; the clients look for some of them as words, some as substrings
        *("--configure", "--exit-fd", "--ready-fd", "--mtu", "--enable-ipv6", "--api-socket"),
        *("--cidr", "--disable-host-loopback", "--netns-type", "--userns-path"),
        *("--enable-sandbox", "--enable-seccomp", "--outbound-addr", "--outbound-addr6"),
        *("--disable-dns", "--macaddress", "--target-type", "--help", "--version"),
        *("-c", "-e", "-r", "-m", "-6", "-a", "-h", "-v"),
    ],
)
def test_help_has_the_word(word: str) -> None:
    assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", cli.usage("pyslirp"))


def test_version_as_dockerd_reads_it() -> None:
    """What follows the last "version" of a line is the version; a later such line would win."""
    from slirp import __version__

    found = [
        line.rpartition("version")[2].strip()
        for line in cli.version().splitlines()
        if "version" in line
    ]
    assert found == [__version__]
    assert re.search(r"^SLIRP_CONFIG_VERSION_MAX: ([3-9])$", cli.version(), re.MULTILINE)


# ---- main --------------------------------------------------------------------------------------


def test_help_and_version_go_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    for word in ("--help", "-h", "--version", "-v"):
        assert cli.main(["/usr/bin/slirp4netns", word]) == 0
        out, err = capfd.readouterr()
        assert out.startswith(("Usage: slirp4netns [OPTION]", "pyslirp version"))
        assert err == ""


def test_usage_error_is_one_line_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pyslirp", "--foo"]) == 1
    out, err = capfd.readouterr()
    assert out.startswith("Usage: pyslirp [OPTION]")
    assert err == "pyslirp: unrecognized option '--foo'\n"


def test_other_error_is_one_line_on_stderr(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pyslirp", "--cidr=10.0.2.1/24", "42", "tap0"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err == (
        "pyslirp: CIDR needs to be a network address like 10.0.2.0/24, not like 10.0.2.1/24\n"
    )


def test_run_keeps_stdout_for_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pyslirp", "run", "--foo"]) == 1
    assert capfd.readouterr() == ("", "pyslirp: unrecognized option '--foo'\n")


# ---- run ---------------------------------------------------------------------------------------


def test_run() -> None:
    config = cli.parse_run(["-p", "8080:80", "--cidr=10.9.0.0/16", "ls", "-l", "--mtu"])
    assert isinstance(config, RunConfig)
    assert config.command == ["ls", "-l", "--mtu"]
    assert (config.mtu, config.configure, config.tap_name) == (65520, True, "tap0")
    assert [wish.host_port for wish in config.publish] == [8080]


def test_run_has_ipv6_unless_told_otherwise() -> None:
    config = cli.parse_run(["ls"])
    assert config is not None
    assert config.network6 is not None
    config = cli.parse_run(["--disable-ipv6", "ls"])
    assert config is not None
    assert config.network6 is None


def test_run_without_command_is_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SHELL", raising=False)
    config = cli.parse_run([])
    assert config is not None
    assert config.command == ["/bin/sh"]
    monkeypatch.setenv("SHELL", "/bin/zsh")
    config = cli.parse_run(["--"])
    assert config is not None
    assert config.command == ["/bin/zsh"]


def test_run_refuses_what_is_not_its_own() -> None:
    with pytest.raises(UsageError, match="unrecognized option '--netns-type'"):
        cli.parse_run(["--netns-type=path", "ls"])
