#!/usr/bin/env python3
"""What the core costs alone: a frame or an event in, what follows from it out, nothing else.

    python3 bench/micro.py                 nanoseconds for each operation, the least of five rounds
    python3 bench/micro.py tcp-up udp-up   some of them

The core is turned in C between a host and a link that do nothing (ext/slirp/core/mill.pyx), so that
neither Python nor the kernel is part of the figures. bench/instructions.py counts the instructions
of the same operations, which a noisy machine cannot disturb.
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))

import dpkt  # noqa: E402

from harness.ip import (  # noqa: E402
    ETH_HLEN,
    IP_HLEN,
    IP_TCP,
    VNET_HLEN,
    VNET_NEEDS_CSUM,
    Vnet,
    build_frame,
    build_ip,
)
from harness.net import (  # noqa: E402
    DNS,
    GATEWAY,
    GATEWAY_MAC,
    GUEST,
    GUEST_MAC,
    LINK_CSUM,
    LINK_TSO4,
    NETWORK,
    WORLD,
)
from harness.pkt import Segment, flag_bits  # noqa: E402
from harness.wire import (  # noqa: E402
    TCP_CSUM_OFFSET,
    build_segment,
    parse_segment,
    train_header,
)
from slirp.core.mill import Mill  # noqa: E402

LINK_USO4 = 32
VNET_GSO_UDP_L4 = 5
IP_UDP = 17
MSS = 1448  # MTU 1500 with time-stamps
TRAIN_BYTES = 45 * MSS
DATAGRAM_BYTES = 1400
DATAGRAM_TRAIN = 44 * DATAGRAM_BYTES
BATCH = 32  # frames that one wake-up of the Engine finds, when there is traffic
WINDOW_BYTES = 512 << 10  # less than what a connection may send at once
FIRST_PORT = 10_000
SUMMED = Vnet(VNET_NEEDS_CSUM, 0, 0, 0, ETH_HLEN + IP_HLEN, TCP_CSUM_OFFSET)
ROUNDS = 5
OPERATIONS = 20_000


def mill(offload: int = LINK_CSUM | LINK_TSO4 | LINK_USO4, mtu: int = 1500) -> Mill:
    """A stack with the daemon's settings."""
    return Mill(
        mtu=mtu,
        network4=NETWORK,
        prefix_len4=24,
        gateway4=GATEWAY,
        dns4=DNS,
        guest4=GUEST,
        gateway_mac=GATEWAY_MAC,
        guest_mac=GUEST_MAC,
        offload=offload,
        host_loopback=True,
        dns_enabled=True,
        max_flows=32768,
        tcp_buffer_bytes=4 << 20,
        memory_bytes=256 << 20,
    )


def frame(datagram: bytes, vnet: Vnet | None = None) -> bytes:
    """A frame of the guest's."""
    return build_frame(GUEST_MAC, GATEWAY_MAC, datagram, vnet)


def tcp_frame(segment: Segment, vnet: Vnet | None = None) -> bytes:
    """A segment of the guest's; without `vnet` its checksum is left to offload."""
    if segment.gso:
        vnet = train_header(segment)
    return frame(build_ip(GUEST, WORLD, IP_TCP, build_segment(segment)), vnet or SUMMED)


def udp_frame(size: int, vnet: Vnet | None = None, port: int = FIRST_PORT) -> bytes:
    """A datagram of the guest's, or what `vnet` makes of it."""
    data = dpkt.udp.UDP(sport=port, dport=9, data=bytes(size))
    data.ulen = len(data)
    return frame(build_ip(GUEST, WORLD, IP_UDP, data), vnet)


def open_tcp(mill: Mill, port: int = FIRST_PORT) -> Segment:
    """Open a connection; an ACK on it, which further segments are made from."""
    syn = Segment(
        src_port=port, dst_port=80, flags=flag_bits("S"), seq=1000, win=65535,
        mss=1460, wscale=10, sack_ok=True, ts=(1, 0),
    )  # fmt: skip
    mill.load([tcp_frame(syn)])
    mill.run_frames(1, 1)
    mill.connected()
    answer = parse_segment(mill.last_frame[VNET_HLEN + ETH_HLEN + IP_HLEN :])
    assert answer.has("S.")
    assert answer.ts is not None
    ack = Segment(
        src_port=port, dst_port=80, flags=flag_bits("."), seq=1001,
        ack=answer.seq + 1 & 0xFFFFFFFF, win=65535, ts=(2, answer.ts[0]),
    )  # fmt: skip
    mill.load([tcp_frame(ack)])
    mill.run_frames(1, 1)
    return ack


@dataclasses.dataclass(frozen=True)
class Operation:
    """What is turned, and how: `turn` makes so many operations and tells the nanoseconds.

    Each carries so many bytes of text `up` to the host or `down` to the guest.
    """

    mill: Mill
    turn: Callable[[int], int]
    up: int = 0
    down: int = 0

    def dropped(self) -> dict[str, int]:
        """The frames that were dropped, by reason."""
        stats = self.mill.stats()
        return {name: n for name, n in stats.items() if name.startswith("drop_") and n}


