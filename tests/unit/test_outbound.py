"""--outbound-addr: an address, or an interface's, also when that changes."""

from __future__ import annotations

from socket import AF_INET, AF_INET6

import pytest

from slirp import outbound
from slirp.errors import SlirpError
from slirp.outbound import Outbound

LOOPBACK = bytes((127, 0, 0, 1))


def test_address() -> None:
    used: list[bytes] = []
    assert Outbound(used.append, {AF_INET: "127.0.0.1"}).fd is None
    assert used == [LOOPBACK]


def test_interface() -> None:
    used: list[bytes] = []
    assert Outbound(used.append, {AF_INET: "lo"}).fd is not None
    assert used == [LOOPBACK]


@pytest.mark.parametrize(
    ("family", "text", "complaint"),
    [
        (AF_INET, "192.0.2.1", "outbound address 192.0.2.1: Cannot assign requested address"),
        (AF_INET6, "2001:db8::1", "outbound address 2001:db8::1: "),
        (AF_INET, "no-such-if", "no-such-if is neither an IPv4 address nor an interface"),
        (AF_INET6, "no-such-if", "no-such-if is neither an IPv6 address nor an interface"),
        (AF_INET, "", " is neither an IPv4 address nor an interface"),
        (AF_INET, "127.0.0.1/8", "127.0.0.1/8 is neither"),
        (AF_INET, "::1", "::1 is neither an IPv4 address"),
    ],
)
def test_what_the_host_does_not_have(family: int, text: str, complaint: str) -> None:
    """One line that says so, before anything runs."""
    with pytest.raises(SlirpError, match=complaint):
        Outbound(lambda _: None, {family: text})


def test_interface_whose_address_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an address it keeps the old one: nothing is to leave from another."""
    used: list[bytes] = []
    addresses = [(AF_INET6, 9, bytes(16)), (AF_INET, 9, b"\x0a\0\0\1"), (AF_INET, 9, b"\x0a\0\0\2")]
    monkeypatch.setattr(outbound, "_links", lambda _: iter([(1, "lo"), (9, "wg0")]))
    monkeypatch.setattr(outbound, "_addresses", lambda _: iter(addresses))
    following = Outbound(used.append, {AF_INET: "wg0"})
    assert used == [b"\x0a\0\0\1"]
    del addresses[1:]
    following.on_change()
    assert len(used) == 1
    addresses.append((AF_INET, 9, b"\x0a\0\0\3"))
    following.on_change()
    following.on_change()
    assert used[1:] == [b"\x0a\0\0\3"]
