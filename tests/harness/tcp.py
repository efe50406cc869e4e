"""Connections in every state of RFC 9293, reached by real segments and real events of the host.

Each builder gives the Peer of a connection that has just come into that state, with nothing left to
expect; `peer.socket` is the host's end. Sequence numbers there: whatever is said in the builder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Unpack

from harness.host import HostSocket
from harness.net import GUEST, WORLD, Net, Settings
from harness.peer import GUEST_ISN, Peer
from harness.pkt import SEQ_MASK

OPTIONS = "mss 1460,sackOK,wscale 7"  # of the guest's SYN, unless a test says otherwise
CLIENT_PORT = 50000  # of who connects to a forward


class Connection(Peer):
    """A Peer whose host socket exists."""

    socket: HostSocket

    @property
    def fd(self) -> int:
        """The host socket's."""
        return self.socket.fd

    def feed(self, data: bytes) -> None:
        """The host's peer sends bytes."""
        self.socket.feed(data)


class Tcp(Net):
    """A Net whose connections can be had in any state."""

    def __init__(self, **settings: Unpack[Settings]) -> None:
        super().__init__(**settings)
        self.connections: list[Peer] = []
        self._guest_port = 40000

    def peer(
        self, *, guest_port: int = 0, dest: bytes = WORLD, dest_port: int = 80, isn: int = GUEST_ISN
    ) -> Connection:
        """The guest's end of a connection that has not begun, from a port of its own."""
        self._guest_port += 1
        g = Connection(
            self, guest_port=guest_port or self._guest_port, dest=dest, dest_port=dest_port, isn=isn
        )
        self.connections.append(g)
        return g

    def settle(self) -> None:
        """As Net.settle; no segment was left unexpected either."""
        super().settle()
        for g in self.connections:
            g.expect_nothing()

    def aim_isn(self, g: Connection, our_isn: int) -> None:
        """Let time pass until the stack's ISN for `g` will be that (RFC 6528: it is a clock)."""
        g.send(f"S 0:0(0) <{OPTIONS}>")
        self.host.newest.connected()
        g.expect("S. 0:0(0) ack 1")
        g.send("R 1:1(0)")
        self.advance(((our_isn - g.our_isn) & SEQ_MASK) * 4e-6)
        g.our_isn = our_isn

    # ---- states

    def connecting(self, g: Connection | None = None, options: str = OPTIONS) -> Connection:
        """SYN-RECEIVED, before the host has answered connect(): the guest has heard nothing."""
        g = g or self.peer()
        g.send(f"S 0:0(0) <{options}>")
        g.socket = self.host.newest
        g.expect_nothing()
        return g

    def syn_received(self, g: Connection | None = None, options: str = OPTIONS) -> Connection:
        """SYN-RECEIVED, our SYN-ACK is sent."""
        g = self.connecting(g, options)
        g.socket.connected()
        g.expect("S. 0:0(0) ack 1")
        return self._in(g, "SYN-RECEIVED")

    def established(self, g: Connection | None = None, options: str = OPTIONS) -> Connection:
        """ESTABLISHED by the guest's SYN; both sides have sent 1."""
        g = self.syn_received(g, options)
        g.send(". 1:1(0) ack 1")
        return self._in(g, "ESTABLISHED")

    def syn_sent(self) -> Connection:
        """SYN-SENT: a client has come to a forwarded port, and our SYN is with the guest."""
        listener = self.host.listener()
        self.stack.add_forward("tcp", listener, GUEST, 8080)
        g = self.peer(guest_port=8080, dest_port=CLIENT_PORT + len(self.connections))
        self.host.client(listener, WORLD, g.dest_port)
        g.socket = self.host.newest
        g.expect("S 0:0(0)")
        return self._in(g, "SYN-SENT")

    def accepted(self, options: str = OPTIONS) -> Connection:
        """ESTABLISHED by a forward's client."""
        g = self.syn_sent()
        g.send(f"S. 0:0(0) ack 1 <{options}>")
        g.expect(". 1:1(0) ack 1")
        return self._in(g, "ESTABLISHED")

    def fin_wait_1(self) -> Connection:
        """The host's peer has closed; our FIN, number 1, is not acknowledged."""
        g = self.established()
        g.socket.close()
        g.expect("F. 1:1(0) ack 1")
        return self._in(g, "FIN-WAIT-1")

    def fin_wait_2(self) -> Connection:
        """Our FIN is acknowledged; the guest may go on."""
        g = self.fin_wait_1()
        g.send(". 1:1(0) ack 2")
        return self._in(g, "FIN-WAIT-2")

    def closing(self) -> Connection:
        """Both FINs, each number 1, have crossed."""
        g = self.fin_wait_1()
        g.send("F. 1:1(0) ack 1")
        g.expect(". 2:2(0) ack 2")
        return self._in(g, "CLOSING")

    def time_wait(self) -> Connection:
        """Both FINs are acknowledged, ours first."""
        g = self.fin_wait_2()
        g.send("F. 1:1(0) ack 2")
        g.expect(". 2:2(0) ack 2")
        return self._in(g, "TIME-WAIT")

    def close_wait(self) -> Connection:
        """The guest has closed; the host may go on."""
        g = self.established()
        g.send("F. 1:1(0) ack 1")
        g.expect(". 1:1(0) ack 2")
        return self._in(g, "CLOSE-WAIT")

    def last_ack(self) -> Connection:
        """The guest has closed, then the host's peer: our FIN is not acknowledged."""
        g = self.close_wait()
        g.socket.close()
        g.expect("F. 1:1(0) ack 2")
        return self._in(g, "LAST-ACK")

    def _in(self, g: Connection, state: str) -> Connection:
        assert g.state == state, f"{g.state}, not {state}\n{self.transcript()}"
        g.expect_nothing()
        return g


BUILDERS: dict[str, Callable[[Tcp], Connection]] = {
    "SYN-SENT": Tcp.syn_sent,
    "SYN-RECEIVED": Tcp.syn_received,
    "ESTABLISHED": Tcp.established,
    "FIN-WAIT-1": Tcp.fin_wait_1,
    "FIN-WAIT-2": Tcp.fin_wait_2,
    "CLOSE-WAIT": Tcp.close_wait,
    "CLOSING": Tcp.closing,
    "LAST-ACK": Tcp.last_ack,
    "TIME-WAIT": Tcp.time_wait,
}