def arp() -> Operation:
    """Who has the gateway's address: parsed and answered."""
    request = dpkt.arp.ARP(sha=GUEST_MAC, spa=GUEST, tpa=GATEWAY)
    turned = mill()
    turned.load([bytes(Vnet()) + b"\xff" * 6 + GUEST_MAC + b"\x08\x06" + bytes(request)])
    return Operation(turned, lambda times: turned.run_frames(times, BATCH))


def parse() -> Operation:
    """A datagram whose length is a lie: Ethernet, IP and the accounts."""
    turned = mill()
    turned.load([frame(build_ip(GUEST, WORLD, IP_UDP, bytes(64)))])
    return Operation(turned, lambda times: turned.run_frames(times, BATCH))


def udp_up(vnet: Vnet | None, size: int = DATAGRAM_BYTES) -> Operation:
    """Datagrams, or trains, of one mapping to the host."""
    turned = mill()
    turned.load([udp_frame(size, vnet)])
    return Operation(turned, lambda times: turned.run_frames(times, BATCH), up=size)


def udp_down(offload: int, size: int = DATAGRAM_BYTES, segment: int = 0) -> Operation:
    """Datagrams, or trains, from the host to a mapping."""
    turned = mill(offload)
    turned.load([udp_frame(64)])
    turned.run_frames(1, 1)
    return Operation(
        turned, lambda times: turned.run_datagrams(times // BATCH, BATCH, size, segment), down=size
    )


def tcp_up(text: int, gso: int = 0, flows: int = 1) -> Operation:
    """Segments, or trains, of so many connections in turn to the host."""
    turned = mill()
    acks = [open_tcp(turned, FIRST_PORT + at) for at in range(flows)]
    segments = [
        tcp_frame(dataclasses.replace(ack, text=bytes(text), gso=gso, flags=flag_bits("P.")))
        for ack in acks
    ]
    turned.load(segments, text)
    turned.run_frames(flows, 1)  # the first window, which no scale applies to, is small
    batch = min(BATCH, WINDOW_BYTES // text)
    return Operation(turned, lambda times: turned.run_frames(times, batch), up=text)


def tcp_down(chunk: int, offload: int, segments: int = 1) -> Operation:
    """The host's bytes to the guest, and its ACK; each counts as so many operations."""
    turned = mill(offload)
    turned.load([tcp_frame(open_tcp(turned))])
    return Operation(
        turned,
        lambda times: turned.run_stream(times // segments, chunk),
        down=chunk // segments,
    )


def tcp_ack() -> Operation:
    """An ACK that opens the window, with nothing to send."""
    turned = mill()
    ack = open_tcp(turned)
    turned.load([tcp_frame(dataclasses.replace(ack, win=win)) for win in (60000, 65535)])
    return Operation(turned, lambda times: turned.run_frames(times, BATCH))


ALL = LINK_CSUM | LINK_TSO4 | LINK_USO4
UDP_SUMMED = Vnet(VNET_NEEDS_CSUM, 0, 0, 0, ETH_HLEN + IP_HLEN, 6)
UDP_TRAIN = Vnet(
    VNET_NEEDS_CSUM, VNET_GSO_UDP_L4, ETH_HLEN + IP_HLEN + 8, DATAGRAM_BYTES, ETH_HLEN + IP_HLEN, 6
)
CELLS: dict[str, Callable[[], Operation]] = {
    "parse": parse,
    "arp": arp,
    "udp-up": lambda: udp_up(UDP_SUMMED),
    "udp-up-sum": lambda: udp_up(None),
    "udp-up-train": lambda: udp_up(UDP_TRAIN, DATAGRAM_TRAIN),
    "udp-down": lambda: udp_down(ALL),
    "udp-down-sum": lambda: udp_down(0),
    "udp-down-train": lambda: udp_down(ALL, DATAGRAM_TRAIN, DATAGRAM_BYTES),
    "tcp-up": lambda: tcp_up(MSS),
    "tcp-up-train": lambda: tcp_up(TRAIN_BYTES, MSS),
    "tcp-up-1000": lambda: tcp_up(MSS, flows=1_000),
    "tcp-up-20000": lambda: tcp_up(MSS, flows=20_000),
    "tcp-down": lambda: tcp_down(MSS, ALL),
    "tcp-down-train": lambda: tcp_down(TRAIN_BYTES, ALL),
    "tcp-down-cut": lambda: tcp_down(TRAIN_BYTES, 0, 45),
    "tcp-ack": tcp_ack,
}


def measure(names: Sequence[str], operations: int = OPERATIONS) -> Iterator[tuple[str, float]]:
    """Nanoseconds for each operation: the least of some rounds, the first of which warms up."""
    for name in names:
        operation = CELLS[name]()
        operation.turn(operations)
        yield name, min(operation.turn(operations) for _ in range(ROUNDS)) / operations


def main(argv: Sequence[str]) -> int:
    """Print a Markdown table; 2 for a name that is none."""
    unknown = sorted(set(argv) - set(CELLS))
    if unknown:
        print(f"micro: no such operation: {', '.join(unknown)} (known: {', '.join(CELLS)})")
        return 2
    print("| operation | ns |\n| --- | ---: |")
    for name, ns in measure(argv or list(CELLS)):
        print(f"| {name} | {ns:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
