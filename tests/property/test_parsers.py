"""Whatever a guest puts on the link ends as one Drop or does its work: never a crash, an exception,
or a frame of ours that breaks the rules; and every frame is counted once.

A state machine keeps one stack for many frames, so that what one leaves behind meets the next: good
frames, good frames with damage, and noise; beside them the host's replies and errors, and time.
"""

from __future__ import annotations

import struct

import dpkt
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from harness.ip import ETH_HLEN, IP_HLEN, VNET_HLEN, Vnet
from harness.lan import BROADCAST_MAC, Lan, echo, ip_frame, udp_datagram, udp_train
from harness.net import DNS, GATEWAY, GATEWAY_MAC, GUEST, GUEST_MAC, WORLD

UDP, TCP, ICMP = dpkt.ip.IP_PROTO_UDP, dpkt.ip.IP_PROTO_TCP, dpkt.ip.IP_PROTO_ICMP
HEADERS = VNET_HLEN + ETH_HLEN
TCP_OPTIONS = bytes.fromhex("020405b40402080a000003e80000000001030307")

ADDRESSES = st.one_of(
    st.sampled_from([WORLD, GATEWAY, DNS, GUEST, b"\xff" * 4, bytes(4), bytes((127, 0, 0, 1))]),
    st.binary(min_size=4, max_size=4),
)
PORTS = st.one_of(st.sampled_from([0, 53, 80, 5000, 65535]), st.integers(0, 0xFFFF))
PAYLOADS = st.one_of(st.binary(max_size=40), st.integers(0, 2000).map(bytes))


@st.composite
def vnets(draw: st.DrawFn) -> bytes:
    """A virtio-net header: mostly empty, sometimes sensible, sometimes anything."""
    kind = draw(st.integers(0, 9))
    if kind < 6:
        return bytes(Vnet())
    if kind < 8:
        offset = draw(st.sampled_from([6, 16, 2, 10]))
        gso = draw(st.sampled_from([0, 1, 5, 0x81]))
        size = draw(st.sampled_from([0, 1, 100, 1448]))
        return bytes(Vnet(1, gso, 54, size, ETH_HLEN + IP_HLEN, offset))
    return draw(st.binary(min_size=VNET_HLEN, max_size=VNET_HLEN))


@st.composite
def tcp_segments(draw: st.DrawFn) -> dpkt.tcp.TCP:
    options = draw(st.one_of(st.just(b""), st.just(TCP_OPTIONS), st.binary(max_size=40)))
    options += bytes(-len(options) % 4)
    return dpkt.tcp.TCP(
        sport=draw(st.integers(40000, 40003)),
        dport=draw(st.sampled_from([80, 81])),
        seq=draw(st.one_of(st.integers(0, 5), st.integers(0, 2**32 - 1))),
        ack=draw(st.integers(0, 2**32 - 1)),
        off=5 + len(options) // 4,
        flags=draw(st.one_of(st.sampled_from([2, 16, 24, 17, 4, 20]), st.integers(0, 255))),
        win=draw(st.integers(0, 0xFFFF)),
        urp=draw(st.integers(0, 0xFFFF)),
        opts=options,
        data=draw(PAYLOADS),
    )


@st.composite
def good_frames(draw: st.DrawFn) -> bytes:
    """A frame that a decent guest could send."""
    dst = draw(ADDRESSES)
    kind = draw(st.sampled_from(["udp", "train", "tcp", "icmp", "arp", "other"]))
    if kind == "udp":
        return ip_frame(dst, UDP, udp_datagram(draw(PORTS), draw(PAYLOADS), draw(PORTS)))
    if kind == "train":
        return udp_train(dst, draw(PORTS), draw(PAYLOADS), draw(st.integers(1, 1500)))
    if kind == "tcp":
        return ip_frame(draw(st.sampled_from([WORLD, GATEWAY])), TCP, draw(tcp_segments()))
    if kind == "icmp":
        message = echo(draw(PORTS), draw(PORTS), draw(PAYLOADS), draw(st.integers(0, 20)))
        return ip_frame(dst, ICMP, message)
    if kind == "arp":
        arp = dpkt.arp.ARP(op=draw(st.integers(0, 3)), sha=GUEST_MAC, spa=draw(ADDRESSES), tpa=dst)
        return bytes(VNET_HLEN) + BROADCAST_MAC + GUEST_MAC + b"\x08\x06" + bytes(arp)
    return ip_frame(dst, draw(st.integers(0, 255)), draw(PAYLOADS), opts=bytes(draw(OPTION_BYTES)))


