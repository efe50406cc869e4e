"""Property: whatever the link does to the segments of a connection, and however either side writes,
reads, cuts and closes, both byte streams arrive intact, both sides close, and nothing is left.
"""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.guest import GuestOptions, GuestTcp
from harness.host import HostSocket
from harness.link import CLEAN, LOST, Bottleneck, Fate, Link
from harness.net import (
    GUEST,
    GUEST6,
    IP6_MTU_MIN,
    LINK_CSUM,
    LINK_TSO4,
    LINK_TSO6,
    WORLD,
    WORLD6,
)
from harness.pkt import stream
from harness.tcp import Tcp

LIMIT_S = 3600.0
LOSSES_SURVIVED = 6  # in a row, of whatever it is: R2 of a SYN (TCP_RETRIES_SYN)
GUEST_PORT, HOST_PORT = 8080, 50001
WRAPS_SOON = (1 << 32) - 1000
DOWN_SEED = 0x5EED


@dataclasses.dataclass(frozen=True)
class Host:
    """How the host's application writes and reads.

    writes: sizes of its writes, over and over, one each `every_s`. reads: what it reads each
    `every_s`; None: everything at once. recv_max: the kernel gives no more at once.
    """

    writes: tuple[int, ...] = (100_000,)
    every_s: float = 0.01
    reads: int | None = None
    recv_max: int | None = None


@dataclasses.dataclass(frozen=True)
class Scenario:
    """One connection from beginning to end."""

    up_bytes: int
    down_bytes: int
    guest: GuestOptions = dataclasses.field(default_factory=GuestOptions)
    host: Host = dataclasses.field(default_factory=Host)
    up: tuple[Fate, ...] = ()
    down: tuple[Fate, ...] = ()
    bottleneck: Bottleneck | None = None
    mtu: int = 1500
    tso: bool = True
    buffer_bytes: int = 1 << 18
    by_client: bool = False  # opened by a forward's client, not by the guest
    v6: bool = False
    wraps: bool = False  # both ISNs lie just before 2^32


class Run:
    """A scenario, played."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.tcp = Tcp(
            mtu=scenario.mtu,
            offload=LINK_CSUM | LINK_TSO4 | LINK_TSO6 if scenario.tso else 0,
            tcp_buffer_bytes=scenario.buffer_bytes,
        )
        self.dest = WORLD6 if scenario.v6 else WORLD
        isn = WRAPS_SOON if scenario.wraps else 1000
        if scenario.wraps:
            aimed = self.tcp.peer(guest_port=GUEST_PORT, dest=self.dest, dest_port=HOST_PORT)
            self.tcp.aim_isn(aimed, WRAPS_SOON)
        self.link = Link(
            self.tcp,
            guest_port=GUEST_PORT,
            dest=self.dest,
            dest_port=HOST_PORT,
            isn=isn,
            up=scenario.up,
            down=scenario.down,
            bottleneck=scenario.bottleneck,
        )
        self.guest = GuestTcp(self.tcp.clock, self.link, scenario.guest)
        self.socket: HostSocket | None = None
        self._written = 0

    def play(self) -> None:
        """From the first SYN until nothing more happens."""
        self._open()
        self.guest.write(stream(0, self.scenario.up_bytes))
        self.guest.close()
        ended = self.tcp.clock.run_until(self._over, LIMIT_S)
        assert ended, f"not over after {LIMIT_S} s\n{self.tcp.transcript()}"
        # The last duplicates, a guest that still repeats its FIN, TIME-WAIT, and what they begin
        self.tcp.advance(20.0)
        self.tcp.clock.run_until(lambda: not self.tcp.stat("flows"), 700.0)

    def _open(self) -> None:
        self.tcp.host.on_connect = self._on_socket
        if self.scenario.by_client:
            listener = self.tcp.host.listener()
            guest = GUEST6 if self.scenario.v6 else GUEST
            self.tcp.stack.add_forward("tcp", listener, guest, GUEST_PORT)
            self.tcp.host.client(listener, self.dest, HOST_PORT)
        else:
            self.guest.connect()

    def _on_socket(self, socket: HostSocket) -> None:
        """The host's end exists: its application begins.

        A second one is the work of an old SYN that came after all was over (RFC 9293 3.5
        figure 8 has such a one): nobody answers it, and it is to vanish by itself.
        """
        if self.socket is not None:
            return
        self.socket = socket
        host = self.scenario.host
        socket.room = None if host.reads is None else 0
        socket.recv_max = host.recv_max
        if not self.scenario.by_client:
            self.tcp.clock.after(0.001, socket.connected)
        self.tcp.clock.after(0.002, self._host_turn)

    def _host_turn(self) -> None:
        """The host's application writes and reads once."""
        socket, host = self.socket, self.scenario.host
        if socket is None or socket.ended:
            return
        if host.reads is not None:
            socket.take(host.reads)
        if not socket.eof:
            turn = self._written
            size = min(host.writes[turn % len(host.writes)], self.scenario.down_bytes - self._at)
            socket.feed(stream(self._at, size)) if size else socket.close()
            self._at += size
            self._written += 1
        self.tcp.clock.after(host.every_s, self._host_turn)

    _at = 0

    def _over(self) -> bool:
        self.tcp.check()
        if self.guest.reset:
            return True
        return self.guest.done and self.socket is not None and bool(self.socket.ended)

    # ---- what must hold

    def check(self) -> None:
        """Both streams are whole, both sides are closed, nothing is left."""
        scenario, socket = self.scenario, self.socket
        assert not self.guest.reset, f"the guest was reset\n{self.tcp.transcript()}"
        assert socket is not None
        for name, got, length in (
            ("up", socket.received, scenario.up_bytes),
            ("down", self.guest.received, scenario.down_bytes),
        ):
            same = got == stream(0, length)
            assert same, f"{name}: {len(got)} of {length} bytes\n{self.tcp.transcript()}"
        assert self.guest.eof
        assert socket.shut, "the host's peer heard no end"
        assert socket.ended == "close"
        self.tcp.at_rest()


