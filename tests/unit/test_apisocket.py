"""The API socket's file: whose it is, and when it may go."""

from __future__ import annotations

import os
import pathlib
import socket
import stat

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
