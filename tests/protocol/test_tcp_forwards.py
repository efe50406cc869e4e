"""Clients of forwarded ports: the host's socket is there first (tcp_host.pyx)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from harness.net import GATEWAY, GUEST, WORLD
from harness.pkt import stream
from harness.tcp import Tcp
from slirp.core.hostfake import EVENT_READABLE


def test_clients_behind_one_address_get_other_ports(tcp: Tcp) -> None:
    """fwd.pxd: clients of the loopback are all seen as the gateway, by ports of their own."""
    listener = tcp.host.listener()
    tcp.stack.add_forward("tcp", listener, GUEST, 8080)
    for _ in range(3):
        tcp.host.client(listener, bytes((127, 0, 0, 1)), 5555)
    seen = [(syn[12:16], int.from_bytes(syn[20:22], "big")) for syn in tcp.stray]
    tcp.stray.clear()
    assert {addr for addr, _ in seen} == {GATEWAY}
    assert len({port for _, port in seen}) == 3
    assert seen[0][1] == 5555
    assert tcp.stat("forwards_accepted") == 3


def test_client_finds_no_place_and_is_reset(make_tcp: Callable[..., Tcp]) -> None:
    """Neither a flow nor a port is to be had: the client is told at once."""
    tcp = make_tcp(max_flows=64)
    listener = tcp.host.listener()
    tcp.stack.add_forward("tcp", listener, GUEST, 8080)
    for _ in range(64):
        tcp.established()
    tcp.host.client(listener, WORLD, 5555)
    assert tcp.host.newest.ended == "reset"


def test_client_whose_every_port_is_taken_is_reset(tcp: Tcp) -> None:
    """Sixteen tries to find a port that is free; then the client is told."""
    listener = tcp.host.listener()
    tcp.stack.add_forward("tcp", listener, GUEST, 8080)
    for _ in range(17):
        tcp.host.client(listener, bytes((127, 0, 0, 1)), 5555)
    assert tcp.host.newest.ended == "reset"
    assert len(tcp.stray) == 16
    tcp.stray.clear()


def test_client_that_cannot_be_watched_is_reset(tcp: Tcp) -> None:
    """The host has no room for its events: it does not wait for ever."""
    listener = tcp.host.listener()
    tcp.stack.add_forward("tcp", listener, GUEST, 8080)
    tcp.host.watch_error = errno.ENOSPC
    tcp.host.client(listener, WORLD, 5555)
    tcp.stray.clear()
    assert tcp.host.newest.ended == "reset"
    assert tcp.stat("flows") == 0


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_client_that_cannot_be_taken_waits(tcp: Tcp, error: int) -> None:
    """The listener's event comes once for it: it is asked again, ten times a second."""
    listener = tcp.host.listener()
    tcp.stack.add_forward("tcp", listener, GUEST, 8080)
    tcp.host.accept_error = error
    tcp.host.client(listener, WORLD, 5555)
    assert len(tcp.host.called("tcp_accept")) == 1
    tcp.clock.advance(1.05)
    assert len(tcp.host.called("tcp_accept")) == 11
    assert tcp.stat("forwards_deferred") == 11
    assert not tcp.stray
    tcp.host.accept_error = 0
    tcp.clock.advance(0.11)
    assert tcp.stat("forwards_accepted") == 1
    syn = tcp.stray.popleft()
    assert (syn[12:16], syn[20:22]) == (WORLD, struct.pack("!H", 5555))
    asked = len(tcp.host.called("tcp_accept"))
    tcp.clock.advance(0.5)
    assert len(tcp.host.called("tcp_accept")) == asked


def test_aborted_client_keeps_nobody_waiting(tcp: Tcp) -> None:
    """accept(2): an error of the connection that was to be taken is no error of the listener."""
    listener = tcp.host.listener()
    tcp.stack.add_forward("tcp", listener, GUEST, 8080)
    tcp.host.accept_error = errno.ECONNABORTED
    tcp.host.client(listener, WORLD, 5555)
    tcp.host.accept_error = 0
    tcp.clock.advance(0.002)
    assert tcp.stat("forwards_accepted") == 1
    assert tcp.stat("forwards_deferred") == 0
    tcp.stray.clear()


def test_more_clients_than_are_taken_at_once(tcp: Tcp) -> None:
    """One event for all of them."""
    listener = tcp.host.listener()
    tcp.stack.add_forward("tcp", listener, GUEST, 8080)
    tcp.host.clients[listener].extend((WORLD, port) for port in range(1000, 1149))
    tcp.host.client(listener, WORLD, 1149)
    assert tcp.stat("forwards_accepted") == 64
    tcp.clock.advance(0.005)
    assert tcp.stat("forwards_accepted") == 150
    tcp.stray.clear()


def test_removed_forward_is_not_asked_again(tcp: Tcp) -> None:
    listener = tcp.host.listener()
    forward_id = tcp.stack.add_forward("tcp", listener, GUEST, 8080)
    tcp.host.accept_error = errno.EMFILE
    tcp.host.client(listener, WORLD, 5555)
    tcp.stack.remove_forward(forward_id)
    tcp.clock.advance(1)
    assert len(tcp.host.called("tcp_accept")) == 1


def test_removed_forward_takes_nobody(tcp: Tcp) -> None:
    """A client that came while the forward went: an event for nobody; who is there lives on."""
    g = tcp.accepted()
    (listener,) = tcp.host.listeners
    ref = tcp.host.listeners[listener]
    assert tcp.stack.remove_forward(1)
    tcp.stack.host_event(ref, EVENT_READABLE, tcp.clock.now_us)
    assert tcp.stat("host_stale_events") == 1
    g.send("P. 1:11(10) ack 1")
    assert g.socket.received == stream(0, 10)
    tcp.advance(0.1)
    g.expect(". 1:1(0) ack 11")
