"""The fuzzer's scripts, written by people: operations by name (ext/slirp/core/fuzz_script.pyx).

    script(handshake(), text(), feed(4096), passing(10))

`python3 scripts.py FOLDER` writes SEEDS there, from which the fuzzer starts: a path into every
protocol and state, so that it need not find a handshake by chance.
"""

from __future__ import annotations

import pathlib
import sys

from slirp.core.fuzz_script import CALLS_BY_NAME, ERRNOS, OPERATIONS

OFFLOAD = {"none": 0, "csum": 4, "tso": 8, "all": 12}
LOOPBACK, DNS, AUTO_ACK, IPV6 = 16, 32, 64, 128
SILENT, EOFS, ERRORS, AT_ONCE = range(4)  # how a world ends
GUEST, GATEWAY, DNS_ADDRESS, WORLD = range(4)  # fuzz_address
MSS_WSCALE_SACK_TS = 0x0F
SYN_OPTIONS = bytes((0x05, 0xB4, 7))  # what it reads: MSS 1460, shift 7
SPANS_S = (
    0.001, 0.01, 0.04, 0.2, 1.0, 10.0, 75.0, 200.0, 7200.0, 86400.0,
    30 * 86400.0, 0.0005, 3.0, 60.0, 600.0, 130.0,
)  # fmt: skip


def script(
    *operations: bytes,
    link: int = OFFLOAD["tso"] | LOOPBACK | DNS | AUTO_ACK,
    bounds: int = 0x3A,
    end: int = SILENT,
) -> bytes:
    """Settings and operations. `bounds`: buffers of 1 MiB, memory of 4 MiB, 1024 flows."""
    return bytes((link, bounds, end)) + b"".join(operations)


def op(name: str, *arguments: int) -> bytes:
    """One operation with its bytes."""
    return bytes((OPERATIONS.index(name), *arguments))


def word(number: int) -> tuple[int, int]:
    """Two bytes."""
    return number >> 8 & 0xFF, number & 0xFF


def handshake(conn: int = 0x10) -> bytes:
    """A connection of the guest's becomes ESTABLISHED."""
    return op("handshake", conn, MSS_WSCALE_SACK_TS, *SYN_OPTIONS)


def text(conn: int = 0x10, size: int = 4) -> bytes:
    """Text of the guest's; 4: 1,460 bytes."""
    return op("text", conn, size)


def segment(flags: int, numbers: int = 0, sizes: int = 0, options: int = 0, *more: int,
            conn: int = 0x10) -> bytes:  # fmt: skip
    """A segment: its numbers as fuzz_guest has them."""
    return op("segment", conn, flags, numbers, sizes, options, *more)


