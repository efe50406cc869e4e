"""What `pyslirp run` waits for after its command: data that has not arrived, and nothing else."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from slirp import run


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection; the second one's buffer is small."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        near.setblocking(False)
        yield near, far


def flow(fd: int, **facts: object) -> dict[str, object]:
    return {
        "kind": "tcp",
        "host_state": "OPEN",
        "to_host_bytes": 0,
        "idle_us": 10_000_000,
        "fd": fd,
        **facts,
    }


def test_datagrams_have_left_already() -> None:
    assert not run._is_delivering({"kind": "udp", "idle_us": 0})


def test_host_side_that_is_closed_has_delivered() -> None:
    assert not run._is_delivering(flow(-1, host_state="CLOSED", idle_us=0))


def test_idle_connection_is_not_waited_for(
    connection: tuple[socket.socket, socket.socket],
) -> None:
    assert not run._is_delivering(flow(connection[0].fileno()))


def test_busy_connection_is(connection: tuple[socket.socket, socket.socket]) -> None:
    fd = connection[0].fileno()
    assert run._is_delivering(flow(fd, idle_us=1000))
    assert run._is_delivering(flow(fd, to_host_bytes=1))


def test_data_that_the_kernel_holds_is(connection: tuple[socket.socket, socket.socket]) -> None:
    near, far = connection
    sent = near.send(bytes(1 << 20))
    assert run._is_delivering(flow(near.fileno()))
    while sent > 0:
        sent -= len(far.recv(1 << 16))
    deadline = time.monotonic() + 2  # the peer may delay its last acknowledgement
    while run._is_delivering(flow(near.fileno())):
        assert time.monotonic() < deadline
