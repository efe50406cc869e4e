"""The examples of slirp4netns's manual page, typed as there wherever the options exist here."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable

from lab.daemons import Slirp
from lab.servers import DnsServer, serve_http
from lab.topology import HOST, Topology

Attach = Callable[..., Slirp]


def shell(net: Slirp, script: str) -> str:
    """What `script` prints in a shell of the namespace."""
    return net.guest.run("sh", "-e", "-c", script).stdout


def test_example(bed: Topology, dns: DnsServer, attach: Attach) -> None:
    """EXAMPLE: configure, look at the interface, mount a resolv.conf, curl a name."""
    net = attach("--configure", "--mtu=65520", configure=False)
    shown = shell(net, "ip a")
    assert "mtu 65520" in shown
    assert "inet 10.0.2.100/24 brd 10.0.2.255 scope global tap0" in shown
    path = bed.workdir / "manual-resolv.conf"
    with serve_http(bed.remote.listen(), 777) as port:
        script = f"""
            echo "nameserver 10.0.2.3" > {path}
            mount --bind {path} /etc/resolv.conf
            curl -sS http://remote.test:{port}/ | wc -c
        """
        assert shell(net, script).strip() == "777"


def test_filtering_connections(bed: Topology, attach: Attach) -> None:
    """FILTERING CONNECTIONS: the child filters its own way to the DNS (with nft for iptables)."""
    net = attach()
    shell(net, "nft add table ip f; nft add chain ip f out "
               "'{ type filter hook output priority 0; }'; nft add rule ip f out "
               "ip daddr 10.0.2.3 drop")  # fmt: skip
    done = net.guest.run("dig", "@10.0.2.3", "+tries=1", "+time=1", "example.test", check=False)
    assert done.returncode != 0


def test_api_socket(bed: Topology, net: Slirp) -> None:
    """API SOCKET: add, list, remove with nc."""

    def nc(request: str) -> dict[str, object]:
        script = f"echo -n '{request}' | nc -N -U {net.api_path}"
        done = subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=True, timeout=10
        )
        reply: dict[str, object] = json.loads(done.stdout)
        return reply

    added = nc(
        '{"execute": "add_hostfwd", "arguments": {"proto": "tcp", "host_addr": "0.0.0.0", '
        '"host_port": 8080, "guest_addr": "10.0.2.100", "guest_port": 80}}'
    )
    returned = added["return"]
    assert isinstance(returned, dict)
    forward = returned["id"]
    with serve_http(net.guest.listen(port=80), 333):
        got = bed.remote.run("sh", "-c", f"curl -sS http://{HOST}:8080/ | wc -c")
    assert got.stdout.strip() == "333"
    listed = nc('{"execute": "list_hostfwd"}')
    if "return" in listed:  # as documented; slirp4netns itself leaves the wrapper away
        wrapped = listed["return"]
        assert isinstance(wrapped, dict)
        listed = wrapped
    assert listed["entries"] == [
        {
            **{"id": forward, "proto": "tcp", "host_addr": "0.0.0.0", "host_port": 8080},
            **{"guest_addr": "10.0.2.100", "guest_port": 80},
        }
    ]
    removed = nc(f'{{"execute": "remove_hostfwd", "arguments": {{"id": {forward}}}}}')
    assert removed == {"return": {}}


def test_inter_namespace_communication(net: Slirp) -> None:
    """INTER-NAMESPACE COMMUNICATION: namespaces nested inside the child's."""
    script = """
        mount -t tmpfs none /run
        ip netns add foo
        ip netns add bar
        ip link add veth-foo type veth peer name veth-bar
        ip link set veth-foo netns foo
        ip link set veth-bar netns bar
        ip netns exec foo ip link set veth-foo name eth0
        ip netns exec bar ip link set veth-bar name eth0
        ip netns exec foo ip link set lo up
        ip netns exec bar ip link set lo up
        ip netns exec foo ip link set eth0 up
        ip netns exec bar ip link set eth0 up
        ip netns exec foo ip addr add 192.168.42.100/24 dev eth0
        ip netns exec bar ip addr add 192.168.42.101/24 dev eth0
        ip netns exec bar ping -c 1 -W 2 192.168.42.100
        ip netns del foo
        ip netns del bar
    """
    assert " 0% packet loss" in shell(net, script)


def test_bugs_workaround(net: Slirp) -> None:
    """BUGS: tcp_rmem can be set inside the namespace, and connections go on working."""
    shell(
        net,
        "c=$(cat /proc/sys/net/ipv4/tcp_rmem); "
        "echo $c | sed -e s/131072/87380/g > /proc/sys/net/ipv4/tcp_rmem",
    )
    assert " 0% packet loss" in shell(net, "ping -c 1 -W 2 10.0.2.2")
