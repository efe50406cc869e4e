"""The API, request by request: slirp4netns's recorded replies, then what it cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import pathlib
import socket
from collections.abc import Iterator
from typing import Any

import fakeengine
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slirp import api, config, forwards
from slirp.forwards import Forwards

GOLDEN = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "api.json").read_text())


class Ports:
    """The host's ports in place of forwards._open: descriptors of nothing, taken once."""

    def __init__(self) -> None:
        self.taken: dict[int, tuple[str, str, int]] = {}

    def open(self, family: int, transport: str, host_addr: str, host_port: int) -> int:
        self.taken = {fd: port for fd, port in self.taken.items() if _is_open(fd)}
        if (transport, host_addr, host_port) in self.taken.values():
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        fd = os.open(os.devnull, os.O_RDONLY)
        self.taken[fd] = (transport, host_addr, host_port)
        return fd


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def engine() -> Iterator[fakeengine.Engine]:
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    made = fakeengine.Engine(read_fd)
    yield made
    if not made.closed:
        made.close()
    os.close(write_fd)


@pytest.fixture
def table(engine: fakeengine.Engine, monkeypatch: pytest.MonkeyPatch) -> Forwards:
    monkeypatch.setattr(forwards, "_open", Ports().open)
    return Forwards(engine, config.parse_cidr(config.DEFAULT_CIDR).guest)  # type: ignore[arg-type]


def ask(table: Forwards, request: object) -> Any:
    return api.answer(table, json.dumps(request).encode())


def add(table: Forwards, **arguments: object) -> Any:
    return ask(table, {"execute": "add_hostfwd", "arguments": arguments})


def desc(reply: Any) -> str:
    assert list(reply) == ["error"]
    assert list(reply["error"]) == ["desc"]
    return str(reply["error"]["desc"])


def test_replies_are_slirp4netns(table: Forwards) -> None:
    """A dialogue recorded with slirp4netns 1.2.0, in its order.

    Deviations: list_hostfwd answers in the documented form as well, and the error of a port that
    cannot be had goes on to say why.
    """
    for exchange in GOLDEN:
        theirs = json.loads(exchange["reply"])
        ours: Any = api.answer(table, exchange["request"].encode())
        if "entries" in theirs:
            assert ours == {"return": theirs, **theirs}, exchange
        elif "slirp_add_hostfwd failed" in exchange["reply"]:
            assert desc(ours).startswith(theirs["error"]["desc"]), exchange
        else:
            assert ours == theirs, exchange


def test_busy_port_says_so(table: Forwards) -> None:
    add(table, proto="tcp", host_port=8080, guest_port=80)
    assert desc(add(table, proto="tcp", host_port=8080, guest_port=80)) == (
        "bad request: add_hostfwd: slirp_add_hostfwd failed: "
        "cannot forward tcp 0.0.0.0:8080: Address already in use"
    )


def test_what_the_engine_is_told(table: Forwards, engine: fakeengine.Engine) -> None:
    add(table, proto="udp4", host_port=53, guest_port=5353, guest_addr="10.0.2.7")
    add(table, proto="tcp4", host_port=80, guest_port=8080, guest_addr="0.0.0.0")
    told = [(proto, addr, port) for proto, _, addr, port in engine.forwards.values()]
    assert told == [("udp", bytes([10, 0, 2, 7]), 5353), ("tcp", bytes([10, 0, 2, 100]), 8080)]


