"""A storm of frames from inside a guest: whoever is root there may put anything on the TAP.

Frames are made from a seed, so that a storm that did harm can be made again: valid ones of every
protocol, the same with bytes changed, cut or torn apart, datagrams in pieces that are whole
together, and noise. Half of the others go out with a virtio-net
header that says anything of checksums and segmentation, which the guest's kernel passes on as far
as it believes it.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterator

from lab.topology import Guest

ETH_P_ALL = 0x0003
SOL_PACKET = 263
PACKET_VNET_HDR = 15
PACKET_QDISC_BYPASS = 20
VNET_HLEN = 10
GATEWAY_MAC = bytes.fromhex("52550a000202")  # 52:55 and its address
GUEST_MAC = bytes.fromhex("020000000001")
GUEST = bytes((10, 0, 2, 100))
DESTINATIONS = (
    *(bytes((10, 0, 2, last)) for last in (0, 2, 3, 77, 100, 255)),
    *(bytes((198, 51, 100, last)) for last in (1, 2, 3)),
    *(bytes(address) for address in ((192, 0, 2, 9), (127, 0, 0, 1), (224, 0, 0, 1), (0, 0, 0, 0))),
)
TCP_FLAGS = (0x02, 0x10, 0x12, 0x18, 0x11, 0x04, 0x14, 0x29, 0x00, 0xFF)


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2]))
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)


def header4(proto: int, ident: int, fragment: int, n: int, to: bytes) -> bytes:
    """An IPv4 header for `n` bytes, with a right checksum."""
    fields = (0x45, 0, 20 + n, ident, fragment, 64, proto, 0)
    head = bytearray(struct.pack("!BBHHHBBH", *fields) + GUEST + to)
    head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
    return bytes(head)


def ipv4(dice: random.Random, proto: int, payload: bytes) -> bytes:
    """A datagram with a right header, of which anything may be a fragment."""
    fragment = dice.choice((0, 0, 0, 0x4000, 0x2000, 0x2001, 185, dice.randrange(1 << 16)))
    to = dice.choice(DESTINATIONS)
    return header4(proto, dice.randrange(8), fragment, len(payload), to) + payload


def transport(dice: random.Random) -> tuple[int, bytes]:
    """A protocol number and what belongs behind it."""
    text = dice.randbytes(dice.choice((0, 1, 8, 100, 1400)))
    ports = struct.pack("!HH", 40000 + dice.randrange(64), dice.choice((53, 80, 7, 0, 443)))
    kind = dice.randrange(4)
    if kind == 0:
        fields = (dice.getrandbits(32), dice.getrandbits(32), dice.choice((0x50, 0x60, 0xA0, 0xF0)))
        head = struct.pack("!IIBBHHH", *fields, dice.choice(TCP_FLAGS), 65535, 0, 0)
        return 6, ports + head + text
    if kind == 1:
        return 17, ports + struct.pack("!HH", 8 + len(text), 0) + text
    if kind == 2:
        message = bytearray(bytes((dice.choice((8, 0, 3, 11)), 0, 0, 0)) + ports + text)
        message[2:4] = checksum(bytes(message)).to_bytes(2, "big")
        return 1, bytes(message)
    return dice.randrange(256), text


def ipv6(dice: random.Random) -> bytes:
    """A datagram, or a solicitation of a neighbour or router."""
    proto, payload = transport(dice)
    if dice.random() < 0.3:
        proto, payload = 58, bytes((dice.choice((133, 135, 128)), 0)) + dice.randbytes(30)
    source = bytes.fromhex("fd000000000000000000000000000064")
    target = bytes.fromhex("fd00000000000000") + dice.randbytes(7) + bytes((dice.choice((2, 3)),))
    return struct.pack("!IHBB", 0x60000000, len(payload), proto, 64) + source + target + payload


def frame(dice: random.Random) -> bytes:
    """One frame behind its Ethernet header."""
    kind = dice.random()
    if kind < 0.05:
        arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, dice.choice((1, 2))) + GUEST_MAC + GUEST
        body, ethertype = arp + bytes(6) + dice.choice(DESTINATIONS), 0x0806
    elif kind < 0.2:
        body, ethertype = ipv6(dice), 0x86DD
    elif kind < 0.95:
        body, ethertype = ipv4(dice, *transport(dice)), 0x0800
    else:
        body, ethertype = dice.randbytes(dice.randrange(1, 1500)), dice.choice((0x0800, 0x86DD))
    whole = bytearray(GATEWAY_MAC + GUEST_MAC + ethertype.to_bytes(2, "big") + body)
    if dice.random() < 0.5:
        for _ in range(dice.choice((1, 1, 2, 8))):
            whole[dice.randrange(min(len(whole), 80))] = dice.randrange(256)
    if dice.random() < 0.1:
        del whole[dice.randrange(14, len(whole)) :]
    return bytes(whole[:1514])


def pieces(dice: random.Random) -> list[bytes]:
    """The frames of one datagram in fragments, in any order; some of them twice."""
    proto, payload = transport(dice)
    payload += dice.randbytes(16)
    size = max(8, len(payload) // dice.choice((2, 3, 4)) // 8 * 8)
    ident, to = dice.randrange(1 << 16), dice.choice(DESTINATIONS)
    v6 = dice.random() < 0.3
    frames = []
    for at in range(0, len(payload), size):
        part, more = payload[at : at + size], at + size < len(payload)
        if v6:
            body = struct.pack("!BBHI", proto, 0, at | more, ident) + part
            head = struct.pack("!IHBB", 0x60000000, len(body), 44, 64)
            head += bytes.fromhex("fd000000000000000000000000000064")
            head += bytes.fromhex("fd000000000000000000000000000002")
        else:
            body, field = part, at // 8 | (0x2000 if more else 0)
            head = header4(proto, ident, field, len(part), to)
        ethertype = 0x86DD if v6 else 0x0800
        frames.append(GATEWAY_MAC + GUEST_MAC + ethertype.to_bytes(2, "big") + head + body)
    if dice.random() < 0.2:
        frames.append(dice.choice(frames))
    dice.shuffle(frames)
    return frames


def burst(dice: random.Random) -> list[bytes]:
    """A frame, or all of a datagram."""
    return pieces(dice) if dice.random() < 0.03 else [frame(dice)]


def vnet(dice: random.Random, frame_bytes: int) -> bytes:
    """A virtio-net header: none of its promises, or some that may be true."""
    if dice.random() < 0.5:
        return bytes(VNET_HLEN)
    gso, size = dice.choice((0, 0, 1, 4, 5)), dice.choice((1, 100, 1400))
    start, field = dice.choice((34, 34, 54, dice.randrange(64))), dice.choice((6, 16))
    return struct.pack("<BBHHHH", 1, gso, 54, size, start, field)


@contextlib.contextmanager
def door(guest: Guest, interface: str = "tap0") -> Iterator[socket.socket]:
    """A packet socket on the guest's TAP that takes virtio-net headers."""
    opened = guest.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, 0)
    with opened:
        opened.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        guest.call(opened.bind, (interface, ETH_P_ALL))
        yield opened


def storm(guest: Guest, frames: int, seed: int, prepared: int = 20000) -> int:
    """Send that many frames; how many the guest's kernel took. Beyond `prepared` they come again
    in another order, with other bytes changed.
    """
    dice = random.Random(seed)
    kept = [burst(dice) for _ in range(min(frames, prepared))]
    fresh = iter(kept)
    taken = number = 0
    with door(guest) as out:
        while number < frames:
            bodies = next(fresh, None)
            if bodies is None:
                bodies = dice.choice(kept)
                bodies = [_again(dice, bodies[0])] if len(bodies) == 1 else bodies
            for body in bodies:
                header = vnet(dice, len(body)) if len(bodies) == 1 else bytes(VNET_HLEN)
                with contextlib.suppress(OSError):  # its own kernel does not believe the header
                    out.send(header + body)
                    taken += 1
            number += len(bodies)
    return taken


def _again(dice: random.Random, body: bytes) -> bytes:
    changed = bytearray(body)
    changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)
