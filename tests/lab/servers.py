"""Servers for the tests: threads of the test process around sockets that live in any namespace.

Bulk content is made of blocks that carry their own number, so that a lost, doubled or swapped piece
changes the digest; hashing and socket calls drop the GIL, so the threads do not slow each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping

BLOCK_BYTES = 1 << 16
# Of each bulk transfer of the system tests.
TRANSFER_BYTES = int(os.environ.get("PYSLIRP_E2E_TRANSFER_MIB", "1024")) << 20
DNS_PORT = 53
Handler = Callable[[socket.socket], None]


# Content


def blocks(size: int, seed: int = 0) -> Iterator[bytes]:
    """`size` octets of content; the same for the same seed."""
    filling = random.Random(seed).randbytes(BLOCK_BYTES)
    for number in range(0, size, BLOCK_BYTES):
        block = struct.pack("!Q", number) + filling[8:]
        yield block[: size - number]


def digest_of(size: int, seed: int = 0) -> str:
    """SHA-256 of the content."""
    digest = hashlib.sha256()
    for block in blocks(size, seed):
        digest.update(block)
    return digest.hexdigest()


def send_content(to: socket.socket, size: int, seed: int = 0) -> None:
    """Send the content, then say that it was all."""
    for block in blocks(size, seed):
        to.sendall(block)
    to.shutdown(socket.SHUT_WR)


def receive_digest(source: socket.socket) -> tuple[int, str]:
    """Read to the end: how many octets, and their SHA-256."""
    digest, size = hashlib.sha256(), 0
    buffer = memoryview(bytearray(1 << 20))
    while count := source.recv_into(buffer):
        digest.update(buffer[:count])
        size += count
    return size, digest.hexdigest()


def receive_exactly(source: socket.socket, size: int) -> bytes:
    """Read `size` octets; fewer only at the end of the stream."""
    pieces = []
    while size and (piece := source.recv(min(size, 1 << 20))):
        pieces.append(piece)
        size -= len(piece)
    return b"".join(pieces)


# Servers


@contextlib.contextmanager
def serve(listener: socket.socket, handler: Handler) -> Iterator[int]:
    """Call `handler` in a thread of its own for each connection; yields the port."""
    stopping = threading.Event()

    def handle(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            handler(client)

    def accept() -> None:
        while not stopping.is_set():
            with contextlib.suppress(TimeoutError):
                client, _ = listener.accept()
                client.settimeout(60)
                threading.Thread(target=handle, args=(client,), daemon=True).start()

    listener.settimeout(0.1)
    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        stopping.set()
        acceptor.join()
        listener.close()


def echo(client: socket.socket) -> None:
    """Send back what comes until the end of the stream."""
    while piece := client.recv(1 << 16):
        client.sendall(piece)


@contextlib.contextmanager
def serve_http(listener: socket.socket, size: int) -> Iterator[int]:
    """GET /anything gives `size` octets of content; PUT answers with the SHA-256 of the body."""

    class Files(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(size))
            self.end_headers()
            for block in blocks(size):
                self.wfile.write(block)

        def do_PUT(self) -> None:
            if self.headers.get("Expect") == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            digest, left = hashlib.sha256(), int(self.headers["Content-Length"])
            while left and (piece := self.rfile.read(min(left, 1 << 20))):
                digest.update(piece)
                left -= len(piece)
            answer = digest.hexdigest().encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("", 0), Files, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


# DNS

TYPE_A, TYPE_TXT = 1, 16
RCODE_NAME_ERROR = 3
UDP_ANSWER_BYTES = 512
EDNS_OPTION = struct.pack("!BHHIH", 0, 41, 4096, 0, 0)


class DnsServer:
    """Authoritative for `records` (name to IPv4 address, or to text for TXT); UDP and TCP.

    Answers that are longer than the query allows (512 octets without EDNS) are truncated on UDP, so
    that a client must come again over TCP. `queries` counts what was asked over each transport.
    """

    def __init__(
        self, datagrams: socket.socket, listener: socket.socket, records: Mapping[str, str]
    ) -> None:
        self.records = dict(records)
        self.queries = {"udp": 0, "tcp": 0}
        self._datagrams = datagrams
        self._listener = listener
        self._thread = threading.Thread(target=self._serve_udp, daemon=True)
        self._stopping = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[DnsServer]:
        """Answer for the time of the block."""
        self._datagrams.settimeout(0.1)
        self._thread.start()
        try:
            with serve(self._listener, self._serve_tcp):
                yield self
        finally:
            self._stopping.set()
            self._thread.join()
            self._datagrams.close()

    def _serve_udp(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError, ValueError, IndexError):  # no query
                query, client = self._datagrams.recvfrom(4096)
                self.queries["udp"] += 1
                self._datagrams.sendto(self._answer(query, _udp_limit(query)), client)

    def _serve_tcp(self, client: socket.socket) -> None:
        while length := receive_exactly(client, 2):
            query = receive_exactly(client, int.from_bytes(length, "big"))
            self.queries["tcp"] += 1
            answer = self._answer(query, 65535)
            client.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answer(self, query: bytes, limit: int) -> bytes:
        """RFC 1035: the question again, and what the records say about it."""
        end = query.index(b"\0", 12) + 5
        question = query[12:end]
        name, kind = _name_of(question), int.from_bytes(question[-4:-2], "big")
        data = _record_data(kind, self.records.get(name))
        rcode = 0 if name in self.records else RCODE_NAME_ERROR
        flags = 0x8580 | rcode  # response, authoritative, recursion desired and available
        record = b""
        if data is not None:
            record = struct.pack("!HHHIH", 0xC00C, kind, 1, 60, len(data)) + data
        option = EDNS_OPTION if _has_edns(query) else b""
        if 12 + len(question) + len(record) + len(option) > limit:
            flags, record = flags | 0x0200, b""  # truncated
        counts = (1, 1 if record else 0, 0, 1 if option else 0)
        header = query[:2] + struct.pack("!HHHHH", flags, *counts)
        return header + question + record + option


def _has_edns(query: bytes) -> bool:
    """The first additional record is an OPT (RFC 6891 6.1.2); queries here have no others."""
    end = query.index(b"\0", 12) + 5
    return query[10:12] != b"\0\0" and query[end : end + 3] == EDNS_OPTION[:3]


def _udp_limit(query: bytes) -> int:
    end = query.index(b"\0", 12) + 5
    if not _has_edns(query):
        return UDP_ANSWER_BYTES
    return max(UDP_ANSWER_BYTES, int.from_bytes(query[end + 3 : end + 5], "big"))


def _name_of(question: bytes) -> str:
    labels, at = [], 0
    while length := question[at]:
        labels.append(question[at + 1 : at + 1 + length].decode().lower())
        at += 1 + length
    return ".".join(labels)


def _record_data(kind: int, value: str | None) -> bytes | None:
    if value is None:
        return None
    is_address = value.count(".") == 3
    if kind == TYPE_A and is_address:
        return socket.inet_aton(value)
    if kind == TYPE_TXT and not is_address:
        text = value.encode()
        parts = [text[at : at + 255] for at in range(0, len(text), 255)]
        return b"".join(bytes([len(part)]) + part for part in parts)
    return None
