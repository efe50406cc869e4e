"""What a test says of a segment against what came, and what every segment of ours must keep to.

Only what is said is compared, but the flags always are. `Conduct` is told all that passes on one
connection and asserts, unasked, the rules that no state suspends: a violation fails whatever test
happens to provoke it.
"""

from __future__ import annotations

import dataclasses

from harness.pkt import SEQ_MASK, Said, Segment, flag_letters

MSS_DEFAULT = 536  # RFC 9293 3.7.1, IPv4
MSS_DEFAULT6 = 1220
TCP_HLEN = 20
MSS_FLOOR = 48  # what the data plane takes a smaller MSS for
ABSENT_FIELDS = {"sack": "sack", "TS": "ts", "mss": "mss", "wscale": "wscale", "sackOK": "sack_ok"}


def signed(number: int) -> int:
    """A difference of sequence numbers as RFC 9293 3.4 compares it."""
    number &= SEQ_MASK
    return number - (1 << 32) if number >> 31 else number


def differences(said: Said, segment: Segment, seq_base: int, ack_base: int) -> list[str]:
    """Where the segment is not what was said of it, in words."""
    wrong = []

    def compare(name: str, want: object, got: object) -> None:
        if want is not None and want != got:
            wrong.append(f"{name}: {got}, not {want}")

    def absolute(number: int | None, base: int) -> int | None:
        return None if number is None else (number + base) & SEQ_MASK

    compare("flags", said.flags, flag_letters(segment.flags))
    compare("length", said.length, len(segment.text))
    for name, number, base in (("seq", said.seq, seq_base), ("ack", said.ack, ack_base)):
        if number is not None and absolute(number, base) != getattr(segment, name):
            got = signed(getattr(segment, name) - base)
            wrong.append(f"{name}: {got}, not {number}")
    for name in ("win", "urg", "mss", "wscale", "sack_ok", "ts", "gso"):
        compare(name, getattr(said, name), getattr(segment, name))
    if said.sack is not None:
        blocks = tuple((signed(a - ack_base), signed(b - ack_base)) for a, b in segment.sack)
        compare("sack", said.sack, blocks)
    wrong += [f"{name}: there, but should not" for name in said.absent if _present(segment, name)]
    return wrong


def _present(segment: Segment, name: str) -> bool:
    value = getattr(segment, ABSENT_FIELDS.get(name, name))
    return value not in (None, False, 0, ())


