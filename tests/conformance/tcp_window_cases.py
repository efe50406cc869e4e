"""Windows: RFC 9293 3.8.6, RFC 1122 4.2.3.3, 4.2.3.4, RFC 7323 2, RFC 5961 on windows."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time

from conformance.endpoint import Tcp, mss, wscale
from conformance.net import Net
from conformance.packets import ACK, FIN, PSH, RST, Packet
from conformance.suite import case
from conformance.wire import CaseError
from lab.servers import receive_exactly


def fill(server: socket.socket, size: int) -> None:
    """Send without waiting for it to go."""
    server.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        server.send(b"w" * size)
    server.settimeout(3)


def in_flight(client: Tcp, seconds: float = 0.3) -> list[Packet]:
    """The segments with text that come within that time."""
    return client.wire.all(lambda p: client.ours(p) and bool(p.data), seconds)


def right_edge(client: Tcp, packets: list[Packet]) -> int:
    """How far text has gone beyond what was acknowledged."""
    return max(((p.seq + len(p.data) - client.rcv) & 0xFFFFFFFF for p in packets), default=0)


@case("RFC 9293 3.8.6")
def a_window_is_never_overrun(net: Net) -> None:
    with net.connected(options=mss(1000), win=2500) as (client, server):
        fill(server, 50_000)
        edge = right_edge(client, in_flight(client))
        if not 1000 <= edge <= 2500:
            raise CaseError(f"{edge} octets into a window of 2500")


@case("RFC 9293 3.8.6")
def an_opening_window_is_used(net: Net) -> None:
    with net.connected(options=mss(1000), win=1000) as (client, server):
        fill(server, 50_000)
        in_flight(client)
        client.rcv += 1000
        client.send(win=5000)
        edge = right_edge(client, in_flight(client))
        if not 2000 <= edge <= 5000:
            raise CaseError(f"{edge} octets into a window of 5000")


@case("RFC 9293 3.8.6.1", seconds=5)
def a_shut_window_is_probed(net: Net) -> None:
    with net.connected(options=mss(1000), win=1000) as (client, server):
        fill(server, 50_000)
        in_flight(client)
        client.rcv += 1000
        client.send(win=0)
        client.forget()
        for _ in range(2):
            probe = client.expect("window probe", lambda p: True, 4)
            if (probe.seq - client.rcv) & 0xFFFFFFFF not in (0, 0xFFFFFFFF):
                raise CaseError(f"a probe at {probe.seq - client.rcv}")
            if len(probe.data) > 1:
                raise CaseError(f"{len(probe.data)} octets into a shut window")
            client.send(win=0)
        client.send(win=5000)
        edge = right_edge(client, in_flight(client, 1.0))
        if edge < 3000:
            raise CaseError(f"only {edge} octets after the window opened")


@case("RFC 9293 3.8.6.1", seconds=6)
def a_lost_window_update_is_recovered_from(net: Net) -> None:
    with net.connected(options=mss(1000), win=1000) as (client, server):
        fill(server, 20_000)
        in_flight(client)
        client.rcv += 1000
        client.send(win=0)
        client.forget()
        probe = client.expect("window probe", seconds=4)
        taken = len(probe.data)
        client.rcv += taken
        client.send(win=10_000)
        edge = right_edge(client, in_flight(client, 1.0))
        if edge < 2000:
            raise CaseError(f"only {edge} octets after the probe was answered")


@case("RFC 9293 3.8.6.1", seconds=7)
def a_shut_window_does_not_end_the_connection(net: Net) -> None:
    with net.connected(options=mss(1000), win=1000) as (client, server):
        fill(server, 20_000)
        in_flight(client)
        client.rcv += 1000
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline:
            client.send(win=0)
            for packet in client.wire.all(client.ours, 0.5):
                if packet.flags & (RST | FIN):
                    raise CaseError(f"{packet}")
        client.push(b"alive", server)


@case("RFC 1122 4.2.2.17", seconds=8)
def probes_back_off(net: Net) -> None:
    with net.connected(options=mss(1000), win=1000) as (client, server):
        fill(server, 20_000)
        in_flight(client)
        client.rcv += 1000
        client.send(win=0)
        client.forget()
        times = []
        for _ in range(4):
            client.expect("window probe", seconds=8)
            times.append(time.monotonic())
            client.send(win=0)
        gaps = [b - a for a, b in itertools.pairwise(times)]
        if not gaps[0] * 1.5 < gaps[1] or not gaps[1] * 1.5 < gaps[2]:
            raise CaseError(f"gaps of {gaps}")


@case("RFC 9293 3.8.6.2.1", seconds=1.5)
def no_silly_segments_into_a_small_window(net: Net) -> None:
    """SWS avoidance: 100 octets of room are not used at once where a segment is 1000."""
    with net.connected(options=mss(1000), win=10_000) as (client, server):
        fill(server, 9000)
        got = in_flight(client)
        client.rcv += right_edge(client, got)
        client.send(win=100)
        client.forget()
        fill(server, 9000)
        small = in_flight(client, 0.1)
        if any(1 < len(p.data) <= 100 for p in small):
            raise CaseError("a small segment at once")


@case("RFC 9293 3.8.6")
def a_shrunk_window_does_no_harm(net: Net) -> None:
    with net.connected(options=mss(1000), win=10_000) as (client, server):
        fill(server, 5000)
        got = in_flight(client)
        client.rcv += 2000
        client.send(win=1000)
        client.send(win=500)
        in_flight(client, 0.4)
        client.rcv += right_edge(client, got) - 2000 if got else 0
        client.rcv = (client.irs + 1 + 2000) & 0xFFFFFFFF
        client.send(win=20_000)
        if client.expect_data(3000) != b"w" * 3000:
            raise CaseError("other text")


@case("RFC 9293 3.8.6, 1122 4.2.2.16", seconds=1)
def our_window_never_shrinks(net: Net) -> None:
    """The right edge that was told stays: the far end does not read, the guest sends."""
    with net.connected(options=mss(1460) + wscale(7)) as (client, server):
        server.setblocking(False)
        edge = (client.nxt + (client.peer_syn.win if client.peer_syn else 0)) & 0xFFFFFFFF
        shift = client.peer_syn.options.get(3, b"\0")[0] if client.peer_syn else 0
        for _ in range(40):
            client.send(ACK, b"f" * 1460)
            for packet in client.wire.all(client.ours, 0.005):
                new = (packet.ack + (packet.win << shift)) & 0xFFFFFFFF
                if (new - edge) & 0x80000000:
                    raise CaseError(f"the edge went back by {(edge - new) & 0xFFFFFFFF}")
                edge = new


@case("RFC 9293 3.8.6", seconds=4)
def our_window_closes_and_opens_again(net: Net) -> None:
    """Backpressure: the host does not read; what was acknowledged arrives when it does."""
    with net.connected(options=mss(1460)) as (client, server):
        start = client.nxt
        edge = start + (client.peer_syn.win if client.peer_syn else 0)
        stuck = 0
        while stuck < 3 and client.nxt - start < 16 << 20:
            room = min(1460, edge - client.nxt)
            if room > 0:
                client.send(ACK, b"f" * room)
            heard = client.wire.all(client.ours, 0.001 if room > 0 else 0.2)
            stuck = 0 if room > 0 or heard else stuck + 1
            for packet in heard:
                edge = max(edge, packet.ack + packet.win)
        client.send(ACK, b"1", at=client.nxt)  # a probe
        client.expect("answer to a probe", lambda p: bool(p.flags & ACK), 1)
        total = client.nxt - start
        if receive_exactly(server, total) != b"f" * total:
            raise CaseError("other text")
        client.expect("window update", lambda p: p.win > 0 and p.ack >= client.nxt, 3)
        # the octet of the probe may have been taken
        client.send(ACK | PSH, b"1")
        if receive_exactly(server, 1) != b"1":
            raise CaseError("other text")


@case("RFC 7323 2.2")
def window_of_the_syn_is_not_scaled(net: Net) -> None:
    with net.connected(options=mss(1000) + wscale(8), win=1000) as (client, server):
        # the SYN's 1000 count as they are; the handshake's ACK says 1000 << 8
        client.send(win=4)
        fill(server, 100_000)
        edge = right_edge(client, in_flight(client))
        if edge > 256_000:
            raise CaseError("the window is overrun")


@case("RFC 7323 2.2")
def scaled_windows_are_used(net: Net) -> None:
    with net.connected(options=mss(1460) + wscale(4), win=65535) as (client, server):
        client.send(win=16_000)
        fill(server, 400_000)
        deadline, edge = time.monotonic() + 1.5, 0
        while time.monotonic() < deadline and edge < 20_000:
            edge = max(edge, right_edge(client, in_flight(client, 0.1)))
            got = [p for p in [*client.wire.waiting] if client.ours(p)]
            del got
            client.rcv = (client.rcv + edge) & 0xFFFFFFFF
            if edge:
                client.send(win=16_000)
        if edge < 5000:
            raise CaseError(f"{edge} octets into a window of 256000")


@case("RFC 7323 2.2")
def our_scale_is_offered(net: Net) -> None:
    with net.connected(options=mss(1460) + wscale(7)) as (client, _):
        if not client.peer_syn or 3 not in client.peer_syn.options:
            raise CaseError("no window scale in answer to one")


@case("RFC 7323 2.3")
def a_shift_above_14_counts_as_14(net: Net) -> None:
    with net.connected(options=mss(1000) + wscale(255), win=65535) as (client, server):
        client.send(win=1)  # 16,384 octets
        fill(server, 100_000)
        edge = right_edge(client, in_flight(client))
        if not 1000 <= edge <= 16_384:
            raise CaseError(f"{edge} octets into a window of 16384")


@case("RFC 7323 2.2")
def no_scale_without_an_offer(net: Net) -> None:
    with net.connected(options=mss(1000), win=4000) as (client, server):
        if client.peer_syn and 3 in client.peer_syn.options:
            raise CaseError("window scale without an offer")
        fill(server, 50_000)
        if right_edge(client, in_flight(client)) > 4000:
            raise CaseError("a window of 4000 is overrun")


@case("RFC 9293 3.8.6")
def a_window_of_one_octet(net: Net) -> None:
    with net.connected(options=mss(1000), win=1) as (client, server):
        server.sendall(b"abc")
        for wanted in b"abc":
            packet = client.expect("an octet", lambda p: bool(p.data) and p.seq == client.rcv, 3)
            if packet.data != bytes([wanted]):
                raise CaseError(f"{packet.data!r}")
            client.rcv += 1
            client.send(win=1)


@case("RFC 9293 3.10.7.4 fifth")
def an_old_segment_does_not_set_the_window(net: Net) -> None:
    """SND.WL1, SND.WL2."""
    with net.connected(options=mss(1000), win=10_000) as (client, server):
        old = client.nxt
        client.push(b"x" * 100, server)
        client.send(win=3000)
        client.send(win=60_000, at=old)
        client.forget()
        fill(server, 50_000)
        if (edge := right_edge(client, in_flight(client))) > 3000:
            raise CaseError(f"{edge} octets: an old segment has opened the window")


@case("RFC 9293 3.8.6.1")
def an_ack_into_our_shut_window_counts(net: Net) -> None:
    """A segment at RCV.NXT with text beyond the window: its ACK is processed."""
    with net.connected(options=mss(1000), win=5000) as (client, server):
        server.sendall(b"question")
        client.expect_data(8, acknowledge=False)
        client.send(ACK)
        client.silence("a retransmission of what was acknowledged", 0.5, data_only=True)


@case("RFC 1122 4.2.2.17")
def a_probe_of_ours_is_answered(net: Net) -> None:
    with net.connected(options=mss(1460)) as (client, server):
        client.push(b"x", server)
        client.forget()
        client.send(ACK, b"", at=client.nxt - 1)
        client.expect_ack(client.nxt, 0.4)
