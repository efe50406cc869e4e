"""The JSON API: add_hostfwd, list_hostfwd, remove_hostfwd, with the replies of slirp4netns.

One request a connection: the client sends a JSON object, usually shuts down its writing side, reads
one object to the end of the stream. Clients exist that read once, that read to the end, that send a
newline and keep their side open; so a request is served as soon as it is whole, and the reply is
one write followed by a close.

Whoever may not ask is told so and not read; so is, at MAX_CLIENTS, whoever comes on top: those who
were there first are served. Both are counted.
"""

from __future__ import annotations

import asyncio
import json

from slirp import forwards
from slirp.config import is_ipv4, is_ipv6
from slirp.errors import SlirpError
from slirp.forwards import Forwards

MAX_REQUEST_BYTES = 65536
_MAX_DISCARDED_BYTES = 256 * MAX_REQUEST_BYTES  # of a request that is too large, read all the same
REQUEST_TIMEOUT_S = 10.0
MAX_CLIENTS = 1024  # connections at a time; some clients publish hundreds of ports in a row
_PAUSE_S = 0.2  # a client that has written nothing for so long has written all
_MAX_PORT = 65535

# tcp and udp are IPv4's. Where the guest has no IPv6, tcp6 and udp6 are refused like unknown ones,
# in the words of a slirp4netns without --enable-ipv6.
_PROTOS = {
    "tcp": forwards.TCP,
    "tcp4": forwards.TCP,
    "udp": forwards.UDP,
    "udp4": forwards.UDP,
}
_PROTOS6 = {"tcp6": forwards.TCP6, "udp6": forwards.UDP6}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

Reply = dict[str, object]


class BadRequestError(Exception):
    """The message is what the client reads after "bad request: "."""


class Server:
    """Serves connections on `table`.

    refusal:  why a client, by its descriptor, may not ask; None when it may.
    counters: for the report.
    """

    def __init__(self, table: Forwards, refusal: Callable[[int], str | None]) -> None:
        self._table = table
        self._refusal = refusal
        self._clients = 0
        self.counters = {"api_requests": 0, "api_refused": 0, "api_overloads": 0}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection and close it. Never raises."""
        self._clients += 1
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                reply = self._turn_away(writer) or answer(self._table, await _read_request(reader))
                writer.write(json.dumps(reply, separators=(",", ":")).encode())
                await writer.drain()
        except (OSError, TimeoutError):
            pass  # the client has gone, or never said anything: nobody is there to be told
        finally:
            self._clients -= 1
            writer.close()

    def _turn_away(self, writer: asyncio.StreamWriter) -> Reply | None:
        refusal = self._refusal(writer.get_extra_info("socket").fileno())
        if refusal is not None:
            self.counters["api_refused"] += 1
            return {"error": {"desc": f"not allowed: {refusal}"}}
        if self._clients > MAX_CLIENTS:
            self.counters["api_overloads"] += 1
            return {"error": {"desc": "too many clients at a time"}}
        self.counters["api_requests"] += 1
        return None


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    """The request: all until end of file, or as much as makes a whole object."""
    request = b""
    while chunk := await reader.read(MAX_REQUEST_BYTES):
        request += chunk
        if len(request) > MAX_REQUEST_BYTES:
            await _discard(reader)
            break
        if request.rstrip().endswith(b"}") and _is_whole(request):
            break
    return request


async def _discard(reader: asyncio.StreamReader) -> None:
    """Read on while more comes, for a client that must have written all before it reads; not for
    ever, for one that never ends.
    """
    left = _MAX_DISCARDED_BYTES
    try:
        while left > 0:
            async with asyncio.timeout(_PAUSE_S):
                chunk = await reader.read(MAX_REQUEST_BYTES)
            if not chunk:
                break
            left -= len(chunk)
    except TimeoutError:
        pass


def _is_whole(request: bytes) -> bool:
    try:
        json.loads(request)
    except (ValueError, RecursionError):
        return False
    return True


def answer(table: Forwards, request: bytes) -> Reply:
    """The reply to one request, whatever it is."""
    try:
        return _dispatch(table, _parse(request))
    except BadRequestError as error:
        return {"error": {"desc": f"bad request: {error}"}}


def _parse(request: bytes) -> dict[str, object]:
    if len(request) > MAX_REQUEST_BYTES:
        raise BadRequestError("too large message")
    try:
        # What follows the object is none of our business, as in slirp4netns.
        message, _ = json.JSONDecoder().raw_decode(request.decode().lstrip())
    except (ValueError, RecursionError):
        raise BadRequestError("cannot parse JSON") from None
    if not isinstance(message, dict):
        raise BadRequestError("json_object() failed")
    return message


def _dispatch(table: Forwards, message: dict[str, object]) -> Reply:
    execute = message.get("execute")
    arguments = message.get("arguments")
    if not isinstance(arguments, dict):
        arguments = {}
    match execute:
        case "add_hostfwd":
            return _add_hostfwd(table, arguments)
        case "list_hostfwd":
            # The manual documents `return`, the program answers `entries`: clients of both exist.
            entries = table.entries()
            return {"return": {"entries": entries}, "entries": entries}
        case "remove_hostfwd":
            return _remove_hostfwd(table, arguments)
        case str():
            raise BadRequestError("unknown execute")
        case _:
            raise BadRequestError("no execute found")


def _add_hostfwd(table: Forwards, arguments: dict[str, object]) -> Reply:
    proto = arguments.get("proto")
    known = {**_PROTOS, **_PROTOS6} if table.has_ipv6 else _PROTOS
    if not isinstance(proto, str) or proto not in known:
        raise BadRequestError("add_hostfwd: bad arguments.proto")
    is_ours = is_ipv6 if proto in _PROTOS6 else is_ipv4
    host_addr = _address(arguments, "host_addr", is_ours)
    host_port = _port(arguments, "host_port")
    guest_addr = _address(arguments, "guest_addr", is_ours)
    guest_port = _port(arguments, "guest_port")
    try:
        id_ = table.add(known[proto], host_addr, host_port, guest_addr, guest_port)
    except SlirpError as error:
        raise BadRequestError(f"add_hostfwd: slirp_add_hostfwd failed: {error}") from None
    return {"return": {"id": id_}}


def _remove_hostfwd(table: Forwards, arguments: dict[str, object]) -> Reply:
    id_ = _number(arguments.get("id"))
    if id_ is None or not table.remove(id_):
        raise BadRequestError("remove_hostfwd: bad arguments.id")
    return {"return": {}}


def _address(arguments: dict[str, object], name: str, is_ours: Callable[[str], bool]) -> str:
    """An address of the family that `is_ours` tells, or "" for the default, which may also be left
    out or null.
    """
    value = arguments.get(name)
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not is_ours(value):
        raise BadRequestError(f"add_hostfwd: bad arguments.{name}")
    return value


def _port(arguments: dict[str, object], name: str) -> int:
    value = _number(arguments.get(name))
    if value is None or not 1 <= value <= _MAX_PORT:
        raise BadRequestError(f"add_hostfwd: bad arguments.{name}")
    return value


def _number(value: object) -> int | None:
    """A whole number; JSON knows no integers, so 8080.0 is one too."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value == value // 1 else None
