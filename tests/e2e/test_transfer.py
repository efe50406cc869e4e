"""Bulk data: every octet, both ways, at each MTU, while other connections live.

PYSLIRP_E2E_TRANSFER_MIB sets the size of the big ones (default 1024).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

import pytest

from lab.daemons import Slirp
from lab.servers import (
    TRANSFER_BYTES,
    digest_of,
    echo,
    receive_digest,
    receive_exactly,
    send_content,
    serve,
    serve_http,
)
from lab.topology import REMOTE, Topology

Attach = Callable[..., Slirp]
SMALL_BYTES = 8 << 20
OTHER_CONNECTIONS = 50


@contextlib.contextmanager
def busy_connections(bed: Topology, net: Slirp) -> Iterator[None]:
    """Connections that exchange a little all the time and must never mix up an octet."""
    stopping = threading.Event()
    failures: list[BaseException] = []

    def chat(number: int, port: int) -> None:
        try:
            with net.guest.connect(REMOTE, port) as client:
                client.settimeout(30)
                turn = 0
                while not stopping.wait(0.05):
                    message = f"connection {number} turn {turn} ".encode() * 20
                    client.sendall(message)
                    assert receive_exactly(client, len(message)) == message
                    turn += 1
                assert turn > 0
        except BaseException as failure:
            failures.append(failure)

    with serve(bed.remote.listen(), echo) as port:
        threads = [
            threading.Thread(target=chat, args=(number, port))
            for number in range(OTHER_CONNECTIONS)
        ]
        for thread in threads:
            thread.start()
        yield
        stopping.set()
        for thread in threads:
            thread.join()
    assert not failures


def upload(bed: Topology, net: Slirp, size: int) -> tuple[int, str]:
    """Guest to remote; what the remote received."""
    listener = bed.remote.listen()
    with listener, net.guest.connect(REMOTE, listener.getsockname()[1]) as client:
        client.settimeout(60)
        server, _ = listener.accept()
        with server:
            server.settimeout(60)
            sender = threading.Thread(target=send_content, args=(client, size))
            sender.start()
            received = receive_digest(server)
            sender.join()
    return received


def download(bed: Topology, net: Slirp, size: int) -> tuple[int, str]:
    """Remote to guest; what the guest received."""
    with (
        serve(bed.remote.listen(), lambda to: send_content(to, size)) as port,
        net.guest.connect(REMOTE, port) as client,
    ):
        client.settimeout(60)
        return receive_digest(client)


WAYS = [pytest.param(upload, id="up"), pytest.param(download, id="down")]
Way = Callable[[Topology, Slirp, int], tuple[int, str]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mtu", [1500, 65520])
def test_big_transfer_beside_busy_connections(
    bed: Topology, attach: Attach, mtu: int, way: Way
) -> None:
    net = attach(f"--mtu={mtu}")
    with busy_connections(bed, net):
        received = way(bed, net, TRANSFER_BYTES)
    assert received == (TRANSFER_BYTES, digest_of(TRANSFER_BYTES))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("mtu", [576, 1280, 9000, 65521])
def test_transfer_at_any_mtu(bed: Topology, attach: Attach, mtu: int, way: Way) -> None:
    received = way(bed, attach(f"--mtu={mtu}"), SMALL_BYTES)
    assert received == (SMALL_BYTES, digest_of(SMALL_BYTES))


@pytest.mark.parametrize("mtu", [1500, 65520])
def test_both_ways_at_once_on_one_connection(bed: Topology, attach: Attach, mtu: int) -> None:
    net = attach(f"--mtu={mtu}")
    sent_digest = digest_of(SMALL_BYTES, seed=1)
    outcome: list[tuple[int, str]] = []

    def swap(client: object) -> None:
        assert hasattr(client, "sendall")
        sender = threading.Thread(target=send_content, args=(client, SMALL_BYTES, 2))
        sender.start()
        outcome.append(receive_digest(client))  # type: ignore[arg-type]
        sender.join()

    with serve(bed.remote.listen(), swap) as port, net.guest.connect(REMOTE, port) as client:
        client.settimeout(60)
        sender = threading.Thread(target=send_content, args=(client, SMALL_BYTES, 1))
        sender.start()
        received = receive_digest(client)
        sender.join()
    assert received == (SMALL_BYTES, digest_of(SMALL_BYTES, seed=2))
    assert outcome == [(SMALL_BYTES, sent_digest)]


@pytest.mark.parametrize("options", [(), ("--mtu=65520",)], ids=["1500", "65520"])
def test_through_a_forward_both_ways(
    bed: Topology, attach: Attach, options: tuple[str, ...]
) -> None:
    net = attach(*options, api=True)
    with serve_http(net.guest.listen(port=80), SMALL_BYTES):
        net.forward("tcp", 18_080, 80)
        url = "http://198.51.100.1:18080/file"
        fetch = f"curl -sS {url} | sha256sum"
        got = bed.remote.run("sh", "-c", fetch).stdout.split()[0]
        put = f"head -c {SMALL_BYTES} /dev/zero | curl -sS -T - -H 'Transfer-Encoding:' "
        put += f"-H 'Content-Length: {SMALL_BYTES}' {url}"
        answered = bed.remote.run("sh", "-c", put).stdout
        expected = bed.remote.run("sh", "-c", f"head -c {SMALL_BYTES} /dev/zero | sha256sum").stdout
    assert got == digest_of(SMALL_BYTES)
    assert answered == expected.split()[0]


def test_curl_fetches_a_file_with_the_same_digest(bed: Topology, net: Slirp) -> None:
    with serve_http(bed.remote.listen(), SMALL_BYTES) as port:
        fetch = f"curl -sS http://{REMOTE}:{port}/file | sha256sum"
        got = net.guest.run("sh", "-c", fetch).stdout.split()[0]
    assert got == digest_of(SMALL_BYTES)
