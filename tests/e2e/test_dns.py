"""Name service at network + 3: dig through the host's resolvers, UDP and TCP, and its absence."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator

import pytest

from lab.daemons import Slirp
from lab.namespaces import Namespace
from lab.servers import DNS_PORT, DnsServer, serve_http
from lab.topology import REMOTE, REMOTE_SECOND, SILENT, Guest, Topology

Attach = Callable[..., Slirp]
DNS = "10.0.2.3"
LONG_ANSWER_BYTES = 3000


def dig(guest: Guest, *arguments: str, server: str = DNS) -> str:
    """The short answer of dig."""
    options = ("+short", "+tries=2", "+time=2")
    return guest.run("dig", f"@{server}", *options, *arguments).stdout.strip()


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_name_is_resolved(dns: DnsServer, net: Slirp, transport: str) -> None:
    assert dig(net.guest, transport, "example.test", "A") == "192.0.2.80"


def test_truncated_answer_is_fetched_over_tcp(dns: DnsServer, net: Slirp) -> None:
    before = dns.queries["tcp"]
    answer = dig(net.guest, "long.test", "TXT")
    assert len(answer.replace('"', "").replace(" ", "")) == LONG_ANSWER_BYTES
    assert dns.queries["tcp"] == before + 1


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_answer_of_4000_bytes(dns: DnsServer, net: Slirp, transport: str) -> None:
    """By UDP it comes in three fragments to the host, and from it to the guest."""
    before = dict(dns.queries)
    run = ("dig", f"@{DNS}", "+bufsize=4096", "+tries=1", "+time=3", transport, "+ignore")
    report = net.guest.run(*run, "huge.test", "TXT").stdout
    received = re.search(r"MSG SIZE  rcvd: (\d+)", report)
    assert received
    assert int(received[1]) >= 4000
    text = "".join(re.findall(r'"(\d+)"', report))
    assert text == "".join(f"{number:05}" for number in range(790))
    asked = {"+notcp": "udp", "+tcp": "tcp"}[transport]
    assert dns.queries == {**before, asked: before[asked] + 1}


def test_unknown_name_stays_unknown(dns: DnsServer, net: Slirp) -> None:
    done = net.guest.run("dig", f"@{DNS}", "+tries=1", "no-such.test")
    assert "status: NXDOMAIN" in done.stdout


def test_other_names_servers_are_reached_directly(dns: DnsServer, net: Slirp) -> None:
    assert dig(net.guest, "example.test", server=REMOTE) == "192.0.2.80"


def test_curl_by_name(bed: Topology, dns: DnsServer, net: Slirp) -> None:
    net.guest.use_resolver(DNS, bed.workdir)
    with serve_http(bed.remote.listen(), 1000) as port:
        got = net.guest.run("curl", "-sS", "-o", "/dev/null", "-w", "%{size_download}",
                            f"http://remote.test:{port}/").stdout  # fmt: skip
    assert got == "1000"


def test_dns_moves_with_the_cidr(dns: DnsServer, attach: Attach) -> None:
    net = attach("--cidr=10.33.44.0/24")
    assert dig(net.guest, "example.test", server="10.33.44.3") == "192.0.2.80"


@pytest.fixture
def host_resolver(bed: Topology) -> Iterator[Callable[..., None]]:
    """Change the host's resolv.conf for one test."""
    yield bed.set_resolv_conf
    bed.set_resolv_conf(REMOTE)


def test_host_resolver_on_loopback(
    bed: Topology, net: Slirp, host_resolver: Callable[..., None]
) -> None:
    host_resolver("127.0.0.1")
    server = DnsServer(
        bed.host.bind_udp("127.0.0.1", DNS_PORT),
        bed.host.listen("127.0.0.1", DNS_PORT),
        {"local.test": "192.0.2.1"},
    )
    with server.running():
        net.guest.run("sleep", "0.3")  # the change is told, and not found a second later
        assert dig(net.guest, "local.test") == "192.0.2.1"


@pytest.mark.beyond
@pytest.mark.parametrize("named", ["before", "by name", "by number"])
def test_link_local_server(
    bed: Topology, attach: Attach, host_resolver: Callable[..., None], named: str
) -> None:
    """fe80::53 of the interface that resolv.conf names, before ready or when we are confined."""

    def index(space: Namespace) -> int:
        return int(space.run("ip", "-o", "link", "show", "eth0").stdout.split(":")[0])

    scope = str(index(bed.host)) if named == "by number" else "eth0"
    bed.remote.run("ip", "addr", "replace", "fe80::53/64", "dev", "eth0", "nodad")
    bed.host.run("ip", "addr", "replace", "fe80::51/64", "dev", "eth0", "nodad")
    datagrams = bed.remote.new_socket(socket.SOCK_DGRAM, socket.AF_INET6)
    listener = bed.remote.new_socket(family=socket.AF_INET6)
    for sock in (datagrams, listener):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("fe80::53", DNS_PORT, 0, index(bed.remote)))
    listener.listen()
    if named == "before":
        host_resolver(f"fe80::53%{scope}")
    net = attach()
    if named != "before":
        host_resolver(f"fe80::53%{scope}")
        net.guest.run("sleep", "0.3")
    net.guest.use_resolver(DNS, bed.workdir)  # there is no eth0, of which dig would read
    with DnsServer(datagrams, listener, {"local.test": "192.0.2.1"}).running():
        for transport in ("+notcp", "+tcp"):
            assert dig(net.guest, transport, "local.test") == "192.0.2.1"


@pytest.mark.beyond
def test_dead_servers_are_passed_over(
    bed: Topology, dns: DnsServer, net: Slirp, host_resolver: Callable[..., None]
) -> None:
    """One that refuses, one that is silent; by either transport."""
    host_resolver(REMOTE_SECOND, SILENT, REMOTE)
    net.guest.run("sleep", "0.3")
    for transport in ("+notcp", "+tcp"):
        answer = dig(net.guest, transport, "+tries=1", "+time=4", "example.test")
        assert answer == "192.0.2.80", transport


@pytest.mark.beyond
def test_disable_dns_refuses_queries_at_once(dns: DnsServer, attach: Attach) -> None:
    net = attach("--disable-dns")
    with net.guest.bind_udp() as sock:
        sock.settimeout(3)
        sock.connect((DNS, DNS_PORT))
        sock.send(bytes(12))
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


def test_disable_dns_gives_tcp_no_answer(dns: DnsServer, attach: Attach) -> None:
    """slirp4netns's own test of the option expects a time-out."""
    net = attach("--disable-dns")
    with pytest.raises(TimeoutError):
        net.guest.connect(DNS, DNS_PORT, timeout=2).close()


def test_disable_dns(dns: DnsServer, attach: Attach) -> None:
    net = attach("--disable-dns")
    before = dict(dns.queries)
    options = ("+tries=1", "+time=1")
    assert net.guest.run("dig", f"@{DNS}", *options, "example.test", check=False).returncode != 0
    assert dns.queries == before
    assert dig(net.guest, "example.test", server=REMOTE) == "192.0.2.80"
