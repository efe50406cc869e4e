"""Search domains on the wire: as DHCP, DHCPv6 and router advertisements have them."""

from __future__ import annotations

MAX_LABEL_BYTES = 63
MAX_NAME_BYTES = 255
_POINTER = 0xC0
_MAX_POINTED = 0x3FFF


def wire(domain: str) -> bytes | None:
    """A name in the form of RFC 1035 3.1; None when it is none."""
    labels = domain.rstrip(".").split(".")
    out = b""
    for label in labels:
        data = label.encode("ascii", "replace")
        if not 1 <= len(data) <= MAX_LABEL_BYTES or b"?" in data:
            return None
        out += bytes([len(data)]) + data
    return out + b"\0" if len(out) < MAX_NAME_BYTES else None


def plain(domains: list[str], room: int) -> bytes:
    """Names one after the other (RFC 8415 10, RFC 8106 5.2), as many as `room` bytes hold."""
    out = b""
    for name in map(wire, domains):
        if name is None:
            continue
        if len(out) + len(name) > room:
            break
        out += name
    return out


def compressed(domains: list[str]) -> bytes:
    """The same with pointers to what has been said before (RFC 3397 2, RFC 1035 4.1.4)."""
    out = bytearray()
    known: dict[bytes, int] = {}  # suffix -> where it stands
    for name in map(wire, domains):
        if name is None:
            continue
        at = 0
        while name[at]:
            suffix = name[at:]
            pointed = known.get(suffix)
            if pointed is not None:
                out += (_POINTER << 8 | pointed).to_bytes(2, "big")
                break
            if len(out) <= _MAX_POINTED:
                known[suffix] = len(out)
            end = at + 1 + name[at]
            out += name[at:end]
            at = end
        else:
            out += b"\0"
    return bytes(out)
