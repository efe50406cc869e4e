"""IPv6 as the guest has it: usable when ready is written, to the world, the host, its resolver."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

import pytest

from lab.daemons import Slirp
from lab.namespaces import Namespace
from lab.servers import (
    DnsServer,
    digest_of,
    echo,
    receive_digest,
    receive_exactly,
    send_content,
    serve,
    serve_http,
)
from lab.topology import HOST6, REMOTE, REMOTE6, Topology

Attach = Callable[..., Slirp]
GATEWAY6, DNS6 = "fd00::2", "fd00::3"
PREFIX = "fd00::"
TRANSFER_BYTES = 64 << 20
pytestmark = pytest.mark.beyond  # slirp4netns 1.2 waits for duplicate detection, and more


@pytest.fixture
def net6(attach: Attach) -> Slirp:
    """A guest of both families."""
    return attach("-6", api=True)


def greet(space: Namespace, address: str, port: int) -> str:
    """Send a line to an echo server; who the client was."""
    with space.connect(address, port) as client:
        client.sendall(b"hello")
        assert receive_exactly(client, 5) == b"hello"
        return str(client.getsockname()[0])


def test_usable_when_ready(bed: Topology, attach: Attach) -> None:
    """No address is tentative, and the first connection succeeds at once."""
    with serve(bed.remote.listen(REMOTE6), echo) as port:
        net = attach("-6")
        assert greet(net.guest, REMOTE6, port).startswith(PREFIX)
        assert "tentative" not in net.guest.run("ip", "-6", "addr", "show", "dev", "tap0").stdout


def test_both_families_at_once(bed: Topology, net6: Slirp) -> None:
    with (
        serve(bed.remote.listen(REMOTE6), echo) as port6,
        serve(bed.remote.listen(REMOTE), echo) as port,
    ):
        assert greet(net6.guest, REMOTE6, port6).startswith(PREFIX)
        assert greet(net6.guest, REMOTE, port) == "10.0.2.100"


def test_without_the_option_there_is_none(bed: Topology, net: Slirp) -> None:
    with pytest.raises(OSError, match="unreachable"):
        net.guest.connect(REMOTE6, 80)


def test_another_prefix(bed: Topology, attach: Attach) -> None:
    net = attach("-6", "--cidr6=fd12:3456::/64")
    with serve(bed.remote.listen(REMOTE6), echo) as port:
        assert greet(net.guest, REMOTE6, port).startswith("fd12:3456::")


@pytest.mark.parametrize("mtu", ["1500", "65520"])
@pytest.mark.parametrize("down", [False, True])
def test_every_octet_arrives(bed: Topology, attach: Attach, mtu: str, down: bool) -> None:
    net = attach("-6", f"--mtu={mtu}")
    listener = bed.remote.listen(REMOTE6)
    with listener, net.guest.connect(REMOTE6, listener.getsockname()[1]) as client:
        server, _ = listener.accept()
        with server:
            source, sink = (server, client) if down else (client, server)
            source.settimeout(60)
            sink.settimeout(60)
            sender = threading.Thread(target=send_content, args=(source, TRANSFER_BYTES))
            sender.start()
            assert receive_digest(sink) == (TRANSFER_BYTES, digest_of(TRANSFER_BYTES))
            sender.join()


def test_curl(bed: Topology, dns: DnsServer, net6: Slirp) -> None:
    with serve_http(bed.remote.listen(REMOTE6), 1000) as port:
        done = net6.guest.run(
            *("curl", "-6", "-sS", "-o", "/dev/null", "-w", "%{size_download}"),
            f"http://[{REMOTE6}]:{port}/",
        )
    assert done.stdout == "1000"


@pytest.mark.parametrize("size", [0, 1, 1452, 1453, 9000, 60000])
def test_datagrams(bed: Topology, net6: Slirp, size: int) -> None:
    with bed.remote.bind_udp(REMOTE6) as server, net6.guest.bind_udp("::") as guest:
        port = server.getsockname()[1]
        guest.sendto(b"z" * size, (REMOTE6, port))
        data, source = server.recvfrom(65536)
        assert (len(data), source[0]) == (size, HOST6)
        server.sendto(data, source)
        answer, answerer = guest.recvfrom(65536)
        assert (len(answer), answerer[:2]) == (size, (REMOTE6, port))


def test_refused_datagram(bed: Topology, net6: Slirp) -> None:
    with net6.guest.new_socket(socket.SOCK_DGRAM, socket.AF_INET6) as guest:
        guest.settimeout(5)
        guest.connect((REMOTE6, 9))
        guest.send(b"anybody?")
        with pytest.raises(ConnectionRefusedError):
            guest.recv(100)


def test_refused_connection(bed: Topology, net6: Slirp) -> None:
    with pytest.raises(ConnectionRefusedError):
        net6.guest.connect(REMOTE6, 9)


@pytest.mark.parametrize("size", ["56", "1452", "8000", "65507"])
@pytest.mark.parametrize("target", [GATEWAY6, DNS6, "fe80::2%tap0", REMOTE6])
def test_ping(bed: Topology, net6: Slirp, target: str, size: str) -> None:
    done = net6.guest.run("ping", "-6", "-c2", "-i0.2", "-W5", "-s", size, target)
    assert " 0% packet loss" in done.stdout


def test_nobody_else_answers_in_the_prefix(bed: Topology, net6: Slirp) -> None:
    done = net6.guest.run("ping", "-6", "-c1", "-W1", "fd00::55", check=False)
    assert done.returncode != 0


def test_host_loopback(bed: Topology, attach: Attach) -> None:
    with serve(bed.host.listen("::1"), echo) as port:
        open_net, closed_net = attach("-6"), attach("-6", "--disable-host-loopback")
        assert greet(open_net.guest, GATEWAY6, port).startswith(PREFIX)
        with pytest.raises(OSError, match="Network is unreachable"):
            greet(closed_net.guest, GATEWAY6, port)
        for address in (GATEWAY6, DNS6, "fe80::2%tap0", "::ffff:127.0.0.1", "::ffff:10.0.2.2"):
            with pytest.raises(OSError):  # noqa: PT011 (of which kind is the kernel's business)
                greet(closed_net.guest, address, port)


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_names(dns: DnsServer, net6: Slirp, transport: str) -> None:
    done = net6.guest.run("dig", f"@{DNS6}", "+short", "+tries=2", transport, "example.test", "A")
    assert done.stdout.strip() == "192.0.2.80"


def test_address_by_advertisement(bed: Topology, attach: Attach) -> None:
    """SLAAC, for a guest that nobody configures (RFC 4862): what RootlessKit's and others' do."""
    guest = bed.guest()
    net = attach("-6", guest=guest, configure=False)
    guest.sysctl(ipv6__conf__tap0__accept_ra="2", ipv6__conf__tap0__accept_dad="0")
    guest.run("ip", "link", "set", "tap0", "up")
    script = "until ip -6 route show default | grep -q via; do sleep 0.1; done"
    guest.run("timeout", "10", "sh", "-c", script)
    with serve(bed.remote.listen(REMOTE6), echo) as port:
        assert greet(net.guest, REMOTE6, port).startswith("fd00::")


@pytest.mark.parametrize(("address", "space"), [(HOST6, "remote"), ("::1", "host")])
def test_forwards(bed: Topology, net6: Slirp, address: str, space: str) -> None:
    """A client is seen by its own address, the host itself as the gateway."""
    net6.forward("tcp6", 18_086, 80)
    net6.forward("udp6", 18_086, 53)
    client_space = getattr(bed, space)
    expected = REMOTE6 if space == "remote" else GATEWAY6
    with net6.guest.listen("::", 80) as listener, client_space.connect(address, 18_086) as client:
        server, peer = listener.accept()
        with server:
            assert peer[0] == expected
            client.sendall(b"ping")
            assert receive_exactly(server, 4) == b"ping"
    with net6.guest.bind_udp("::", 53) as server, client_space.bind_udp("::") as client:
        client.sendto(b"who?", (address, 18_086))
        data, source = server.recvfrom(100)
        assert (data, source[0]) == (b"who?", expected)
        server.sendto(b"you", source)
        answer, answerer = client.recvfrom(100)
        assert (answer, answerer[0]) == (b"you", address)