def feed(count: int, eof: bool = False, socket: int = 0) -> bytes:
    """The host's peer sends bytes."""
    return op("feed", socket, 1 | eof << 1, *word(count // 16))


def passing(seconds: float, leap: bool = False) -> bytes:
    """Time."""
    return op("time", SPANS_S.index(seconds) | leap << 7)


def fault(call: str, error: int, count: int = 1) -> bytes:
    """The next calls fail with that errno."""
    return op("fault", CALLS_BY_NAME.index(call), ERRNOS.index(error), count)


NO_FAULT = op("fault", 0, 0, 0)


def udp(ends: int = WORLD, ports: int = 0x41, length: int = 100) -> bytes:
    """A datagram of the guest's."""
    return op("udp", ends, ports, *word(length), 0)


def ping(ends: int = WORLD) -> bytes:
    """An echo request of the guest's."""
    return op("icmp", ends, 8, 0, 0, 7, 0, 1, 0, 4, 1, 2, 3, 4)


def forward(proto: str) -> bytes:
    """A port of the host leads to the guest."""
    return op("forward", 4 | 2 * (proto == "udp"))


def arrive(how: int = 3, *more: int, socket: int = 0) -> bytes:
    """A client, or a datagram, comes to a socket."""
    return op("arrive", socket, how, *more)


SYN, ACK, FIN, RST = 0x02, 0x10, 0x01, 0x04
FRAG_NEEDED = op("icmp", GATEWAY, 3, 0, *word(0), *word(600), 0, 0, 1)
SACK_AHEAD = segment(ACK, 5 << 3, 0x10, 16, 0, 0, 100, 2, 0)

# Every call of the host is made, in both directions of every protocol.
ROUND_TRIP_STEPS = (
    handshake(), text(), feed(8192), text(size=7),
    forward("tcp"), arrive(),
    segment(SYN | ACK, 0, 0, MSS_WSCALE_SACK_TS, *SYN_OPTIONS, conn=5), segment(ACK, conn=5),
    feed(1024), text(conn=5),
    forward("udp"), arrive(3, 0, 60),
    udp(), arrive(3, 0, 50), op("report", 0, 6, 3, 1, 0, 0, 3, 3),
    udp(DNS_ADDRESS, 1), udp(GATEWAY), ping(), ping(GATEWAY), arrive(3, 0, 40),
    segment(FIN | ACK), feed(16, eof=True, socket=1), passing(1.0),
)  # fmt: skip
ROUND_TRIP = b"".join(ROUND_TRIP_STEPS)

SEEDS = {
    "round_trip": script(ROUND_TRIP),
    "closes_first": script(handshake(), segment(FIN | ACK, 0, 4), feed(144, eof=True), text()),
    "closed_first": script(handshake(), feed(64, eof=True), segment(FIN | ACK), passing(200.0)),
    "gaps": script(
        handshake(), segment(ACK, 5, 4, 0, 20), segment(ACK, 5, 4, 0, 40), text(),
        segment(ACK, 2, 6, 0x20, *word(4000), 0),
    ),
    "loss": script(
        handshake(), feed(1 << 18), SACK_AHEAD, SACK_AHEAD, SACK_AHEAD, op("acks"),
        op("deadline"), op("acks"), link=OFFLOAD["none"] | LOOPBACK,
    ),
    "shut_window": script(
        handshake(), segment(ACK, 0, 0x10), feed(4096), passing(10.0), passing(75.0), op("acks"),
    ),
    "full_host": script(
        handshake(), op("room", 0, 1, *word(10)), text(size=7), text(size=7),
        op("room", 0, 0, 0, 0), op("die", 0, 8),
    ),
    "smaller_path": script(handshake(), feed(1 << 16), FRAG_NEEDED, link=OFFLOAD["csum"]),
    "link_full": script(handshake(), fault("link_send", ERRNOS[0], 16), feed(1 << 15), ROUND_TRIP),
    "refused": script(
        segment(SYN, 0, 0, MSS_WSCALE_SACK_TS, *SYN_OPTIONS), op("connected", 0, 14),
        op("mutate", 0, 40, 1, 0, 0), end=ERRORS,
    ),
    "neighbours": script(op("arp", 3), op("arp", 5), op("arp", 0x34), op("arp", 0x25)),
    "fragment": script(op("datagram", WORLD, 17, 4, *word(16), *word(0x2000), *range(16))),
    "leap": script(handshake(), feed(4096), passing(30 * 86400.0, leap=True), end=AT_ONCE),
    "ipv6": script(
        handshake(0x50), text(0x50), feed(4096), udp(0x80 | WORLD), ping(0x80 | WORLD),
        op("icmp", 0x80 | 10, 135, 0, 0, 0, 0, 0, *word(16), 0xFD, *[0] * 14, 2), end=EOFS,
        link=OFFLOAD["all"] | LOOPBACK | DNS | IPV6 | AUTO_ACK,
    ),
}  # fmt: skip


def main(folder: str) -> None:
    """Write the seeds."""
    for name, seed in SEEDS.items():
        (pathlib.Path(folder) / f"seed-{name}").write_bytes(seed)


if __name__ == "__main__":
    main(sys.argv[1])