OPTION_BYTES = st.integers(0, 10).map(lambda words: 4 * words)


def repair_ip(frame: bytearray) -> None:
    """Make the IP header's checksum anew, so that damage behind it is seen."""
    hlen = (frame[HEADERS] & 0x0F) * 4
    if len(frame) >= HEADERS + hlen >= HEADERS + IP_HLEN:
        frame[HEADERS + 10 : HEADERS + 12] = bytes(2)
        total = dpkt.in_cksum(bytes(frame[HEADERS : HEADERS + hlen]))
        frame[HEADERS + 10 : HEADERS + 12] = struct.pack("!H", total)


@st.composite
def damaged_frames(draw: st.DrawFn) -> bytes:
    """A good frame with some bytes changed, cut off or added."""
    frame = bytearray(draw(good_frames()))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(VNET_HLEN, len(frame) - 1))
        frame[at] = draw(st.integers(0, 255))
    frame[:VNET_HLEN] = draw(vnets())
    if draw(st.booleans()):
        repair_ip(frame)
    if draw(st.integers(0, 3)) == 0:
        del frame[draw(st.integers(0, len(frame))) :]
    return bytes(frame) + draw(st.sampled_from([b"", b"", bytes(7), b"\xff" * 46]))


@st.composite
def noise(draw: st.DrawFn) -> bytes:
    """Anything, often behind what leads it to a parser."""
    head = draw(
        st.sampled_from(
            [
                b"",
                bytes(VNET_HLEN) + GATEWAY_MAC + GUEST_MAC,
                bytes(VNET_HLEN) + GATEWAY_MAC + GUEST_MAC + b"\x08\x00",
                bytes(VNET_HLEN) + BROADCAST_MAC + GUEST_MAC + b"\x08\x06",
                bytes(VNET_HLEN) + GATEWAY_MAC + GUEST_MAC + b"\x08\x00\x45\x00",
            ]
        )
    )
    return head + draw(st.binary(max_size=120))