@dataclasses.dataclass
class Conduct:
    """The rules of one connection, for what the stack sends; fed with both sides' segments."""

    offered: Segment | None = None  # the guest's last SYN, whether or not we take it
    guest_syn: Segment | None = None  # the one that this connection stands on
    our_syn: Segment | None = None
    may_send_until: int | None = None  # right edge of the guest's window, the furthest ever
    may_ack_until: int | None = None  # end of what the guest has sent
    acked: int | None = None
    window_edge: int | None = None  # of our window, the furthest ever
    ts_val: int | None = None
    mss_default: int = MSS_DEFAULT  # of a guest whose SYN says none

    def guest_sent(self, segment: Segment) -> None:
        """Take note of what the guest allows."""
        if segment.has("S"):
            self.offered = segment
            if self.guest_syn is None and self.our_syn is not None:
                self._begin()
        end = segment.seq + segment.length
        if self.may_ack_until is None or signed(end - self.may_ack_until) > 0:
            self.may_ack_until = end
        if segment.has("."):
            scaled = not segment.has("S") and self.scaling
            shift = self.guest_syn.wscale if scaled and self.guest_syn else 0
            edge = segment.ack + (segment.win << min(shift or 0, 14))
            if self.may_send_until is None or signed(edge - self.may_send_until) > 0:
                self.may_send_until = edge

    def _begin(self) -> None:
        """The guest's offer is taken: a connection begins. Time-stamps outlive it (RFC 6191)."""
        assert self.offered is not None
        self.guest_syn = self.offered
        self.may_send_until = self.acked = self.window_edge = None
        self.may_ack_until = self.offered.seq + self.offered.length

    @property
    def scaling(self) -> bool:
        """Both SYNs had the window scale option (RFC 7323 2.2)."""
        return self._both("wscale", None)

    def _both(self, name: str, without: object) -> bool:
        syns = (self.guest_syn, self.our_syn)
        return all(syn is not None and getattr(syn, name) != without for syn in syns)

    def stack_sent(self, segment: Segment, room: int) -> None:
        """Assert that the segment may be sent."""
        if segment.has("R"):
            return
        assert not segment.flags & 0xE0, "nothing of ours is urgent, nor has it to do with ECN"
        if segment.has("S"):
            self._syn(segment, room)
            return
        assert segment.has("."), "RFC 9293 3.4: once synchronized, ACK is always there"
        self._text(segment, room)
        self._timestamps(segment)
        self._ack(segment)

    def _syn(self, segment: Segment, room: int) -> None:
        assert not segment.text, "no text on our SYN"
        assert segment.mss == room - TCP_HLEN, "RFC 6691: MSS counts no options"
        self.our_syn = segment
        if not segment.has("."):
            self.guest_syn = None
            return
        assert self.offered is not None
        if self.guest_syn is not self.offered and segment.ack == (self.offered.seq + 1) & SEQ_MASK:
            self._begin()
        assert self.guest_syn is not None
        # RFC 7323 2.2 and 3.2, RFC 2018 2: only what was offered.
        assert segment.wscale is None or self.guest_syn.wscale is not None
        assert segment.ts is None or self.guest_syn.ts is not None
        assert not segment.sack_ok or self.guest_syn.sack_ok
        assert segment.ack == (self.guest_syn.seq + 1) & SEQ_MASK
        self.acked = segment.ack
        self.window_edge = segment.ack + segment.win

    def _text(self, segment: Segment, room: int) -> None:
        if not segment.text or self.guest_syn is None or self.may_send_until is None:
            return
        options = (12 if segment.ts else 0) + (4 + 8 * len(segment.sack) if segment.sack else 0)
        mss = max(self.guest_syn.mss or self.mss_default, MSS_FLOOR)
        limit = min(mss, room - TCP_HLEN) - options
        assert (segment.gso or len(segment.text)) <= limit, f"RFC 6691: over {limit} bytes of text"
        beyond = signed(segment.seq + len(segment.text) - self.may_send_until)
        probe = len(segment.text) == 1 and beyond == 1
        assert beyond <= 0 or probe, f"RFC 9293 3.8.6: {beyond} bytes beyond the guest's window"

    def _timestamps(self, segment: Segment) -> None:
        agreed = self._both("ts", None)
        assert (segment.ts is not None) == agreed, "RFC 7323 3.2: in every segment, or in none"
        if segment.ts is not None:
            last = segment.ts[0] if self.ts_val is None else self.ts_val
            assert signed(segment.ts[0] - last) >= 0, "RFC 7323 5.4: the clock goes forward"
            self.ts_val = segment.ts[0]

    def _ack(self, segment: Segment) -> None:
        assert self.may_ack_until is not None
        assert signed(segment.ack - self.may_ack_until) <= 0, "acknowledges what was never sent"
        if self.acked is not None:
            assert signed(segment.ack - self.acked) >= 0, "an acknowledgement is taken back"
        self.acked = segment.ack
        self._window(segment)
        if segment.sack:
            assert self._both("sack_ok", False), "RFC 2018 2: SACK was not agreed upon"
            assert len(segment.sack) <= (3 if segment.ts else 4)
            for number, (start, end) in enumerate(segment.sack):
                assert signed(end - start) > 0
                if number == 0 and signed(end - segment.ack) <= 0:
                    continue  # RFC 2883 4: the first block may tell of text that came twice
                assert signed(start - segment.ack) > 0, "RFC 2018 4: a block at or below the ACK"
                assert signed(end - self.may_ack_until) <= 0

    def _window(self, segment: Segment) -> None:
        """RFC 7323 2.4: the right edge moves left by no more than the scale rounds away."""
        shift = self.our_syn.wscale if self.scaling and self.our_syn is not None else 0
        unit = 1 << (shift or 0)
        edge = segment.ack + segment.win * unit
        if self.window_edge is None or signed(edge - self.window_edge) > 0:
            self.window_edge = edge
        assert signed(self.window_edge - edge) < unit, "the window shrinks"
