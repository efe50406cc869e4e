"""Outbound addresses as Podman asks for them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from lab.machine import Machine
from lab.servers import serve
from lab.topology import HOST, HOST6, REMOTE, REMOTE6, Topology

SECOND, SECOND6 = "198.51.100.77", "2001:db8:51::77"


def name_the_client(client: socket.socket) -> None:
    """Send the address that the connection has come from."""
    client.sendall(client.getpeername()[0].encode())


@pytest.fixture
def second_address(bed: Topology) -> Iterator[None]:
    """Another address of the host, of each family."""
    addresses = (f"{SECOND}/24", f"{SECOND6}/64")
    for address in addresses:
        # Deprecated (RFC 4862 5.5.4): not taken for a connection unless it is asked for.
        extra = ("nodad", "preferred_lft", "0") if ":" in address else ()
        bed.host.run("ip", "addr", "add", address, "dev", "eth0", *extra)
    yield
    for address in addresses:
        bed.host.run("ip", "addr", "del", address, "dev", "eth0")


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("outbound_addr=198.51.100.77", SECOND),
        ("outbound_addr=eth0", HOST),
        ("outbound_addr6=2001:db8:51::77", SECOND6),
        pytest.param("outbound_addr6=eth0", HOST6, marks=pytest.mark.beyond),
    ],
)
def test_outbound_addr(
    bed: Topology, machine: Machine, second_address: None, options: str, wanted: str
) -> None:
    """An interface stands for its first address."""
    remote = REMOTE6 if ":" in wanted else REMOTE
    network = f"--network=slirp4netns:enable_ipv6=true,{options}"
    with serve(bed.remote.listen(remote), name_the_client) as port:
        told = machine.container(network, command=f"nc.openbsd -d {remote} {port}")
    assert told == wanted
