"""IPv6 as the runtimes ask for it."""

from __future__ import annotations

import re

import pytest

from lab.machine import Machine
from lab.servers import serve_http
from lab.topology import REMOTE6, Topology


@pytest.mark.parametrize("network", ["slirp4netns", "slirp4netns:enable_ipv6=true"])
def test_podman_with_ipv6(bed: Topology, machine: Machine, network: str) -> None:
    with serve_http(bed.remote.listen(REMOTE6), 100) as port:
        script = f"""
            ip -6 addr show dev tap0 scope global
            ip -6 route
            wget -q -O- 'http://[{REMOTE6}]:{port}/' | wc -c
        """
        shown = machine.container(f"--network={network}", command=script)
    assert "inet6 fd00:" in shown
    assert "tentative" not in shown
    assert re.search(r"default via f[de][08]0::2 dev tap0", shown)
    assert shown.endswith("\n100\n")


def test_podman_without_ipv6(machine: Machine) -> None:
    network = "--network=slirp4netns:enable_ipv6=false"
    assert machine.container(network, command="ip -6 addr show dev tap0 scope global") == ""


def test_rootlesskit_with_ipv6(bed: Topology, machine: Machine) -> None:
    script = f"""
        until ip -6 addr show dev tap0 scope global -tentative | grep fd00; do sleep 0.1; done
        curl -sS --max-time 5 'http://[{REMOTE6}]:'$0/ | wc -c
    """
    with serve_http(bed.remote.listen(REMOTE6), 100) as port:
        argv = ("rootlesskit", "--net=slirp4netns", "--ipv6", "--copy-up=/etc", "timeout", "20")
        shown = machine.run(*argv, "sh", "-c", script, str(port)).stdout
    assert shown.endswith("\n100\n")
