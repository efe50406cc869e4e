"""The API socket: its clients' habits, bad requests, load, and the path."""

from __future__ import annotations

import concurrent.futures
import json
import os
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable

import pytest

from lab.daemons import ApiError, Slirp
from lab.servers import echo, receive_exactly, serve
from lab.topology import REMOTE, Topology

Attach = Callable[..., Slirp]
LIST = b'{"execute": "list_hostfwd"}'


def error_of(reply: bytes) -> str:
    """The description of an error reply."""
    desc = json.loads(reply)["error"]["desc"]
    assert isinstance(desc, str)
    assert desc
    return desc


def test_podman_reads_once_and_rootlesskit_to_the_end(net: Slirp) -> None:
    request = json.dumps(
        {
            "execute": "add_hostfwd",
            "arguments": {
                **{"proto": "tcp", "host_addr": "0.0.0.0", "host_port": 18_080},
                **{"guest_addr": "", "guest_port": 80},
            },
        }
    )
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(net.api_path))
        client.sendall(request.encode() + b"\n")
        client.shutdown(socket.SHUT_WR)
        reply = json.loads(client.recv(2048))
        assert client.recv(1) == b""
    assert isinstance(reply["return"]["id"], int)


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n", id="newline"),
        pytest.param(b"{", id="truncated"),
        pytest.param(b"not json", id="no-json"),
        pytest.param(b"\xff\xfe\x00", id="binary"),
        pytest.param(b"[]", id="array"),
        pytest.param(b"3", id="number"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="no-execute"),
        pytest.param(b'{"execute": 1}', id="execute-number"),
        pytest.param(b'{"execute": "reboot"}', id="unknown"),
        pytest.param(b'{"execute": "add_hostfwd"}', id="no-arguments"),
        pytest.param(b'{"execute": "add_hostfwd", "arguments": []}', id="arguments-array"),
        pytest.param(b'{"execute": "remove_hostfwd"}', id="remove-nothing"),
        pytest.param(b'{"execute": "remove_hostfwd", "arguments": {"id": 77}}', id="remove-absent"),
        pytest.param(b'{"execute": "remove_hostfwd", "arguments": {"id": "x"}}', id="remove-text"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b'{"execute": "' + b"x" * 4_000_000 + b'"}', id="huge"),
    ],
)
@pytest.mark.beyond
def test_bad_request_gets_an_error_reply(net: Slirp, request_bytes: bytes) -> None:
    error_of(net.request_raw(request_bytes))
    assert "entries" in json.loads(net.request_raw(LIST))


GOOD = {"proto": "tcp", "host_addr": "0.0.0.0", "host_port": 18_080, "guest_port": 80}


@pytest.mark.parametrize(
    "wrong",
    [
        {"proto": "sctp"},
        {"proto": 6},
        {"proto": None},
        {"host_port": 0},
        {"host_port": 65_536},
        {"host_port": -1},
        {"host_port": "http"},
        {"host_port": 1.5},
        {"guest_port": 0},
        {"guest_port": 70_000},
        {"guest_port": None},
        {"host_addr": "::1"},
        {"host_addr": "localhost"},
        {"host_addr": "1.2.3"},
        {"host_addr": "203.0.113.1"},
        {"guest_addr": "10.0.2"},
        {"guest_addr": 7},
        {"guest_addr": "fd00::5"},
    ],
    ids=str,
)
@pytest.mark.beyond
def test_wrong_argument_gets_an_error_reply(net: Slirp, wrong: dict[str, object]) -> None:
    with pytest.raises(ApiError):
        net.request("add_hostfwd", **{**GOOD, **wrong})
    reply = json.loads(net.request_raw(LIST))
    assert reply["entries"] == []
    assert reply["return"]["entries"] == []


@pytest.mark.beyond
@pytest.mark.parametrize("proto", ["tcp4", "udp4"])
def test_newer_protocol_names(net: Slirp, proto: str) -> None:
    assert net.forward(proto, 18_080, 80) > 0