def play(scenario: Scenario) -> Run:
    """Play and check."""
    run = Run(scenario)
    run.play()
    run.check()
    return run


# ---- hypothesis

DELAYS = st.sampled_from([0.0, 0.0005, 0.004, 0.05, 0.5])
FATES = st.one_of(
    st.just(CLEAN),
    st.just(LOST),
    st.builds(lambda delay: Fate((delay,)), DELAYS),
    st.builds(lambda first, second: Fate((first, second)), DELAYS, DELAYS),
)


def survivable(fates: list[Fate]) -> bool:
    """Not so many losses that giving up would be right."""
    return sum(fate == LOST for fate in fates) <= LOSSES_SURVIVED // 2


SCRIPTS = st.lists(FATES, max_size=60).filter(survivable).map(tuple)


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Any connection; its streams are long enough for its segments and windows to matter."""
    mtu = draw(st.sampled_from([576, 1500, 65520]))
    mss = draw(st.sampled_from([64, 100, 536, 1460, 8960, 65495]))
    guest_buffer = draw(st.sampled_from([1, 10, 500, 4000, 65535, 300_000]))
    stack_buffer = draw(st.sampled_from([1, 50, 1500, 20_000, 1 << 18]))
    host_reads = draw(st.sampled_from([None, None, 1, 100, 5000]))
    sizes = st.sampled_from([1, 7, 100, 536, 1460, 9000, 64_000])
    guest_reads = draw(st.sampled_from([1 << 30, 1 << 30, 1, 300, 5000]))
    up_pace = min(stack_buffer, host_reads or 1 << 30, 300 * mss)
    down_pace = min(guest_buffer, guest_reads, stack_buffer, 300 * mss)
    down_bytes = draw(st.integers(0, min(60_000, 60 * down_pace)))
    return Scenario(
        up_bytes=draw(st.integers(0, min(60_000, 60 * up_pace))),
        down_bytes=down_bytes,
        guest=GuestOptions(
            mss=mss,
            wscale=draw(st.sampled_from([None, 0, 7, 14])) if guest_buffer > 16384 else None,
            sack=draw(st.booleans()),
            ts=draw(st.booleans()),
            buffer_bytes=guest_buffer,
            segments=tuple(
                max(size, up_pace // 100) for size in draw(st.lists(sizes, min_size=1, max_size=4))
            ),
            read_bytes=guest_reads,
            read_every_s=0.0 if guest_reads == 1 << 30 else 0.02,
            ack_every=draw(st.integers(1, 3)),
        ),
        host=Host(
            writes=(*draw(st.lists(sizes, min_size=1, max_size=3)), 60_000),
            every_s=draw(st.sampled_from([0.001, 0.05])),
            reads=host_reads,
            recv_max=draw(st.sampled_from([None, 1, 1000])) if down_bytes < 3000 else None,
        ),
        up=draw(SCRIPTS),
        down=draw(SCRIPTS),
        mtu=mtu,
        tso=draw(st.booleans()),
        buffer_bytes=stack_buffer,
        by_client=draw(st.booleans()),
        v6=draw(st.booleans()) and mtu >= IP6_MTU_MIN,
        wraps=draw(st.booleans()),
    )


@given(scenarios())
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_streams_arrive_whole(scenario: Scenario) -> None:
    """For any script of loss, delay, reordering, duplication and resegmentation (RFC 9293 3.7)."""
    play(scenario)


# ---- long streams over a link that stays bad


def bad(seed: int, loss: float, reorder: float, duplicate: float) -> list[Fate]:
    """Fates of 4000 segments, by chance."""
    rng = random.Random(seed)
    fates = []
    for _ in range(4000):
        delay = 0.004 * rng.random() if rng.random() < reorder else 0.0
        copies = (delay, 0.002) if rng.random() < duplicate else (delay,)
        fates.append(LOST if rng.random() < loss else Fate(copies))
    return fates


@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("loss", [0.01, 0.05, 0.15])
@pytest.mark.parametrize("seed", [1, 2])
def test_streams_over_a_link_that_stays_bad(seed: int, loss: float, sack: bool) -> None:
    """The same with loss, reordering and duplication throughout, both ways at once."""
    play(
        Scenario(
            up_bytes=200_000,
            down_bytes=400_000,
            guest=GuestOptions(sack=sack),
            up=tuple(bad(seed, loss, 0.1, 0.05)),
            down=tuple(bad(seed ^ DOWN_SEED, loss, 0.1, 0.05)),
        )
    )


@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("queue_bytes", [20_000, 60_000])
def test_streams_through_a_bottleneck(queue_bytes: int, sack: bool) -> None:
    """A queue that overflows: congestion control finds its rate, and loses little time over it."""
    rate = 2_000_000
    run = Run(
        Scenario(
            up_bytes=1000,
            down_bytes=3_000_000,
            guest=GuestOptions(sack=sack, buffer_bytes=1 << 20),
            host=Host(writes=(3_000_000,)),
            bottleneck=Bottleneck(rate, queue_bytes),
        )
    )
    begin_us = run.tcp.clock.now_us
    run._open()
    run.guest.write(stream(0, 1000))
    run.guest.close()
    assert run.tcp.clock.run_until(run._over, LIMIT_S)
    took_s = (run.tcp.clock.now_us - begin_us) / 1e6
    assert run.link.lost > 0
    assert took_s < 2 * 3_000_000 / rate
    run.tcp.advance(20.0)
    run.check()
