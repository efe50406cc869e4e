"""The API socket: slirp4netns(1), and what the clients of a socket may do to it."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

from conformance.net import GATEWAY, Net
from conformance.suite import case
from conformance.wire import CaseError
from lab.daemons import Slirp

MANUAL = "slirp4netns(1)"


def daemon(net: Net) -> Slirp:
    net.only("pyslirp", "slirp4netns")
    assert net.daemon is not None
    return net.daemon


def ask(net: Net, request: bytes) -> dict[str, Any]:
    reply = daemon(net).request_raw(request, 3)
    if not reply:
        raise CaseError("no reply")
    return dict(json.loads(reply))


def add(net: Net, host_port: object, **more: object) -> dict[str, Any]:
    arguments = {"proto": "tcp", "host_port": host_port, "guest_port": 80, **more}
    return ask(net, json.dumps({"execute": "add_hostfwd", "arguments": arguments}).encode())


def expect_error(reply: dict[str, Any], what: str) -> None:
    if "error" not in reply or not isinstance(reply["error"].get("desc"), str):
        raise CaseError(f"{what}: {reply}")


def works(net: Net) -> None:
    if "entries" not in ask(net, b'{"execute": "list_hostfwd"}'):
        raise CaseError("the API does not work any more")
    net.ping(GATEWAY)


@case(MANUAL)
def add_list_remove(net: Net) -> None:
    port = net.port
    number = add(net, port)["return"]["id"]
    listed = ask(net, b'{"execute": "list_hostfwd"}')
    entries = listed["return"]["entries"] if "return" in listed else listed["entries"]
    if not any(entry["id"] == number and entry["host_port"] == port for entry in entries):
        raise CaseError(f"{listed}")
    request = {"execute": "remove_hostfwd", "arguments": {"id": number}}
    if ask(net, json.dumps(request).encode()) != {"return": {}}:
        raise CaseError("remove_hostfwd")
    with net.bed.host.listen(port=port):
        pass


@case(MANUAL)
def a_port_in_use_is_refused(net: Net) -> None:
    daemon(net)
    with net.bed.host.listen() as taken:
        expect_error(add(net, taken.getsockname()[1]), "a port in use")
    port = net.port
    add(net, port)
    expect_error(add(net, port), "the same forward twice")


@case(MANUAL)
def removing_what_is_not_there_is_refused(net: Net) -> None:
    for number in (0, -1, 4711, 1 << 40, "1", None, [1]):
        request = {"execute": "remove_hostfwd", "arguments": {"id": number}}
        reply = ask(net, json.dumps(request).encode())
        expect_error(reply, f"remove_hostfwd {number!r}")


@case(MANUAL)
def unknown_commands_are_refused(net: Net) -> None:
    for request in (
        b'{"execute": "quit"}', b'{"execute": ""}', b'{"execute": 5}', b'{"execute": null}', b"{}",
        b'{"arguments": {}}', b'{"execute": ["add_hostfwd"]}',
    ):  # fmt: skip
        expect_error(ask(net, request), repr(request))
    works(net)


@case(MANUAL)
def garbage_is_refused(net: Net) -> None:
    for request in (
        b"x", b"null", b"5", b'"text"', b"[]", b"{", b"}", b"\0", b"\xff\xfe", b'{"execute"',
        b"[" * 3000, b'{"a":' * 500,
    ):  # fmt: skip
        expect_error(ask(net, request), repr(request[:20]))
    works(net)


@case(MANUAL)
def wrong_arguments_are_refused(net: Net) -> None:
    for more in (
        {"proto": "sctp"}, {"proto": 6}, {"proto": None}, {"host_addr": "nowhere"},
        {"host_addr": "1.2.3"}, {"host_addr": 5}, {"guest_addr": "x"}, {"guest_port": 0},
        {"guest_port": 65536}, {"guest_port": -1}, {"guest_port": "80"}, {"guest_port": None},
    ):  # fmt: skip
        expect_error(add(net, net.port, **more), f"{more}")
    ports: list[object] = [0, -1, 65536, 1 << 33, "8080", None, [], 80.5]
    for port in ports:
        expect_error(add(net, port), f"host_port {port!r}")
    works(net)


@case(MANUAL)
def arguments_of_a_wrong_type_are_refused(net: Net) -> None:
    for arguments in ("[]", "5", '"x"', "null"):
        request = f'{{"execute": "add_hostfwd", "arguments": {arguments}}}'
        expect_error(ask(net, request.encode()), request)
    works(net)


@case(MANUAL)
def a_huge_request_is_refused(net: Net) -> None:
    target = daemon(net)
    for size in (5000, 70_000, 1 << 20):
        with contextlib.suppress(OSError, ValueError):
            target.request_raw(b'{"execute": "' + b"x" * size, 3)
    works(net)


@case(MANUAL, seconds=1)
def a_silent_client_does_not_hold_the_others(net: Net) -> None:
    target = daemon(net)
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as half:
        silent.connect(str(target.api_path))
        half.connect(str(target.api_path))
        half.sendall(b'{"execute": ')
        time.sleep(0.1)
        works(net)


@case(MANUAL, seconds=1)
def many_clients_do_no_harm(net: Net) -> None:
    target = daemon(net)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(0.2)
            with contextlib.suppress(OSError):
                client.connect(str(target.api_path))
        works(net)


@case(MANUAL)
def a_client_that_goes_does_no_harm(net: Net) -> None:
    target = daemon(net)
    for sent in (b"", b"{", b'{"execute": "list_hostfwd"}'):
        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(target.api_path))
                client.sendall(sent)
    works(net)


@case(MANUAL)
def a_request_in_pieces_is_served(net: Net) -> None:
    target = daemon(net)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(3)
        client.connect(str(target.api_path))
        for octet in b'{"execute": "list_hostfwd"}':
            client.sendall(bytes([octet]))
            time.sleep(0.002)
        client.shutdown(socket.SHUT_WR)
        if b"entries" not in client.recv(65536):
            raise CaseError("no reply")


@case(MANUAL)
def a_forward_to_every_port_of_a_range(net: Net) -> None:
    ids = [add(net, net.port)["return"]["id"] for _ in range(50)]
    if len(set(ids)) != 50:
        raise CaseError("identifiers are used twice")
    for number in ids:
        request = {"execute": "remove_hostfwd", "arguments": {"id": number}}
        if "return" not in ask(net, json.dumps(request).encode()):
            raise CaseError("remove_hostfwd")
    works(net)
