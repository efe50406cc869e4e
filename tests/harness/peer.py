"""The guest's end of one connection, driven by hand: `send` and `expect` in the notation of pkt.py.

    g.send("S 0:0(0) win 65535 <mss 1460>")
    g.expect("S. 0:0(0) ack 1 <mss 1460>")

Numbers count from the ISN of the side that they belong to. What the test does not write is filled
in as a sane TCP would have it: the window of `window`, time-stamps when they were agreed upon, and
the text that belongs at that place of the stream. All that passes is held against Conduct's rules.
"""

from __future__ import annotations

import collections
import dataclasses

from harness.expect import MSS_DEFAULT, MSS_DEFAULT6, Conduct, differences
from harness.ip import (
    IP6_HLEN,
    IP_HLEN,
    IP_TCP,
    Datagram,
    Vnet,
    build_frame,
    build_ip,
    partial_sum,
    pseudo_header,
)
from harness.net import GATEWAY_MAC, GUEST_MAC, WORLD, Net, guest_of
from harness.pkt import SEQ_MASK, Said, Segment, flag_bits, parse, render, stream
from harness.wire import build_segment, parse_segment, train_header
from slirp.core.stats import Drop

GUEST_ISN = 0x10000000


class Peer:
    """One connection, seen from the guest."""

    def __init__(
        self,
        net: Net,
        *,
        guest_port: int = 40000,
        dest: bytes = WORLD,
        dest_port: int = 80,
        isn: int = GUEST_ISN,
    ) -> None:
        self.net = net
        self.guest_port, self.dest, self.dest_port = guest_port, dest, dest_port
        self.isn = isn
        self.our_isn = 0  # the stack's, from its SYN
        self.window = 65535
        self.conduct = Conduct(mss_default=MSS_DEFAULT6 if len(dest) == 16 else MSS_DEFAULT)
        self.inbox: collections.deque[Segment] = collections.deque()
        self.ts_recent = 0
        net.receive((IP_TCP, guest_port, dest, dest_port), self._on_datagram)

    # ---- sending

    def send(self, notation: str, text: bytes | None = None, raw_options: bytes = b"") -> Segment:
        """Send that segment; `text` instead of the stream's."""
        segment = self.segment(parse(notation), text, raw_options)
        self.transmit(segment)
        return segment

    def segment(self, said: Said, text: bytes | None, raw_options: bytes) -> Segment:
        """The segment that the notation means, what it leaves out filled in."""
        seq, length = said.seq or 0, said.length or 0
        syn = "S" in said.flags
        assert said.ack is not None or "." not in said.flags, "an ACK needs its number"
        if text is None:
            text = stream(seq - (0 if syn else 1), length)
        assert len(text) == length, f"{len(text)} bytes of text for {length}"
        return Segment(
            src_port=self.guest_port,
            dst_port=self.dest_port,
            flags=flag_bits(said.flags),
            seq=(self.isn + seq) & SEQ_MASK,
            ack=(self.our_isn + said.ack) & SEQ_MASK if said.ack is not None else 0,
            win=self.window if said.win is None else said.win,
            urg=said.urg or 0,
            text=text,
            mss=said.mss,
            wscale=said.wscale,
            sack_ok=bool(said.sack_ok),
            ts=self._timestamps(said),
            sack=tuple(
                ((self.our_isn + a) & SEQ_MASK, (self.our_isn + b) & SEQ_MASK)
                for a, b in said.sack or ()
            ),
            gso=said.gso or 0,
            raw_options=raw_options,
        )

    def _timestamps(self, said: Said) -> tuple[int, int] | None:
        syns = (self.conduct.guest_syn, self.conduct.our_syn)
        agreed = all(syn is not None and syn.ts is not None for syn in syns)
        if said.ts is not None or not agreed or "TS" in said.absent:
            return said.ts
        return (self.clock_ms(), self.ts_recent)

    def clock_ms(self) -> int:
        """The guest's time-stamp clock (RFC 7323 4.1)."""
        return self.net.clock.now_us // 1000

    def transmit(self, segment: Segment) -> None:
        """Put a segment on the link."""
        self.conduct.guest_sent(segment)
        our_isn = self.our_isn
        self.net.log(lambda: f"guest {render(segment, self.isn, our_isn)}")
        self.net.send_frame(self.frame(segment))

    def frame(self, segment: Segment) -> bytes:
        """The segment's frame; a train's checksum is left to the link."""
        tcp = build_segment(segment)
        if not segment.gso:
            return self._wrap(tcp, None)
        pseudo = pseudo_header(guest_of(self.dest), self.dest, IP_TCP, len(tcp))
        tcp.sum = partial_sum(pseudo)
        return self._wrap(tcp, train_header(segment, len(self.dest) == 16))

    def _wrap(self, tcp: object, vnet: Vnet | None) -> bytes:
        datagram = build_ip(guest_of(self.dest), self.dest, IP_TCP, tcp)
        return build_frame(GUEST_MAC, GATEWAY_MAC, datagram, vnet)

    # ---- receiving

    def _on_datagram(self, datagram: bytes, vnet: Vnet) -> None:
        segment = parse_segment(Datagram.parse(datagram).payload, vnet.gso_size)
        if segment.has("S"):
            self.our_isn = segment.seq
        our_isn = self.our_isn
        self.net.log(lambda: f"stack {render(segment, our_isn, self.isn)}")
        if segment.ts is not None:
            self.ts_recent = segment.ts[0]
        self.on_segment(segment)
        room = self.net.mtu - (IP6_HLEN if len(self.dest) == 16 else IP_HLEN)
        self.conduct.stack_sent(segment, room)

    def on_segment(self, segment: Segment) -> None:
        """What comes waits until it is expected."""
        self.inbox.append(segment)

    def expect(self, notation: str) -> Segment:
        """Assert that the next segment is as said, and give it."""
        if not self.inbox:
            raise AssertionError(f"nothing came, not {notation}\n{self.net.transcript()}")
        segment = self.inbox.popleft()
        wrong = differences(parse(notation), segment, self.our_isn, self.isn)
        if wrong:
            got = render(segment, self.our_isn, self.isn)
            raise AssertionError(
                f"expected {notation}\n     got {got}\n   "
                + "; ".join(wrong)
                + f"\n{self.net.transcript()}"
            )
        return segment

    def expect_nothing(self) -> None:
        """Assert that nothing (more) has come."""
        if self.inbox:
            got = [render(segment, self.our_isn, self.isn) for segment in self.inbox]
            raise AssertionError(f"not expected: {got}\n{self.net.transcript()}")

    def drain(self) -> list[Segment]:
        """Whatever has come."""
        segments = list(self.inbox)
        self.inbox.clear()
        return segments

    def dropped(self, *drops: Drop) -> None:
        """As Net.dropped."""
        self.net.dropped(*drops)

    # ---- the stack's view

    @property
    def flow(self) -> dict[str, object] | None:
        """What the stack says of this connection: the one that its key finds, or that drains."""
        wanted = (self.guest_port, self.dest, self.dest_port)
        for flow in self.net.stack.flows():
            if (flow["guest_port"], flow["dest_addr"], flow["dest_port"]) == wanted:
                return flow
        return None

    @property
    def state(self) -> str | None:
        """The connection's state by its RFC name; None: it is gone."""
        flow = self.flow
        return None if flow is None else str(flow["state"])


def cut(segment: Segment) -> list[Segment]:
    """A train as the segments that the guest's kernel makes of it (RFC 9293 3.7)."""
    if not segment.gso:
        return [segment]
    pieces = []
    for at in range(0, len(segment.text), segment.gso):
        text = segment.text[at : at + segment.gso]
        last = at + segment.gso >= len(segment.text)
        flags = segment.flags if last else segment.flags & ~flag_bits("FP")
        seq = (segment.seq + at) & SEQ_MASK
        pieces.append(dataclasses.replace(segment, seq=seq, text=text, flags=flags, gso=0))
    return pieces