def test_forwards_of_ipv6(engine: fakeengine.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the guest has IPv6; each protocol takes addresses of its own family."""
    monkeypatch.setattr(forwards, "_open", Ports().open)
    guest6 = bytes.fromhex("fd00") + bytes(13) + b"\x64"
    table = Forwards(engine, bytes([10, 0, 2, 100]), guest6)  # type: ignore[arg-type]
    add(table, proto="tcp6", host_port=80, guest_port=8080)
    add(table, proto="udp6", host_addr="::1", host_port=53, guest_addr="fd00::7", guest_port=5353)
    told = [(proto, addr, port) for proto, _, addr, port in engine.forwards.values()]
    assert told == [("tcp", guest6, 8080), ("udp", guest6[:15] + b"\x07", 5353)]
    listed = [(e["proto"], e["host_addr"], e["guest_addr"]) for e in table.entries()]
    assert listed == [("tcp6", "::", "fd00::64"), ("udp6", "::1", "fd00::7")]
    for proto, address in (("tcp6", "0.0.0.0"), ("tcp6", "::ffff:1.2.3.4"), ("tcp", "::")):
        reply = add(table, proto=proto, host_addr=address, host_port=81, guest_port=80)
        assert desc(reply) == "bad request: add_hostfwd: bad arguments.host_addr"


def test_removal_closes_the_port_and_never_reuses_the_id(
    table: Forwards, engine: fakeengine.Engine
) -> None:
    assert add(table, proto="tcp", host_port=80, guest_port=80) == {"return": {"id": 1}}
    remove = {"execute": "remove_hostfwd", "arguments": {"id": 1}}
    assert ask(table, remove) == {"return": {}}
    assert engine.forwards == {}
    assert add(table, proto="tcp", host_port=80, guest_port=80) == {"return": {"id": 2}}
    assert desc(ask(table, remove)) == "bad request: remove_hostfwd: bad arguments.id"


def test_full_table(table: Forwards, engine: fakeengine.Engine) -> None:
    for port in range(1, fakeengine.MAX_FORWARDS + 1):
        assert "return" in add(table, proto="tcp", host_port=port, guest_port=80)
    fds = len(os.listdir("/proc/self/fd"))
    assert desc(add(table, proto="tcp", host_port=9999, guest_port=80)).endswith(
        os.strerror(errno.ENOSPC)
    )
    assert len(os.listdir("/proc/self/fd")) == fds


@pytest.mark.parametrize(
    "arguments",
    [
        # these crash slirp4netns
        {"host_port": 80, "guest_port": 80},
        {"proto": 5, "host_port": 80, "guest_port": 80},
        {"proto": None, "host_port": 80, "guest_port": 80},
        {},
        # and these it takes
        {"proto": "tcp", "host_port": 70000, "guest_port": 80},
        {"proto": "tcp", "host_port": -1, "guest_port": 80},
        {"proto": "tcp", "host_port": 80.5, "guest_port": 80},
        {"proto": "tcp", "host_port": 80, "guest_port": 65536},
        {"proto": "tcp", "host_port": 80, "guest_port": 80, "host_addr": 5},
        {"proto": "tcp", "host_port": 80, "guest_port": 80, "guest_addr": ["10.0.2.100"]},
    ],
)
def test_bad_arguments(table: Forwards, arguments: dict[str, object]) -> None:
    assert desc(add(table, **arguments)).startswith("bad request: add_hostfwd: bad arguments.")


@pytest.mark.parametrize("arguments", [[], 5, "x", None])
def test_arguments_that_are_none(table: Forwards, arguments: object) -> None:
    request = {"execute": "add_hostfwd", "arguments": arguments}
    assert desc(ask(table, request)) == "bad request: add_hostfwd: bad arguments.proto"


@pytest.mark.parametrize(
    "request_",
    [
        b"[" * 100_000,
        b'{"execute":' + b"1" * 5000 + b"}",
        b'{"execute": NaN}',
        b'{"execute": "remove_hostfwd", "arguments": {"id": Infinity}}',
        b"\xff\xfe{}",
        b"\x00",
    ],
)
def test_hostile_json(table: Forwards, request_: bytes) -> None:
    assert desc(api.answer(table, request_)).startswith("bad request: ")


@given(
    st.one_of(
        st.binary(),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda value: json.dumps({"execute": "add_hostfwd", "arguments": value}).encode()),
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_request_has_a_reply(table: Forwards, request_: bytes) -> None:
    reply = api.answer(table, request_)
    assert json.loads(json.dumps(reply)) == reply


# ---- on the wire -------------------------------------------------------------------------------


class Client:
    """A connection to a served API."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def exchange(self, *chunks: bytes, shut_down: bool = True) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._path)
        for chunk in chunks:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(0.01)
        if shut_down:
            writer.write_eof()
        reply = await reader.read()  # to the end of the stream: the server must close
        writer.close()
        return reply


@pytest.fixture
async def client(table: Forwards, tmp_path: pathlib.Path) -> Any:
    path = str(tmp_path / "api")
    serve = api.Server(table, lambda _: None).serve
    async with await asyncio.start_unix_server(serve, path, limit=api.MAX_REQUEST_BYTES):
        yield Client(path)


LIST = b'{"execute":"list_hostfwd"}'
LISTED = b'{"return":{"entries":[]},"entries":[]}'


async def test_request_then_shutdown(client: Client) -> None:
    assert await client.exchange(LIST) == LISTED


async def test_request_without_shutdown(client: Client) -> None:
    assert await client.exchange(LIST, shut_down=False) == LISTED
    assert await client.exchange(LIST + b"\r\n", shut_down=False) == LISTED


async def test_request_in_pieces(client: Client) -> None:
    pieces = [LIST[i : i + 5] for i in range(0, len(LIST), 5)]
    assert await client.exchange(*pieces) == LISTED
    # a '}' that ends a chunk but not the object
    nested = b'{"arguments":{},"execute":"list_hostfwd"}'
    assert await client.exchange(nested[:15], nested[15:], shut_down=False) == LISTED


async def test_large_requests(client: Client) -> None:
    def padded(size: int) -> bytes:
        return LIST[:-1] + b',"x":"' + b"a" * (size - len(LIST) - 7) + b'"}'

    assert await client.exchange(padded(api.MAX_REQUEST_BYTES)) == LISTED
    refusal = b'{"error":{"desc":"bad request: too large message"}}'
    assert await client.exchange(padded(api.MAX_REQUEST_BYTES + 1)) == refusal
    # the client writes all before it reads, and must not find a broken pipe
    assert await client.exchange(padded(100 * api.MAX_REQUEST_BYTES)) == refusal
    assert await client.exchange(padded(api.MAX_REQUEST_BYTES + 1), shut_down=False) == refusal


async def test_request_without_end(table: Forwards, tmp_path: pathlib.Path) -> None:
    """`cat /dev/zero | ncat -U`, as in slirp4netns's own tests: the reply is there to be read."""
    path = str(tmp_path / "api")
    server = api.Server(table, lambda _: None)
    async with await asyncio.start_unix_server(server.serve, path):
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            client.connect(path)
            async with asyncio.timeout(5):
                with contextlib.suppress(ConnectionError):
                    while True:
                        await loop.sock_sendall(client, bytes(api.MAX_REQUEST_BYTES))
                reply = await loop.sock_recv(client, 1000)
    assert reply == b'{"error":{"desc":"bad request: too large message"}}'


async def test_whoever_may_not_ask_is_told_so(table: Forwards, tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "api")
    server = api.Server(table, lambda _: "another user")
    async with await asyncio.start_unix_server(server.serve, path):
        reply = await Client(path).exchange(shut_down=False)
    assert reply == b'{"error":{"desc":"not allowed: another user"}}'
    assert server.counters == {"api_requests": 0, "api_refused": 1, "api_overloads": 0}


async def test_at_the_bound_of_clients_the_newcomer_is_told_so(
    table: Forwards, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "MAX_CLIENTS", 2)
    path = str(tmp_path / "api")
    server = api.Server(table, lambda _: None)
    async with await asyncio.start_unix_server(server.serve, path):
        early = [await asyncio.open_unix_connection(path) for _ in range(2)]
        while server.counters["api_requests"] < 2:
            await asyncio.sleep(0)
        reply = await Client(path).exchange(shut_down=False)
        assert reply == b'{"error":{"desc":"too many clients at a time"}}'
        for reader, writer in early:
            writer.write(LIST)
            assert await reader.read() == LISTED
            writer.close()
        assert await Client(path).exchange(LIST) == LISTED
    assert server.counters == {"api_requests": 3, "api_refused": 0, "api_overloads": 1}


async def test_silent_client_is_let_go(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "REQUEST_TIMEOUT_S", 0.05)
    assert await client.exchange(shut_down=False) == b""
    assert await client.exchange(b'{"execute":', shut_down=False) == b""


async def test_silent_client_keeps_nobody_waiting(client: Client) -> None:
    silent = asyncio.create_task(client.exchange(shut_down=False))
    replies = await asyncio.gather(*(client.exchange(LIST) for _ in range(100)))
    assert set(replies) == {LISTED}
    assert not silent.done()
    silent.cancel()


async def test_client_that_leaves_at_once(client: Client, tmp_path: pathlib.Path) -> None:
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as rude:
            rude.connect(str(tmp_path / "api"))
            rude.send(LIST)
    assert await client.exchange(LIST) == LISTED
