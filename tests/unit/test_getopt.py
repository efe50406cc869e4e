"""getopt_long's manners, on a small table."""

from __future__ import annotations

import pytest

from slirp.config import Config
from slirp.errors import UsageError
from slirp.getopt import Option, scan


def _ignore(_: Config, __: str) -> None:
    raise AssertionError("scan() applies nothing")


TABLE = (
    Option("configure", "c", "", "a flag", _ignore),
    Option("ready-fd", "r", "FD", "a value", _ignore),
    Option("enable-ipv6", "6", "", "a flag", _ignore),
    Option("enable-sandbox", "", "", "a flag", _ignore),
    Option("enable", "", "", "a prefix of others", _ignore),
    Option("mtu", "m", "MTU", "a value", _ignore),
    Option("mtu-probe", "", "", "a flag", _ignore, ours=True),
    Option("mt-one", "", "", "a flag", _ignore, ours=True),
)


def read(*words: str, until_operand: bool = False) -> list[tuple[str | None, str]]:
    return [
        (option.long if option else None, value)
        for option, value in scan(words, TABLE, until_operand=until_operand)
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], []),
        (["-c"], [("configure", "")]),
        # what slirp4netns has goes before what only we have
        (["--mt", "1", "--mtu-", "--mtu-probe"], [("mtu", "1"), *[("mtu-probe", "")] * 2]),
        (["-c6"], [("configure", ""), ("enable-ipv6", "")]),
        (["-cr3"], [("configure", ""), ("ready-fd", "3")]),
        (["-cr", "3"], [("configure", ""), ("ready-fd", "3")]),
        (["-r", "-3"], [("ready-fd", "-3")]),
        (["--mtu=1400"], [("mtu", "1400")]),
        (["--mtu", "1400"], [("mtu", "1400")]),
        (["--mtu="], [("mtu", "")]),
        (["--mt", "1400"], [("mtu", "1400")]),
        (["--enable-s"], [("enable-sandbox", "")]),
        (["--enable"], [("enable", "")]),
        (["42", "-c", "tap0"], [(None, "42"), ("configure", ""), (None, "tap0")]),
        (["-c", "--", "-c", "--mtu"], [("configure", ""), (None, "-c"), (None, "--mtu")]),
        (["-"], [(None, "-")]),
    ],
)
def test_understood(words: list[str], expected: list[tuple[str | None, str]]) -> None:
    assert read(*words) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--foo"], "unrecognized option '--foo'"),
        (["--foo=1"], "unrecognized option '--foo'"),
        (["-z"], "invalid option -- 'z'"),
        (["-cz"], "invalid option -- 'z'"),
        (["-r"], "option requires an argument -- 'r'"),
        (["--mtu"], "option '--mtu' requires an argument"),
        (["--configure=1"], "option '--configure' doesn't allow an argument"),
        (
            ["--enable-"],
            "option '--enable-' is ambiguous; possibilities: '--enable-ipv6' '--enable-sandbox'",
        ),
    ],
)
def test_refused_in_getopts_words(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        read(*words)
    assert str(refusal.value) == message


def test_a_command_keeps_its_own_options() -> None:
    assert read("-c", "ls", "-c", "--mtu", until_operand=True) == [
        ("configure", ""),
        (None, "ls"),
        (None, "-c"),
        (None, "--mtu"),
    ]
    assert read("--", "-c", until_operand=True) == [(None, "-c")]
