"""TCP segments and packetdrill's notation for them.

    FLAGS [SEQ:END(LENGTH)] [ack N] [win N] [urg N] [<OPTION,OPTION...>]

FLAGS: letters of S F R P U E W, and `.` for ACK. OPTION: `mss N`, `wscale N`, `sackOK`,
`sack A:B C:D`, `TS val N ecr N`, `gso N` (not an option of TCP's: the frame is a train to be cut
every N bytes) and `no X`, which says that X is absent. Sequence numbers are relative to the ISN of
the side that they belong to; windows, not scaled, and time-stamps are as on the wire.

What a notation leaves out, it does not speak of: see expect.py.
"""

from __future__ import annotations

import dataclasses
import re

FLAG_BITS = {"F": 1, "S": 2, "R": 4, "P": 8, ".": 16, "U": 32, "E": 64, "W": 128}
FLAG_ORDER = "SFRPUEW."
SEQ_MASK = 0xFFFFFFFF

_NOTATION = re.compile(
    r"(?P<flags>[SFRPUEW.]+)"
    r"(?:\s+(?P<seq>-?\d+):(?P<end>-?\d+)\((?P<length>\d+)\))?"
    r"(?:\s+ack\s+(?P<ack>-?\d+))?"
    r"(?:\s+win\s+(?P<win>\d+))?"
    r"(?:\s+urg\s+(?P<urg>\d+))?"
    r"(?:\s+<(?P<options>[^>]*)>)?"
)
_TIMESTAMPS = re.compile(r"TS val (\d+) ecr (\d+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A segment as on the wire: numbers are absolute."""

    src_port: int
    dst_port: int
    flags: int
    seq: int
    ack: int = 0
    win: int = 0
    urg: int = 0
    text: bytes = b""
    mss: int | None = None
    wscale: int | None = None
    sack_ok: bool = False
    ts: tuple[int, int] | None = None
    sack: tuple[tuple[int, int], ...] = ()
    gso: int = 0
    raw_options: bytes = b""  # to be sent as they are, behind the others

    def has(self, letters: str) -> bool:
        """All of these flags are set."""
        bits = flag_bits(letters)
        return self.flags & bits == bits

    @property
    def length(self) -> int:
        """What it takes of sequence space (RFC 9293 3.3.1 SEG.LEN)."""
        return len(self.text) + self.has("S") + self.has("F")


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """What a notation says; None: nothing about it. Numbers are relative."""

    flags: str
    seq: int | None = None
    length: int | None = None
    ack: int | None = None
    win: int | None = None
    urg: int | None = None
    mss: int | None = None
    wscale: int | None = None
    sack_ok: bool | None = None
    ts: tuple[int, int] | None = None
    sack: tuple[tuple[int, int], ...] | None = None
    gso: int | None = None
    absent: frozenset[str] = frozenset()


def flag_bits(letters: str) -> int:
    """The bits of the letters."""
    return sum(FLAG_BITS[letter] for letter in set(letters))


def flag_letters(bits: int) -> str:
    """The letters of the bits, in the notation's order."""
    return "".join(letter for letter in FLAG_ORDER if bits & FLAG_BITS[letter])


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _ranges(text: str) -> tuple[tuple[int, int], ...]:
    pairs = (word.split(":") for word in text.split())
    return tuple((int(start), int(end)) for start, end in pairs)


def _option(text: str, said: dict[str, object], absent: set[str]) -> None:
    """Read one option into the fields of a Said."""
    word, _, rest = text.partition(" ")
    if word == "no":
        absent.add(rest)
    elif word in ("mss", "wscale", "gso"):
        said[word] = int(rest)
    elif word == "sackOK":
        said["sack_ok"] = True
    elif word == "sack":
        said["sack"] = _ranges(rest)
    elif match := _TIMESTAMPS.fullmatch(text):
        said["ts"] = (int(match[1]), int(match[2]))
    else:
        raise ValueError(f"no such option: {text!r}")


def parse(notation: str) -> Said:
    """Read a notation. ValueError when it is not one, or its numbers do not add up."""
    match = _NOTATION.fullmatch(notation.strip())
    if match is None:
        raise ValueError(f"not a segment: {notation!r}")
    seq, end, length = (_number(match[name]) for name in ("seq", "end", "length"))
    if seq is not None and end is not None and length != (end - seq) & SEQ_MASK:
        raise ValueError(f"{notation!r}: {seq} to {end} are not {length} bytes")
    said: dict[str, object] = {}
    absent: set[str] = set()
    for option in filter(None, map(str.strip, (match["options"] or "").split(","))):
        _option(option, said, absent)
    return Said(
        flags="".join(letter for letter in FLAG_ORDER if letter in match["flags"]),
        seq=seq,
        length=length,
        ack=_number(match["ack"]),
        win=_number(match["win"]),
        urg=_number(match["urg"]),
        absent=frozenset(absent),
        **said,  # type: ignore[arg-type]
    )


def _relative(number: int, base: int) -> int:
    """`number` as seen from `base`, a little before it at the lowest."""
    distance = (number - base) & SEQ_MASK
    return distance - (1 << 32) if distance > 0xFFF00000 else distance


def render(segment: Segment, seq_base: int, ack_base: int) -> str:
    """A segment in full notation."""
    seq = _relative(segment.seq, seq_base)
    parts = [flag_letters(segment.flags), f"{seq}:{seq + len(segment.text)}({len(segment.text)})"]
    if segment.has("."):
        parts.append(f"ack {_relative(segment.ack, ack_base)}")
    parts.append(f"win {segment.win}")
    if segment.urg:
        parts.append(f"urg {segment.urg}")
    options = []
    if segment.mss is not None:
        options.append(f"mss {segment.mss}")
    if segment.sack_ok:
        options.append("sackOK")
    if segment.ts is not None:
        options.append("TS val {} ecr {}".format(*segment.ts))
    if segment.wscale is not None:
        options.append(f"wscale {segment.wscale}")
    if segment.sack:
        blocks = (f"{_relative(a, ack_base)}:{_relative(b, ack_base)}" for a, b in segment.sack)
        options.append("sack " + " ".join(blocks))
    if segment.gso:
        options.append(f"gso {segment.gso}")
    if options:
        parts.append("<" + ",".join(options) + ">")
    return " ".join(parts)


def stream(start: int, length: int) -> bytes:
    """The bytes at that place of the stream that every test sends unless it says otherwise.

    Its period is prime, so that bytes at a wrong place are wrong bytes.
    """
    start %= len(_PERIOD)
    repeats = (start + length) // len(_PERIOD) + 1
    return (_PERIOD * repeats)[start : start + length]


_PERIOD = bytes((i * i * 31 + i * 7 + (i >> 8)) & 0xFF for i in range(65521))