@pytest.mark.beyond
def test_client_that_says_nothing_does_not_disturb_others(net: Slirp) -> None:
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as slow:
        silent.connect(str(net.api_path))
        slow.connect(str(net.api_path))
        slow.sendall(LIST[:10])
        assert "entries" in json.loads(net.request_raw(LIST))


def test_client_that_vanishes_is_survived(net: Slirp) -> None:
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(net.api_path))
            client.sendall(LIST)
    assert "entries" in json.loads(net.request_raw(LIST))


@pytest.mark.beyond
def test_many_clients_at_once(net: Slirp) -> None:
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        ids = list(pool.map(lambda n: net.forward("tcp", 21_000 + n, 80), range(100)))
    assert len(set(ids)) == 100


def test_traffic_flows_while_requests_are_served(bed: Topology, net: Slirp) -> None:
    stopping = threading.Event()
    served = 0

    def press() -> None:
        nonlocal served
        while not stopping.is_set():
            forward = net.forward("tcp", 18_080, 80)
            net.request("remove_hostfwd", id=forward)
            served += 1

    presser = threading.Thread(target=press)
    slowest = 0.0
    with serve(bed.remote.listen(), echo) as port, net.guest.connect(REMOTE, port) as client:
        presser.start()
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            started = time.monotonic()
            client.sendall(b"?")
            assert receive_exactly(client, 1) == b"?"
            slowest = max(slowest, time.monotonic() - started)
    stopping.set()
    presser.join()
    assert served > 20
    assert slowest < 0.5


# The path


def test_left_over_socket_is_replaced(bed: Topology, attach: Attach) -> None:
    path = bed.workdir / "left-over.sock"
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    os.chown(path, bed.user.uid, -1)
    net = attach("--api-socket", str(path))
    net.api_path = path
    assert "entries" in json.loads(net.request_raw(LIST))


@pytest.mark.beyond
def test_socket_is_the_users_own(bed: Topology, net: Slirp) -> None:
    assert net.api_path is not None
    status = net.api_path.stat()
    assert stat.S_ISSOCK(status.st_mode)
    assert status.st_uid == bed.user.uid
    assert not status.st_mode & stat.S_IWOTH


@pytest.mark.beyond
def test_path_of_a_live_daemon_is_an_error(bed: Topology, attach: Attach, net: Slirp) -> None:
    second = attach("--api-socket", str(net.api_path), wait=False)
    assert second.wait() != 0
    assert str(net.api_path) in second.output
    assert "entries" in json.loads(net.request_raw(LIST))


@pytest.mark.parametrize("kind", ["directory", "absent", "long"])
def test_impossible_path_is_an_error(bed: Topology, attach: Attach, kind: str) -> None:
    path = bed.workdir / f"api-{kind}"
    if kind == "directory":
        path.mkdir(exist_ok=True)
    elif kind == "absent":
        path = path / "none" / "api.sock"
    else:
        path = bed.workdir / ("x" * 200)
    daemon = attach("--api-socket", str(path), wait=False)
    assert daemon.wait() != 0
    assert daemon.ready_byte == b""


@pytest.mark.beyond
def test_file_that_is_no_socket_is_not_removed(bed: Topology, attach: Attach) -> None:
    path = bed.workdir / "precious"
    path.write_text("precious")
    os.chown(path, bed.user.uid, -1)
    daemon = attach("--api-socket", str(path), wait=False)
    assert daemon.wait() != 0
    assert path.read_text() == "precious"


def test_manual_pages_client_is_nc(bed: Topology, net: Slirp) -> None:
    client = ["nc", "-N", "-U", str(net.api_path)]
    done = subprocess.run(client, input=LIST, capture_output=True, check=True, timeout=10)
    assert "entries" in json.loads(done.stdout)
