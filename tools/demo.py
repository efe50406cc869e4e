#!/usr/bin/env python3
"""What pyslirp does, shown in a few seconds and without the internet.

    demo.py PYSLIRP       serve a file on the host's loopback, run ourselves inside `PYSLIRP run`
    demo.py --inside URL  the guest: look around, ping, fetch the file and send it back

The exit status is 0 when every octet arrived both ways. Digests are taken before and after the
clock runs: hashing is slower than the network.
"""

from __future__ import annotations

import hashlib
import http.client
import http.server
import os
import pathlib
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.parse

GATEWAY = "10.0.2.2"
FILE_BYTES = 512 << 20
NAME_TO_RESOLVE = "www.debian.org"
CLOSED_PORT = 9


def make_file() -> tuple[int, str]:
    """A file in memory, whose blocks all differ: its descriptor and SHA-256."""
    fd = os.memfd_create("demo")
    digest = hashlib.sha256()
    filling = random.Random(1).randbytes(1 << 20)
    for number in range(FILE_BYTES >> 20):
        block = number.to_bytes(8, "big") + filling[8:]
        digest.update(block)
        os.write(fd, block)
    return fd, digest.hexdigest()


def read_body(stream: object, size: int) -> tuple[bytearray, float]:
    """Read `size` octets with readinto(); them, and the seconds it took."""
    buffer = bytearray(size)
    view, filled = memoryview(buffer), 0
    started = time.monotonic()
    while filled < size and (count := stream.readinto(view[filled:])):  # type: ignore[attr-defined]
        filled += count
    return buffer, time.monotonic() - started


class Files(http.server.BaseHTTPRequestHandler):
    """GET sends the file; PUT answers with the seconds and the SHA-256 of what came."""

    file_fd = -1

    def do_GET(self) -> None:
        """The file, straight from memory to the socket."""
        self.send_response(200)
        self.send_header("Content-Length", str(FILE_BYTES))
        self.end_headers()
        sent = 0
        while sent < FILE_BYTES:
            sent += os.sendfile(self.connection.fileno(), self.file_fd, sent, FILE_BYTES - sent)

    def do_PUT(self) -> None:
        """Take it, then hash it."""
        body, seconds = read_body(self.rfile, int(self.headers["Content-Length"]))
        answer = f"{seconds} {hashlib.sha256(body).hexdigest()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def host(pyslirp: str) -> int:
    """Serve, and run the guest; its exit status."""
    Files.file_fd, digest = make_file()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://{GATEWAY}:{server.server_address[1]}/{digest}"
    print(f"$ {pathlib.Path(pyslirp).name} run -- demo.py --inside {url}\n", flush=True)
    command = [pyslirp, "run", "--", sys.executable, __file__, "--inside", url]
    return subprocess.run(command, check=False).returncode


def show(title: str, text: str) -> None:
    """One finding."""
    for number, line in enumerate(text.strip().splitlines()):
        print(f"{'' if number else title:>12}  {line}", flush=True)


def output_of(*argv: str) -> str:
    """What a command prints."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout or done.stderr


def look_around() -> None:
    """Where we are, and what the network answers."""
    show("addresses", output_of("ip", "-brief", "-4", "address"))
    show("routes", output_of("ip", "route"))
    show("ping", output_of("ping", "-c", "3", "-i", "0.2", GATEWAY).strip().splitlines()[-1])
    started = time.monotonic()
    try:
        socket.create_connection((GATEWAY, CLOSED_PORT), timeout=5).close()
    except OSError as refusal:
        show("closed port", f"{refusal.strerror} after {(time.monotonic() - started) * 1e3:.1f} ms")
    try:
        address = socket.getaddrinfo(NAME_TO_RESOLVE, 80, socket.AF_INET)[0][4][0]
        show("name", f"{NAME_TO_RESOLVE} is {address}")
    except OSError:
        show("name", f"{NAME_TO_RESOLVE} cannot be resolved (no internet here?)")


def show_rate(title: str, seconds: float) -> None:
    """The throughput of one transfer."""
    rate = FILE_BYTES * 8 / 1e9 / seconds
    show(title, f"{FILE_BYTES >> 20} MiB in {seconds:.2f} s: {rate:.1f} Gbit/s")


def inside(url: str) -> int:
    """The guest; 0 when all is well."""
    look_around()
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request("GET", parts.path)
    body, seconds = read_body(connection.getresponse(), FILE_BYTES)
    show_rate("down", seconds)
    fetched = hashlib.sha256(body).hexdigest()

    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request("PUT", parts.path, body)
    taken, arrived = connection.getresponse().read().decode().split()
    show_rate("up", float(taken))

    expected = parts.path.removeprefix("/")
    same = fetched == arrived == expected
    show("SHA-256", f"{expected}\n{'the same' if same else 'DIFFERENT'} at both ends, both ways")
    return 0 if same else 1


def main(argv: list[str]) -> int:
    """Host or guest."""
    if len(argv) == 3 and argv[1] == "--inside":
        return inside(argv[2])
    if len(argv) == 2 and not argv[1].startswith("-"):
        return host(argv[1])
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv))