class Guest(RuleBasedStateMachine):
    """A hostile guest, and a host that does whatever hosts may do."""

    @initialize(
        offload=st.sampled_from([0, 1, 1 | 2, 1 | 2 | 32]),
        mtu=st.sampled_from([576, 1500, 65520]),
        host_loopback=st.booleans(),
    )
    def start(self, offload: int, mtu: int, host_loopback: bool) -> None:
        self.lan = Lan(
            offload=offload,
            mtu=mtu,
            host_loopback=host_loopback,
            max_flows=64,
            memory_bytes=1 << 20,
            tcp_buffer_bytes=1 << 17,
        )
        self.lan.stack.set_dns([WORLD])
        self.lan.forward(53)
        self.frames = 0
        self.numbers: dict[int, tuple[int, int]] = {}  # of open connections: next seq, our first

    def send(self, frame: bytes) -> None:
        before = self.drops()
        self.lan.send_frame(frame)
        self.frames += 1
        assert 0 <= self.drops() - before <= 1, "counted twice"
        assert self.lan.stat("frames_from_guest") == self.frames
        self.lan.inbox.clear()

    def drops(self) -> int:
        stats = self.lan.stack.stats()
        return sum(n for name, n in stats.items() if name.startswith("drop_"))

    @rule(frame=good_frames())
    def good(self, frame: bytes) -> None:
        self.send(frame)

    @rule(frame=damaged_frames())
    def damaged(self, frame: bytes) -> None:
        self.send(frame)

    @rule(frame=noise())
    def noisy(self, frame: bytes) -> None:
        self.send(frame)

    @rule(
        which=st.integers(0, 63),
        addr=st.one_of(ADDRESSES, st.binary(min_size=16, max_size=16)),
        port=PORTS,
        data=st.one_of(PAYLOADS, st.just(bytes(65508)), st.just(bytes(65507))),
        segment_bytes=st.sampled_from([0, 0, 1, 100, 1472, 65535]),
    )
    def datagram(self, which: int, addr: bytes, port: int, data: bytes, segment_bytes: int) -> None:
        sockets = self.lan.host.open_sockets
        if len(data) // max(segment_bytes, 1) < 3000:
            sockets[which % len(sockets)].datagram(addr, port, data, segment_bytes)
            self.lan.inbox.clear()

    @rule(
        which=st.integers(0, 63),
        error=st.tuples(
            st.sampled_from([111, 113, 101, 90, 13, 5]), st.integers(0, 20), st.integers(0, 20)
        ),
        addr=ADDRESSES,
        port=PORTS,
        offender=st.one_of(ADDRESSES, st.just(b""), st.binary(min_size=16, max_size=16)),
        mtu=st.integers(0, 2**32 - 1),
    )
    def error(
        self,
        which: int,
        error: tuple[int, int, int],
        addr: bytes,
        port: int,
        offender: bytes,
        mtu: int,
    ) -> None:
        sockets = self.lan.host.open_sockets
        sockets[which % len(sockets)].report(*error, addr, port, offender, mtu)
        self.lan.inbox.clear()

    @rule(which=st.integers(0, 63), what=st.sampled_from(["connected", "close", "fail", "feed"]))
    def stream(self, which: int, what: str) -> None:
        """Something happens to a TCP socket."""
        sockets = [socket for socket in self.lan.host.open_sockets if socket.port in (80, 81)]
        if not sockets:
            return
        socket = sockets[which % len(sockets)]
        if what == "feed":
            socket.feed(bytes(5000))
        else:
            getattr(socket, what)()
        self.lan.inbox.clear()

    @rule(sport=st.integers(40000, 40003), options=st.sampled_from([b"", TCP_OPTIONS]))
    def handshake(self, sport: int, options: bytes) -> None:
        """A connection is opened as it should be, unless one of that name is there already."""
        if sport in self.numbers:
            return
        syn = dpkt.tcp.TCP(sport=sport, dport=80, seq=0, flags=2, win=60000, opts=options)
        syn.off = 5 + len(options) // 4
        self.lan.send(WORLD, TCP, syn)
        self.frames += 1
        self.lan.host.newest.connected()
        came = [frame.ip.data for frame in self.lan.inbox if frame.payload[9] == TCP]
        self.lan.inbox.clear()
        if came and came[-1].flags == 18:
            self.numbers[sport] = (1, (came[-1].seq + 1) & 0xFFFFFFFF)
            self.near(sport, 16, 0, 0, b"", b"", 0)

    @rule(
        sport=st.integers(40000, 40003),
        flags=st.one_of(st.sampled_from([16, 24, 17, 20]), st.integers(0, 255)),
        ahead=st.one_of(st.integers(-3, 10), st.integers(-(2**17), 2**17)),
        ack_ahead=st.one_of(st.integers(0, 5000), st.integers(-(2**17), 2**17)),
        data=PAYLOADS,
        options=st.one_of(
            st.just(bytes.fromhex("0101080a000003e800000000")), st.binary(max_size=40)
        ),
        win=st.sampled_from([0, 1, 100, 60000]),
    )
    def near(
        self,
        sport: int,
        flags: int,
        ahead: int,
        ack_ahead: int,
        data: bytes,
        options: bytes,
        win: int,
    ) -> None:
        """A segment whose numbers lie about where an open connection is."""
        if sport not in self.numbers:
            return
        seq, ack = self.numbers[sport]
        options += bytes(-len(options) % 4)
        segment = dpkt.tcp.TCP(
            sport=sport,
            dport=80,
            seq=(seq + ahead) & 0xFFFFFFFF,
            ack=(ack + ack_ahead) & 0xFFFFFFFF,
            flags=flags,
            win=win,
            off=5 + len(options) // 4,
            opts=options,
            data=data,
        )
        self.send(ip_frame(WORLD, TCP, segment))
        if flags & 0x17 == 16 and ahead == 0:
            self.numbers[sport] = ((seq + len(data)) & 0xFFFFFFFF, ack)

    @rule(ref=st.integers(0, 2**35), events=st.integers(0, 7))
    def stale_event(self, ref: int, events: int) -> None:
        """An event for somebody who is gone, or never was."""
        known = {socket.ref for socket in self.lan.host.open_sockets}
        if ref not in known:
            self.lan.stack.host_event(ref, events, self.lan.clock.now_us)
            self.lan.check()
            self.lan.inbox.clear()

    @rule(seconds=st.sampled_from([0.001, 0.3, 5.0, 40.0, 200.0]))
    def pass_time(self, seconds: float) -> None:
        self.lan.advance(seconds)
        self.lan.inbox.clear()

    def teardown(self) -> None:
        """In the end all is over by itself: no flow is left, no timer, no memory."""
        if not hasattr(self, "lan"):
            return
        self.lan.stack.remove_forward(1)
        for socket in self.lan.host.open_sockets:
            if socket.port in (80, 81):
                socket.fail()
        self.lan.advance(3600)
        self.lan.at_rest()


TestGuest = Guest.TestCase
TestGuest.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
