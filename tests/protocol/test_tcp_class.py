"""The class of a connection's traffic: the host's socket and our segments have the guest's."""

from __future__ import annotations

import dpkt

from harness.lan import Lan
from harness.net import WORLD
from slirp.core.hostfake import OPTION_TOS

SYN, ACK = dpkt.tcp.TH_SYN, dpkt.tcp.TH_ACK


def segment(lan: Lan, tos: int, flags: int, seq: int = 0, ack: int = 0, data: bytes = b"") -> None:
    tcp = dpkt.tcp.TCP(sport=40000, dport=80, seq=seq, ack=ack, flags=flags, win=65535, data=data)
    lan.send(WORLD, dpkt.ip.IP_PROTO_TCP, tcp, tos=tos)


def test_class_of_a_connection(lan: Lan) -> None:
    """RFC 1122 4.2.4.2. The ECN bits are none of the socket's: we have not agreed on ECN."""
    segment(lan, 0xB8 | 1, SYN)  # the host's SYN, which leaves within connect(), has it already
    socket = lan.host.newest
    assert socket.options == {OPTION_TOS: 0xB8}
    socket.connected()
    syn_ack = lan.next().ip
    assert syn_ack.tos == 0xB8
    ack = syn_ack.data.seq + 1
    segment(lan, 0xB8 | 2, ACK, 1, ack, b"one")
    assert not lan.host.called("set_option")
    segment(lan, 0x20, ACK, 4, ack, b"two")
    assert lan.host.called("set_option") == [(socket.fd, OPTION_TOS, 0x20)]
    socket.feed(b"answer")
    lan.advance(1)
    assert {frame.ip.tos for frame in lan.inbox} == {0x20}
    lan.inbox.clear()


def test_usual_class_costs_nothing(lan: Lan) -> None:
    segment(lan, 0, SYN)
    lan.host.newest.connected()
    assert not lan.host.newest.options
    assert lan.next().ip.tos == 0
