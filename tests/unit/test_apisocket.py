"""The API socket's file: whose it is, and when it may go."""

from __future__ import annotations

import os
import pathlib
import socket
import stat
import subprocess
import sys

import pytest

from slirp.apisocket import MAX_PATH_BYTES, ApiSocket
from slirp.errors import SlirpError


def test_clients_can_connect_at_once_and_many(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    api = ApiSocket(path)
    clients = [socket.socket(socket.AF_UNIX) for _ in range(300)]
    for client in clients:
        client.setblocking(False)  # as Go does: a full backlog would be an error
        client.connect(path)
        client.close()
    api.close()
    assert not os.path.exists(path)


def test_mode_whatever_the_umask(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "s"
    old = os.umask(0)
    try:
        api = ApiSocket(str(path))
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    api.close()


def test_left_over_is_replaced(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
        killed.listen()
    api = ApiSocket(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    api.close()


def test_live_server_is_not(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    first = ApiSocket(path)
    with pytest.raises(SlirpError, match=r"cannot bind API socket .*: another process listens"):
        ApiSocket(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    first.close()


def test_other_files_are_not(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(SlirpError, match="exists and is not a socket"):
        ApiSocket(str(path))
    assert path.read_text() == "data"
    with pytest.raises(SlirpError, match="exists and is not a socket"):
        ApiSocket(str(tmp_path))


def test_no_such_directory(tmp_path: pathlib.Path) -> None:
    with pytest.raises(SlirpError, match="No such file or directory"):
        ApiSocket(str(tmp_path / "none" / "s"))


def test_path_lengths(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ApiSocket("x" * MAX_PATH_BYTES).close()
    with pytest.raises(SlirpError, match=r"API socket path is too long \(>= 108\)"):
        ApiSocket("x" * (MAX_PATH_BYTES + 1))


def test_end_leaves_a_successor_alone(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "s")
    old = ApiSocket(path)
    os.unlink(path)
    new = ApiSocket(path)
    old.close()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
    new.close()


# Who a client is

CLIENT = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
sys.stdout.buffer.write(client.getsockopt(socket.SOL_SOCKET, 71, 8))
sys.stdout.flush()
sys.stdin.read(1)
client.connect(sys.argv[1])
sys.stdin.read(1)
"""


def refusal_of(api: ApiSocket, path: pathlib.Path, guest: bool, *prefix: str) -> str | None:
    """What becomes of a client that `prefix` runs, and that is in the network of the guest."""
    argv = [*prefix, sys.executable, "-I", "-c", CLIENT, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        network = int.from_bytes(client.stdout.read(8), sys.byteorder)
        api.guest_network = network if guest else network + 1
        client.stdin.write(b".")
        client.stdin.flush()
        api.sock.setblocking(True)
        fd, _ = api.sock._accept()
        verdict = api.refusal(fd)
        os.close(fd)
        client.communicate(b".")
    return verdict


ELSEWHERE = ("unshare", "--user", "--map-root-user", "--net")


@pytest.mark.parametrize("prefix", [(), ELSEWHERE], ids=["here", "elsewhere"])
def test_client_like_us_may_ask_and_the_guest_may_not(
    tmp_path: pathlib.Path, prefix: tuple[str, ...]
) -> None:
    """The guest, where it is the same user and sees the same files."""
    api = ApiSocket(str(tmp_path / "s"))
    assert refusal_of(api, tmp_path / "s", False, *prefix) is None
    assert refusal_of(api, tmp_path / "s", True, *prefix) == "the guest itself"
    api.close()


@pytest.mark.parametrize("uid", [1, 65534], ids=["other", "without a number"])
def test_another_user_may_not_whatever_the_mode(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, uid: int
) -> None:
    api = ApiSocket(str(tmp_path / "s"))
    (tmp_path / "s").chmod(0o666)
    peer = int.to_bytes(1, 4, sys.byteorder) + uid.to_bytes(4, sys.byteorder) + bytes(4)

    class Client:
        """A socket whose other end is somebody else's."""

        def __init__(self, *_: object) -> None:
            pass

        def getsockopt(self, level: int, name: int, length: int) -> bytes:
            if name == socket.SO_PEERCRED:
                return peer
            return api.sock.getsockopt(level, name, length)

        def detach(self) -> None:
            pass

    monkeypatch.setattr("slirp.apisocket.socket", Client)
    assert api.refusal(0) == "another user"
    (tmp_path / "s").chmod(0o600)  # then nobody but root can have come in, whose number may differ
    assert api.refusal(0) == (None if uid == 65534 else "another user")
    api.close()
