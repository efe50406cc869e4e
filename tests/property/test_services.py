"""Whatever comes, the services raise nothing, answer with a frame that is one, and remember no more
than their pools hold.
"""

from __future__ import annotations

from typing import Any

import dpkt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from scapy.layers.dhcp6 import DHCP6_Renew, DHCP6_Solicit, DHCP6OptRapidCommit
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from harness.dhcp import dhcp4, dhcp6, ia_na, solicitation
from slirp import log
from slirp.config import Config, parse_cidr6
from slirp.services import Services, names
from slirp.services.leases import Leases

GOOD = [
    dhcp4("discover", ("param_req_list", [1, 3, 6, 15, 26, 119]), ("client_id", b"\x01me")),
    dhcp4("request", ("requested_addr", "10.0.2.15"), ("server_id", "10.0.2.2")),
    dhcp4("inform", bootp={"ciaddr": "10.0.2.100"}, src="10.0.2.100"),
    dhcp4("decline", ("requested_addr", "10.0.2.15")),
    dhcp6(DHCP6_Solicit(), ia_na("fd00::f")),
    dhcp6(DHCP6_Solicit(), DHCP6OptRapidCommit(), ia_na()),
    dhcp6(DHCP6_Renew(), ia_na("fd00::f")),
    solicitation(),
]
DOMAINS = ["example.test", "corp.example.test", "b" * 70, "", "..", "ä.test", "x." * 200]


class Resolvers:
    """Stands for slirp.resolver.Resolvers."""

    domains = DOMAINS


def services() -> Services:
    config = Config()
    config.network6 = parse_cidr6("fd00::/64")
    return Services(config, Resolvers())  # type: ignore[arg-type]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good frame with bytes changed, cut out or put in: headers, lengths, options."""
    frame = bytearray(draw(st.sampled_from(GOOD)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(frame)))
        kind = draw(st.integers(0, 2))
        if kind == 0 and at < len(frame):
            frame[at] = draw(st.integers(0, 255))
        elif kind == 1:
            del frame[at : at + draw(st.integers(1, 20))]
        else:
            frame[at:at] = draw(st.binary(min_size=1, max_size=300))
    return bytes(frame)


def check(reply: bytes) -> None:
    """A frame from us to one station or a group, whose lengths and checksums are right."""
    assert reply[6:12] == bytes.fromhex("52550a000202")
    ethernet = dpkt.ethernet.Ethernet(reply)
    again: Any = Ether(reply)
    if ethernet.type == dpkt.ethernet.ETH_TYPE_IP:
        assert len(ethernet.data.data.data) >= 300
        del again.payload.chksum, again.payload.len
    else:
        assert again[IPv6].plen == len(reply) - 14 - 40
        assert len(reply) <= 14 + 1280
    if hasattr(again.payload.payload, "chksum"):
        del again.payload.payload.chksum
    else:
        del again.payload.payload.cksum
    assert bytes(again) == reply


