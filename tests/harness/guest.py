"""A guest's TCP, small but whole: handshake either way, a send queue with retransmission,
reassembly, flow control, close. It shares no code with the stack it talks to, and is written to be
obvious.

Sequence numbers inside count from the ISN of their side and never wrap: 0 is the SYN, byte i of a
stream is i + 1, the FIN follows the last byte.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

from harness.clock import Clock
from harness.link import Link
from harness.pkt import SEQ_MASK, Segment, flag_bits

RTO_FIRST_S = 0.3
RTO_MAX_S = 3.0
DUP_THRESH = 3
DELAYED_ACK_S = 0.04


@dataclasses.dataclass(frozen=True)
class GuestOptions:
    """What kind of TCP the guest has.

    mss, wscale (None: not offered), sack, ts: of its SYN. buffer_bytes: what it holds unread.
    segments: sizes of the segments it cuts, over and over; a retransmission comes cut otherwise.
    read_bytes, read_every_s: the application reads so much so often; 0 s: at once. ack_every: an
    ACK for each so many segments, else delayed.
    """

    mss: int = 1460
    wscale: int | None = 7
    sack: bool = True
    ts: bool = True
    buffer_bytes: int = 65535
    segments: tuple[int, ...] = (1460,)
    read_bytes: int = 1 << 30
    read_every_s: float = 0.0
    ack_every: int = 1


class GuestTcp:
    """One connection of the guest's."""

    def __init__(self, clock: Clock, link: Link, options: GuestOptions) -> None:
        self.clock, self.link, self.options = clock, link, options
        link.guest_receives = self.on_segment
        self.received = bytearray()  # in order
        self.read = 0  # of these, by the application
        self.reset = False
        self.eof = False  # the stack's FIN is in order
        self.segments_received = 0
        # Sending
        self._out = bytearray()  # the whole stream, as far as written
        self._closed = False
        self._opened = False  # our SYN is out
        self._snd_una = 0
        self._snd_nxt = 0
        self._window_edge = 1
        self._shift = 0
        self._sizes: Iterator[int] = itertools.cycle(options.segments)
        self._rto_s = RTO_FIRST_S
        self._timer = itertools.count()
        self._timer_now = -1  # the timer that counts; others are void
        self._dupacks = 0
        # Receiving
        self._rcv_nxt = 0  # 0: no SYN yet
        self._stack_isn = 0
        self._ahead: dict[int, bytes] = {}
        self._fin_at: int | None = None
        self._ts_recent = 0
        self._sack_ok = options.sack
        self._ts_ok = options.ts
        self._scaling = options.wscale is not None
        self._unacked = 0
        if options.read_every_s:
            clock.after(options.read_every_s, self._read_again)

    # ---- the application

    def connect(self) -> None:
        """Open actively."""
        self._opened = True
        self._send_syn()

    def write(self, data: bytes) -> None:
        """Queue bytes for the stack."""
        self._out += data
        self._output()

    def close(self) -> None:
        """No more will be written."""
        self._closed = True
        self._output()

    @property
    def established(self) -> bool:
        """Both SYNs are acknowledged."""
        return self._snd_una >= 1 and self._rcv_nxt >= 1

    @property
    def done(self) -> bool:
        """Both FINs are through."""
        return self.eof and self._closed and self._snd_una == self._fin_number + 1

    @property
    def _fin_number(self) -> int:
        return 1 + len(self._out)

    def _read_again(self) -> None:
        before, self.read = self.read, min(len(self.received), self.read + self.options.read_bytes)
        if self.read > before and not self.done:
            self._send_ack()
        if not self.done and not self.reset:
            self.clock.after(self.options.read_every_s, self._read_again)

    # ---- sending

    def _window(self) -> int:
        """The receive window in bytes."""
        if not self.options.read_every_s:
            self.read = len(self.received)
        waiting = len(self.received) - self.read
        return max(0, self.options.buffer_bytes - waiting)

    def _segment(self, flags: str, seq: int, text: bytes = b"") -> Segment:
        syn = "S" in flags
        shift = (self.options.wscale or 0) if self._scaling and not syn else 0
        return Segment(
            src_port=self.link.guest_port,
            dst_port=self.link.dest_port,
            flags=flag_bits(flags),
            seq=(self.link.isn + seq) & SEQ_MASK,
            ack=(self._stack_isn + self._rcv_nxt) & SEQ_MASK if "." in flags else 0,
            win=min(65535, self._window() >> shift),
            text=text,
            mss=self.options.mss if syn else None,
            wscale=self.options.wscale if syn and self._scaling else None,
            sack_ok=syn and self._sack_ok,
            ts=(self.clock.now_us // 1000 & SEQ_MASK, self._ts_recent) if self._ts_ok else None,
            sack=self._sack_blocks() if "." in flags and not syn else (),
        )

    def _sack_blocks(self) -> tuple[tuple[int, int], ...]:
        if not self._sack_ok:
            return ()
        blocks: list[list[int]] = []
        for start in sorted(self._ahead):
            end = start + len(self._ahead[start])
            if blocks and start <= blocks[-1][1]:
                blocks[-1][1] = max(end, blocks[-1][1])
            else:
                blocks.append([start, end])
        base = self._stack_isn
        return tuple(((base + a) & SEQ_MASK, (base + b) & SEQ_MASK) for a, b in blocks[:3])

    def _transmit(self, segment: Segment) -> None:
        if segment.has("."):
            self._unacked = 0
        self.link.guest_sends(segment)

    def _send_syn(self) -> None:
        self._transmit(self._segment("S." if self._rcv_nxt else "S", 0))
        self._snd_nxt = max(self._snd_nxt, 1)
        self._arm()

    def _send_ack(self) -> None:
        self._transmit(self._segment(".", self._snd_nxt))

    def _output(self) -> None:
        """Send what the stack's window allows."""
        if not self.established or self.reset:
            return
        while self._snd_nxt < self._fin_number:
            if not self._send_text(self._window_edge):
                self._arm()  # the window is shut: to be probed
                return
        if self._closed and self._snd_nxt == self._fin_number:
            self._transmit(self._segment("F.", self._snd_nxt))
            self._snd_nxt += 1
            self._arm()

    def _send_text(self, until: int) -> bool:
        """One segment at snd_nxt, that ends before `until`; False when there is no room."""
        option_bytes = (12 if self._ts_ok else 0) + (28 if self._ahead and self._sack_ok else 0)
        size = max(1, min(next(self._sizes), self.link.net.mtu - 40 - option_bytes))
        end = min(self._fin_number, self._snd_nxt + size, until)
        if end <= self._snd_nxt:
            return False
        text = bytes(self._out[self._snd_nxt - 1 : end - 1])
        self._transmit(self._segment("P.", self._snd_nxt, text))
        self._snd_nxt = end
        self._arm()
        return True

    # ---- retransmission

    def _arm(self) -> None:
        if self._timer_now < 0:
            self._timer_now = timer = next(self._timer)
            self.clock.after(self._rto_s, lambda: self._on_timer(timer))

    def _on_timer(self, timer: int) -> None:
        if timer != self._timer_now or self.reset:
            return
        self._timer_now = -1
        all_acknowledged = self._snd_una == self._fin_number + self._closed
        if self.established and all_acknowledged:
            return
        self._rto_s = min(2 * self._rto_s, RTO_MAX_S)
        self._repeat()
        self._arm()

    def _repeat(self) -> None:
        """Send what lies at snd_una again; at a shut window, one byte of it."""
        if not self.established:
            self._send_syn()
            return
        after = self._snd_nxt
        self._snd_nxt = self._snd_una
        if self._snd_una < self._fin_number:
            self._send_text(max(self._window_edge, self._snd_una + 1))
        else:
            self._transmit(self._segment("F.", self._snd_nxt))
            self._snd_nxt += 1
        self._snd_nxt = max(after, self._snd_nxt)

    # ---- receiving

    def on_segment(self, segment: Segment) -> None:
        """A segment from the stack."""
        self.segments_received += 1
        if segment.has("R"):
            self.reset = not self.done  # RFC 1337: in TIME-WAIT it is of no matter
            return
        if segment.has("S"):
            self._on_syn(segment)
            return
        if self._rcv_nxt == 0 or self.reset:
            return
        seq = self._rcv_nxt + _near(segment.seq - self._stack_isn - self._rcv_nxt)
        if segment.ts is not None and seq <= self._rcv_nxt:
            self._ts_recent = segment.ts[0]
        self._on_ack(segment)
        self._on_text(segment, seq)
        self._output()

    def _on_syn(self, segment: Segment) -> None:
        if self._rcv_nxt == 0:
            self._stack_isn = segment.seq
            self._rcv_nxt = 1
            self._sack_ok = self._sack_ok and segment.sack_ok
            self._ts_ok = self._ts_ok and segment.ts is not None
            self._scaling = self._scaling and segment.wscale is not None
            self._shift = segment.wscale or 0 if self._scaling else 0
        if segment.ts is not None:
            self._ts_recent = segment.ts[0]
        if not self._opened:
            self._opened = True
            self._send_syn()
            return
        if segment.has("."):
            self._window_edge = max(self._window_edge, 1 + segment.win)
            self._acknowledge(1)
            self._send_ack()
            self._output()

    def _on_ack(self, segment: Segment) -> None:
        ack = self._snd_una + _near(segment.ack - self.link.isn - self._snd_una)
        assert ack <= self._snd_nxt, "acknowledges what was never sent"
        self._window_edge = max(self._window_edge, ack + (segment.win << self._shift))
        if ack > self._snd_una:
            self._acknowledge(ack)
        elif ack == self._snd_una < self._snd_nxt and not segment.text and not segment.has("F"):
            self._dupacks += 1
            if self._dupacks == DUP_THRESH:
                self._repeat()

    def _acknowledge(self, ack: int) -> None:
        if ack > self._snd_una:
            self._snd_una = ack
            self._dupacks = 0
            self._rto_s = RTO_FIRST_S
            self._timer_now = -1
            self._arm()

    def _on_text(self, segment: Segment, seq: int) -> None:
        if not segment.length and seq >= self._rcv_nxt:
            return
        text, end = segment.text, self._rcv_nxt + self._window()
        if seq < self._rcv_nxt:
            text, seq = text[self._rcv_nxt - seq :], self._rcv_nxt
        if segment.has("F") and seq + len(text) <= max(end, self._rcv_nxt):
            self._fin_at = seq + len(text)
        text = text[: max(0, end - seq)]
        if text and len(text) > len(self._ahead.get(seq, b"")):
            self._ahead[seq] = text
        in_order = seq == self._rcv_nxt
        self._join()
        self._unacked += 1
        if self._unacked >= self.options.ack_every or not in_order or self.eof:
            self._send_ack()
        else:
            self.clock.after(DELAYED_ACK_S, self._ack_if_owed)

    def _ack_if_owed(self) -> None:
        if self._unacked and not self.reset:
            self._send_ack()

    def _join(self) -> None:
        """Take what has become contiguous into the stream."""
        for start in sorted(self._ahead):
            if start > self._rcv_nxt:
                break
            text = self._ahead.pop(start)[self._rcv_nxt - start :]
            self.received += text
            self._rcv_nxt += len(text)
        if self._fin_at == self._rcv_nxt and not self.eof:
            self._rcv_nxt += 1
            self.eof = True


def _near(difference: int) -> int:
    """A distance between two numbers, from their difference modulo 2^32."""
    difference &= SEQ_MASK
    return difference - (1 << 32) if difference >> 31 else difference
