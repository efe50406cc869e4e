"""resolv.conf(5): who is asked, and how a change is noticed."""

from __future__ import annotations

import contextlib
import os
import pathlib
import select
from collections.abc import Callable
from socket import AF_INET, AF_INET6, inet_ntop

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.resolver import Resolvers, directories, parse, parse_domains


def show(servers: list[bytes]) -> list[str]:
    return [inet_ntop(AF_INET if len(a) == 4 else AF_INET6, a) for a in servers]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 192.0.2.1\n", ["192.0.2.1"]),
        ("nameserver\t192.0.2.1 # mine\nnameserver 2001:db8::1", ["192.0.2.1", "2001:db8::1"]),
        ("# nameserver 192.0.2.1\nsearch example.org\nnameserver 127.0.0.53\n", ["127.0.0.53"]),
        ("nameserver 2001:db8::1%eth0\n", ["2001:db8::1"]),
        # the interface, by name or number, inside the address; none without it
        ("nameserver fe80::1%lo\n", ["fe80:0:0:1::1"]),
        ("nameserver fe80::1:2:3:4%70000\n", ["fe80:0:1:1170:1:2:3:4"]),
        ("nameserver fe80::1%no-such-link\nnameserver 192.0.2.2\n", ["192.0.2.2"]),
        ("nameserver fe80::1%2147483648\nnameserver 192.0.2.2\n", ["192.0.2.2"]),
        ("nameserver fe80::1%0\nnameserver fe80::1%²\nnameserver 192.0.2.2\n", ["192.0.2.2"]),
        ("nameserver fe80::1\nnameserver fe80::1%\nnameserver 192.0.2.2\n", ["192.0.2.2"]),
        ("nameserver fe80::1%a-name-that-is-too-long\nnameserver 192.0.2.2\n", ["192.0.2.2"]),
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


# Watching


def rewrite(path: pathlib.Path) -> None:
    path.write_text("nameserver 192.0.2.2\n")


def replace_file(path: pathlib.Path) -> None:
    new = path.with_name("new")
    new.write_text("nameserver 192.0.2.2\n")
    new.rename(path)


def replace_link(path: pathlib.Path) -> None:
    (path.parent / "vpn").write_text("nameserver 192.0.2.2\n")
    (path.parent / "new").symlink_to("vpn")
    (path.parent / "new").rename(path)


def replace_what_the_link_leads_to(path: pathlib.Path) -> None:
    replace_file(path.resolve())


@pytest.mark.parametrize(
    "change", [rewrite, replace_file, replace_link, replace_what_the_link_leads_to]
)
@pytest.mark.parametrize("linked", [False, True])
def test_change_is_told_at_once(
    tmp_path: pathlib.Path, change: Callable[[pathlib.Path], None], linked: bool
) -> None:
    """As an editor, NetworkManager and systemd-resolved make it; then the next one."""
    path = tmp_path / "etc" / "resolv.conf"
    path.parent.mkdir()
    if linked:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "stub").write_text("nameserver 192.0.2.1\n")
        path.symlink_to("../run/stub")
    else:
        path.write_text("nameserver 192.0.2.1\n")
    resolvers = Resolvers(str(path))
    assert watch_until(resolvers, lambda: change(path))
    assert show(resolvers.servers) == ["192.0.2.2"]
    assert not resolvers.refresh(1e9)
    again = path.resolve()
    assert watch_until(resolvers, lambda: again.write_text("nameserver 192.0.2.3\n"))
    assert show(resolvers.servers) == ["192.0.2.3"]


def watch_until(resolvers: Resolvers, change: Callable[[], object]) -> bool:
    """Whether a change of the servers is found when the descriptor says so."""
    fd = resolvers.watch()
    assert fd is not None
    with contextlib.closing(os.fdopen(fd, "rb", buffering=0)):
        assert not select.select([fd], [], [], 0)[0]
        change()
        while not resolvers.look():
            if not select.select([fd], [], [], 10)[0]:
                return False
    return True


def test_file_that_appears(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "resolv.conf"
    resolvers = Resolvers(str(path))
    assert watch_until(resolvers, lambda: rewrite(path))


def test_without_inotify_it_is_looked_at_now_and_then(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user has 128 instances, or an administrator's number of them."""

    def refuse() -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("slirp.core.oscalls.inotify_open", refuse)
    path = tmp_path / "resolv.conf"
    resolvers = Resolvers(str(path))
    assert resolvers.watch() is None
    rewrite(path)
    assert resolvers.refresh(1.0)


def test_directory_that_is_missing(tmp_path: pathlib.Path) -> None:
    before = os.listdir("/proc/self/fd")
    assert Resolvers(str(tmp_path / "none" / "resolv.conf")).watch() is None
    assert os.listdir("/proc/self/fd") == before


def test_directories_of_a_chain(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").symlink_to("b/c")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").symlink_to(tmp_path / "d" / "e")
    expected = [tmp_path, tmp_path / "b", tmp_path / "d"]
    assert directories(str(tmp_path / "a")) == [str(path) for path in expected]


def test_directories_of_a_loop_are_few(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a").symlink_to("a")
    assert directories(str(tmp_path / "a")) == [str(tmp_path)]