class Desk(RuleBasedStateMachine):
    """One set of services for many frames, as time goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = services()
        self.now_s = 0.0

    @rule(frame=damaged())
    def damaged_frame(self, frame: bytes) -> None:
        self.answer(frame)

    @rule(noise=st.binary(max_size=600), port=st.sampled_from([67, 547]))
    def noise_behind_good_headers(self, noise: bytes, port: int) -> None:
        good = GOOD[0 if port == 67 else 4]
        head = bytearray(good[: 14 + (20 if port == 67 else 40) + 8])
        length = len(noise) + 8
        head[-4:-2] = length.to_bytes(2, "big")
        if port == 67:
            head[16:18] = (length + 20).to_bytes(2, "big")
        else:
            head[18:20] = length.to_bytes(2, "big")
        self.answer(bytes(head) + noise)

    @rule(number=st.integers(0, 40))
    def good_frame_of_somebody(self, number: int) -> None:
        self.answer(dhcp4("discover", mac=f"02:00:00:00:02:{number:02x}"))

    @rule(seconds=st.sampled_from([1.0, 61.0, 700.0, 50000.0, 90000.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    def answer(self, frame: bytes) -> None:
        reply = self.desk._answer(frame, self.now_s)  # where what is raised shows
        if reply is not None:
            check(reply)


TestDesk = Desk.TestCase
TestDesk.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.binary(max_size=1514))
def test_noise(frame: bytes) -> None:
    services()._answer(frame, 0.0)


def test_mistake_of_ours_is_told_of_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    desk, said = services(), []

    def fail(frame: bytes, now_s: float) -> None:
        raise ZeroDivisionError(len(frame))

    monkeypatch.setattr(desk, "_answer", fail)
    monkeypatch.setattr(log, "complain", said.append)
    for now_s in (0.0, 1.0, 59.0, 60.0, 61.0):
        assert desk.answer(b"frame", now_s) is None
    assert said == ["cannot answer a frame of 5 bytes: ZeroDivisionError(5)"] * 2


@given(st.lists(st.text(max_size=80), max_size=40), st.integers(0, 1024))
@example(DOMAINS, 1024)
def test_domains_on_the_wire(domains: list[str], room: int) -> None:
    """What is said can be read, whatever stands in the host's file; both forms say the same."""
    told = names.plain(domains, 1 << 20)
    assert _read(names.compressed(domains)) == _read(told)
    assert len(names.plain(domains, room)) <= room
    assert told.startswith(names.plain(domains, room))


def _read(data: bytes) -> list[list[bytes]]:
    """Names with or without pointers (RFC 1035 4.1.4)."""
    out, at = [], 0
    while at < len(data):
        labels: list[bytes] = []
        here, end = at, None
        while data[here]:
            if data[here] >= 0xC0:
                end = here + 2 if end is None else end
                here = (data[here] & 0x3F) << 8 | data[here + 1]
                continue
            labels.append(data[here + 1 : here + 1 + data[here]])
            here += 1 + data[here]
        at = here + 1 if end is None else end
        assert labels
        out.append(labels)
    return out


CLIENTS = st.sampled_from([bytes([n]) for n in range(1, 9)])
ADDRESSES = st.sampled_from([bytes([10, 0, 2, n]) for n in range(15, 20)])


class LeaseTable(RuleBasedStateMachine):
    """No address has two owners while a lease lasts."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases(bytes([10, 0, 2, n]) for n in range(15, 19))
        self.now_s = 0.0
        self.owners: dict[bytes, tuple[bytes, float]] = {}

    @rule(client=CLIENTS, wish=st.none() | ADDRESSES)
    def offer(self, client: bytes, wish: bytes | None) -> None:
        address = self.leases.offer(client, wish, self.now_s)
        if address is not None:
            owner, until_s = self.owners.get(address, (client, 0.0))
            assert owner == client or until_s <= self.now_s

    @rule(client=CLIENTS, address=ADDRESSES, lease_s=st.integers(60, 1000))
    def bind(self, client: bytes, address: bytes, lease_s: int) -> None:
        if self.leases.bind(client, address, self.now_s + lease_s, self.now_s):
            owner, until_s = self.owners.get(address, (client, 0.0))
            assert owner == client or until_s <= self.now_s
            self.owners = {a: o for a, o in self.owners.items() if o[0] != client}
            self.owners[address] = (client, self.now_s + lease_s)
            assert self.leases.of(client) == address

    @rule(client=CLIENTS, address=ADDRESSES)
    def release(self, client: bytes, address: bytes) -> None:
        if self.leases.release(client, address):
            self.owners.pop(address, None)

    @rule(seconds=st.integers(1, 400))
    def wait(self, seconds: int) -> None:
        self.now_s += seconds


TestLeaseTable = LeaseTable.TestCase
TestLeaseTable.settings = settings(max_examples=100, deadline=None)
