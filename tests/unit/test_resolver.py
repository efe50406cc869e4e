"""resolv.conf(5): who is asked, and how a change is noticed."""

from __future__ import annotations

import pathlib
from socket import AF_INET, AF_INET6, inet_ntop

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.resolver import Resolvers, parse, parse_domains


def show(servers: list[bytes]) -> list[str]:
    return [inet_ntop(AF_INET if len(a) == 4 else AF_INET6, a) for a in servers]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 192.0.2.1\n", ["192.0.2.1"]),
        ("nameserver\t192.0.2.1 # mine\nnameserver 2001:db8::1", ["192.0.2.1", "2001:db8::1"]),
        ("# nameserver 192.0.2.1\nsearch example.org\nnameserver 127.0.0.53\n", ["127.0.0.53"]),
        ("nameserver 2001:db8::1%eth0\n", ["2001:db8::1"]),
        # usable only with the interface that the data plane is not told
        ("nameserver fe80::1%eth0\nnameserver 192.0.2.2\n", ["192.0.2.2"]),
        ("nameserver 192.0.2\nnameserver x\nnameserver\nnameserver 192.0.2.3", ["192.0.2.3"]),
        # resolv.conf(5): without any, the local machine
        ("", ["127.0.0.1"]),
        ("nameserver 1.2.3.4.5\n", ["127.0.0.1"]),
    ],
)
def test_parse(text: str, expected: list[str]) -> None:
    assert show(parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("search a.test b.test\n", ["a.test", "b.test"]),
        ("domain a.test\n", ["a.test"]),
        ("search a.test\ndomain b.test\nsearch\n", ["b.test"]),  # the last of both counts
        ("search . a.test\n", ["a.test"]),  # systemd-resolved writes "search ."
        ("nameserver 192.0.2.1\n", []),
        ("search " + " ".join(f"d{n}.test" for n in range(99)), [f"d{n}.test" for n in range(32)]),
    ],
)
def test_search_domains(text: str, expected: list[str]) -> None:
    assert parse_domains(text) == expected


def test_search_domains_follow_the_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("search a.test\n")
    resolvers = Resolvers(str(path))
    assert resolvers.domains == ["a.test"]
    path.write_text("search b.example.test\n")
    resolvers.refresh(1.0)
    assert resolvers.domains == ["b.example.test"]


@given(st.text())
def test_parse_takes_anything(text: str) -> None:
    assert all(len(address) in (4, 16) for address in parse("nameserver " + text))


def test_file_that_is_missing(tmp_path: pathlib.Path) -> None:
    assert show(Resolvers(str(tmp_path / "none")).servers) == ["127.0.0.1"]


def test_file_that_is_no_text(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"nameserver \xff\xfe\nnameserver 192.0.2.1\n\x00")
    assert show(Resolvers(str(path)).servers) == ["192.0.2.1"]


def test_edit_is_noticed_at_most_once_a_second(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    resolvers = Resolvers(str(path))
    assert not resolvers.refresh(100.0)
    path.write_text("nameserver 192.0.2.10\n")
    assert not resolvers.refresh(100.9)
    assert resolvers.refresh(101.0)
    assert show(resolvers.servers) == ["192.0.2.10"]
    assert not resolvers.refresh(105.0)


def test_change_of_no_consequence(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    resolvers = Resolvers(str(path))
    path.write_text("search example.org\nnameserver 192.0.2.1\n")
    assert not resolvers.refresh(1.0)


def test_symbolic_link_is_followed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "home").write_text("nameserver 192.0.2.1\n")
    (tmp_path / "vpn").write_text("nameserver 192.0.2.2\n")
    path = tmp_path / "resolv.conf"
    path.symlink_to("home")
    resolvers = Resolvers(str(path))
    (tmp_path / "new").symlink_to("vpn")
    (tmp_path / "new").rename(path)
    assert resolvers.refresh(1.0)
    assert show(resolvers.servers) == ["192.0.2.2"]


def test_file_that_is_gone_keeps_its_servers(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 192.0.2.1\n")
    resolvers = Resolvers(str(path))
    path.unlink()
    assert not resolvers.refresh(1.0)
    assert show(resolvers.servers) == ["192.0.2.1"]
    path.write_text("nameserver 192.0.2.2\n")
    assert resolvers.refresh(2.0)
