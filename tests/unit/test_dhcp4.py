"""DHCP (RFC 2131, 2132): each message of a client's in each of its states, bytes in, bytes out.

scapy makes the messages and takes the answers apart; dpkt has a second look at them.
"""

from __future__ import annotations

from typing import Any

import dpkt
import pytest
from scapy.layers.dhcp import BOOTP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from harness.dhcp import BROADCAST, GATEWAY_MAC, MAC, OTHER_MAC, dhcp4, mac_bytes, options_of
from slirp.config import Config, parse_cidr
from slirp.services import Services
from slirp.services import dhcp4 as server

GATEWAY = "10.0.2.2"
FIRST = "10.0.2.15"
LAST = "10.0.2.30"
EVERYTHING = [1, 3, 6, 12, 15, 26, 28, 51, 54, 119]


class Resolvers:
    """Stands for slirp.resolver.Resolvers."""

    def __init__(self, *domains: str) -> None:
        self.domains = list(domains)


def services(*domains: str, **settings: Any) -> Services:
    config = Config()
    for name, value in settings.items():
        setattr(config, name, value)
    return Services(config, Resolvers(*domains) if config.dns else None)  # type: ignore[arg-type]


class Client:
    """Somebody who asks."""

    def __init__(self, desk: Services, mac: str = MAC) -> None:
        self.desk, self.mac = desk, mac
        self.now_s = 0.0

    def ask(self, kind: str | None, *options: Any, **fields: Any) -> bytes | None:
        frame = dhcp4(kind, *options, mac=self.mac, **fields)
        return self.desk.answer(frame, self.now_s)

    def told(self, kind: str | None, *options: Any, **fields: Any) -> bytes:
        reply = self.ask(kind, *options, **fields)
        assert reply is not None
        return reply

    def lease(self) -> str:
        """Discover and select."""
        offer = self.told("discover")
        address = str(Ether(offer)[BOOTP].yiaddr)
        ack = self.told("request", ("requested_addr", address), ("server_id", GATEWAY))
        assert options_of(ack)["message-type"] == server.ACK
        return address


@pytest.fixture
def client() -> Client:
    return Client(services("example.test", "corp.example.test"))


# ---- discover and offer


def test_offer(client: Client) -> None:
    reply = client.told("discover")
    frame = Ether(reply)
    assert (frame.src, frame.dst) == (GATEWAY_MAC, MAC)
    assert (frame[IP].src, frame[IP].dst, frame[IP].ttl) == (GATEWAY, FIRST, 64)
    assert (frame[UDP].sport, frame[UDP].dport) == (67, 68)
    bootp = frame[BOOTP]
    assert (bootp.op, bootp.htype, bootp.hlen, bootp.xid) == (2, 1, 6, 0x1234)
    assert (bootp.yiaddr, bootp.ciaddr, bootp.giaddr) == (FIRST, "0.0.0.0", "0.0.0.0")
    assert bootp.chaddr[:6] == mac_bytes(MAC)
    told = options_of(reply)
    assert (told["message-type"], told["server_id"]) == (server.OFFER, GATEWAY)
    assert told["lease_time"] == 86400


def test_frame_is_sound(client: Client) -> None:
    """By an oracle with checksums of its own: made anew, they are the same."""
    reply = client.told("discover")
    again = Ether(reply)
    del again[IP].chksum, again[IP].len, again[UDP].chksum, again[UDP].len
    assert bytes(again) == reply
    ip = dpkt.ethernet.Ethernet(reply).data
    assert len(ip.data.data) >= 300
    told = dict(dpkt.dhcp.DHCP(ip.data.data).opts)
    assert told[dpkt.dhcp.DHCP_OPT_MSGTYPE] == bytes([server.OFFER])


def test_what_is_told_without_being_asked(client: Client) -> None:
    told = options_of(client.told("discover"))
    assert told["subnet_mask"] == "255.255.255.0"
    assert told["broadcast_address"] == "10.0.2.255"
    assert (told["router"], told["name_server"]) == (GATEWAY, "10.0.2.3")
    assert told["interface-mtu"] == 1500
    assert told["domain"] == b"example.test"


def test_what_is_told_is_what_is_wanted(client: Client) -> None:
    """RFC 2132 9.8, and 3.3: the mask always, and before the router."""
    told = list(options_of(client.told("discover", ("param_req_list", [26, 3, 1]))))
    assert told == ["message-type", "server_id", "lease_time", "subnet_mask", "interface-mtu",
                    "router"]  # fmt: skip


def test_network_of_ones_choice() -> None:
    desk = services(network=parse_cidr("192.168.0.0/16"), mtu=65520)
    reply = Client(desk).told("discover")
    told = options_of(reply)
    assert Ether(reply)[BOOTP].yiaddr == "192.168.0.15"
    assert (told["subnet_mask"], told["router"]) == ("255.255.0.0", "192.168.0.2")
    assert told["interface-mtu"] == 65520


def test_no_name_service_is_told_of_where_there_is_none() -> None:
    told = options_of(Client(services(dns=False)).told("discover", ("param_req_list", EVERYTHING)))
    assert not {"name_server", "domain", 119} & set(told)


def test_host_name_is_the_clients_own(client: Client) -> None:
    wanted = ("param_req_list", [12])
    assert (
        options_of(client.told("discover", ("hostname", b"box-1"), wanted))["hostname"] == b"box-1"
    )
    assert "hostname" not in options_of(client.told("discover", wanted))
    for bad in (b"a b", b"x" * 64, b"\xff", b"a;b"):
        assert "hostname" not in options_of(client.told("discover", ("hostname", bad), wanted))


def test_search_list_is_compressed(client: Client) -> None:
    """RFC 3397 2: example.test once, then a label and a pointer to it."""
    told = dict(dpkt.dhcp.DHCP(_bootp(client.told("discover"))).opts)
    assert told[119] == b"\x07example\x04test\0\x04corp\xc0\x00"


def test_long_search_list_comes_in_parts() -> None:
    """RFC 3396 4: all parts together are one value; RFC 2131 2: within what the client takes."""
    domains = [f"{chr(97 + n) * 20}.example{n}.test" for n in range(12)]
    reply = Client(services(*domains)).told("discover", ("max_dhcp_size", 1400))
    parts = [value for code, value in dpkt.dhcp.DHCP(_bootp(reply)).opts if code == 119]
    assert [len(part) for part in parts[:-1]] == [255]
    assert _decompress(b"".join(parts)) == domains


@pytest.mark.parametrize(("size", "largest"), [(None, 576), (100, 576), (700, 700), (9000, 1500)])
def test_reply_fits_what_the_client_takes(size: int | None, largest: int) -> None:
    desk = services(*(f"{chr(97 + n) * 60}.test" for n in range(26)))
    options = [] if size is None else [("max_dhcp_size", size)]
    ip = Ether(Client(desk).told("discover", *options))[IP]
    assert largest - 64 < ip.len <= largest


def _bootp(reply: bytes) -> bytes:
    return bytes(dpkt.ethernet.Ethernet(reply).data.data.data)


def _decompress(data: bytes) -> list[str]:
    """The names of RFC 3397's form, as a client reads them."""

    def name_at(at: int) -> tuple[list[str], int]:
        labels: list[str] = []
        while data[at]:
            if data[at] >= 0xC0:
                pointed = (data[at] & 0x3F) << 8 | data[at + 1]
                assert pointed < at
                return labels + name_at(pointed)[0], at + 2
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        return labels, at + 1

    names, at = [], 0
    while at < len(data):
        labels, at = name_at(at)
        names.append(".".join(labels))
    return names


# ---- where to (RFC 2131 4.1)


def test_broadcast_flag(client: Client) -> None:
    frame = Ether(client.told("discover", bootp={"flags": "B"}))
    assert (frame.dst, frame[IP].dst) == (BROADCAST, "255.255.255.255")
    assert frame[BOOTP].flags == 0x8000


def test_relay_gets_it_on_its_own_port(client: Client) -> None:
    frame = Ether(client.told("discover", bootp={"giaddr": "10.0.2.50"}, src="10.0.2.50"))
    assert (frame[IP].dst, frame[UDP].dport) == ("10.0.2.50", 67)
    assert frame[BOOTP].giaddr == "10.0.2.50"


def test_relay_of_another_network_gets_nothing(client: Client) -> None:
    assert client.ask("discover", bootp={"giaddr": "192.0.2.1"}) is None


# ---- request, in each state (RFC 2131 4.3.2)


def test_selecting(client: Client) -> None:
    client.told("discover")
    reply = client.told("request", ("requested_addr", FIRST), ("server_id", GATEWAY))
    told = options_of(reply)
    assert (told["message-type"], told["lease_time"]) == (server.ACK, 86400)
    assert (Ether(reply)[BOOTP].yiaddr, Ether(reply)[IP].dst) == (FIRST, FIRST)


def test_selecting_another_server(client: Client) -> None:
    client.told("discover")
    words = (("requested_addr", "10.0.2.99"), ("server_id", "10.0.2.98"))
    assert client.ask("request", *words) is None


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.2.100", "10.0.2.14", "10.0.2.31", GATEWAY])
def test_init_reboot_with_an_address_that_is_not_to_be_had(client: Client, address: str) -> None:
    reply = client.told("request", ("requested_addr", address))
    frame, told = Ether(reply), options_of(reply)
    assert (told["message-type"], told["server_id"]) == (server.NAK, GATEWAY)
    assert (frame.dst, frame[IP].dst) == (BROADCAST, "255.255.255.255")
    assert (frame[BOOTP].yiaddr, frame[BOOTP].ciaddr) == ("0.0.0.0", "0.0.0.0")
    assert "lease_time" not in told


def test_init_reboot_with_ones_own(client: Client) -> None:
    address = client.lease()
    client.now_s = 50000.0
    reply = client.told("request", ("requested_addr", address))
    assert options_of(reply)["message-type"] == server.ACK


def test_init_reboot_with_a_free_one(client: Client) -> None:
    """We forget with the daemon; the client need not suffer for it."""
    reply = client.told("request", ("requested_addr", LAST))
    assert Ether(reply)[BOOTP].yiaddr == LAST


def test_init_reboot_with_anothers(client: Client) -> None:
    address = Client(client.desk, OTHER_MAC).lease()
    reply = client.told("request", ("requested_addr", address))
    assert options_of(reply)["message-type"] == server.NAK


@pytest.mark.parametrize("dst", [GATEWAY, "255.255.255.255"], ids=["renewing", "rebinding"])
def test_renewing_and_rebinding(client: Client, dst: str) -> None:
    address = client.lease()
    client.now_s = 43200.0
    reply = client.told("request", src=address, dst=dst, bootp={"ciaddr": address})
    frame = Ether(reply)
    assert options_of(reply)["message-type"] == server.ACK
    assert (frame[IP].dst, frame[BOOTP].ciaddr, frame[BOOTP].yiaddr) == (address,) * 3
    client.now_s += 86399.0
    other = Client(client.desk, OTHER_MAC)
    other.now_s = client.now_s
    refused = other.told("request", ("requested_addr", address))
    assert options_of(refused)["message-type"] == server.NAK


def test_renewing_what_is_not_to_be_had(client: Client) -> None:
    reply = client.told("request", src="10.0.2.100", bootp={"ciaddr": "10.0.2.100"})
    assert options_of(reply)["message-type"] == server.NAK
    assert Ether(reply)[IP].dst == "255.255.255.255"


def test_request_for_nothing(client: Client) -> None:
    assert client.ask("request") is None


@pytest.mark.parametrize(("wish", "lease"), [(3600, 3600), (5, 60), (2**32 - 1, 86400)])
def test_lease_time_is_the_clients_wish_within_bounds(
    client: Client, wish: int, lease: int
) -> None:
    assert options_of(client.told("discover", ("lease_time", wish)))["lease_time"] == lease


# ---- the table


def test_same_client_same_address(client: Client) -> None:
    other = Client(client.desk, OTHER_MAC)
    first, second = client.lease(), other.lease()
    assert (first, second) == (FIRST, "10.0.2.16")
    assert (client.lease(), other.lease()) == (first, second)


def test_client_is_who_it_says_it_is(client: Client) -> None:
    """RFC 2131 4.2, RFC 6842 3: by its identifier, which comes back, whatever its hardware."""
    one, other = ("client_id", b"\xffone"), ("client_id", b"\xffother")
    reply = client.told("discover", one)
    assert options_of(reply)["client_id"] == b"\xffone"
    assert Ether(client.told("discover", other))[BOOTP].yiaddr != Ether(reply)[BOOTP].yiaddr
    client.mac = OTHER_MAC
    assert Ether(client.told("discover", one))[BOOTP].yiaddr == Ether(reply)[BOOTP].yiaddr


def test_pool_is_finite(client: Client) -> None:
    for number in range(16):
        Client(client.desk, f"02:00:00:00:01:{number:02x}").lease()
    assert client.ask("discover") is None


def test_release(client: Client) -> None:
    address = client.lease()
    words = {"src": address, "dst": GATEWAY, "bootp": {"ciaddr": address}}
    assert client.ask("release", ("server_id", GATEWAY), **words) is None
    other = Client(client.desk, OTHER_MAC)
    reply = other.told("request", ("requested_addr", address))
    assert options_of(reply)["message-type"] == server.ACK


def test_decline(client: Client) -> None:
    address = client.lease()
    words = (("requested_addr", address), ("server_id", GATEWAY))
    assert client.ask("decline", *words) is None
    assert client.lease() != address


def test_inform(client: Client) -> None:
    """RFC 4.3.5: to the address that it has, of which we say nothing."""
    words = {"src": "10.0.2.100", "bootp": {"ciaddr": "10.0.2.100"}}
    reply = client.told("inform", ("param_req_list", [6, 51]), **words)
    frame, told = Ether(reply), options_of(reply)
    assert (told["message-type"], told["name_server"]) == (server.ACK, "10.0.2.3")
    assert "lease_time" not in told
    assert (frame[IP].dst, frame[BOOTP].yiaddr) == ("10.0.2.100", "0.0.0.0")


def test_inform_from_an_address_that_it_does_not_name(client: Client) -> None:
    assert Ether(client.told("inform", src="10.0.2.100"))[IP].dst == "10.0.2.100"
    assert client.ask("inform") is None


# ---- what is none


@pytest.mark.parametrize(
    "bootp",
    [
        {"op": 2},
        {"htype": 6},
        {"hlen": 0},
        {"hlen": 16},
        {"options": b"\0\0\0\0"},
        {"chaddr": b"\xff" * 6},
    ],
    ids=str,
)
def test_no_message_of_ours(client: Client, bootp: dict[str, Any]) -> None:
    assert client.ask("discover", bootp=bootp) is None


@pytest.mark.parametrize("kind", [None, "offer", "ack", "nak", "lease_query"])
def test_no_question(client: Client, kind: str | None) -> None:
    assert client.ask(kind) is None


def test_options_that_go_on_in_other_fields(client: Client) -> None:
    """RFC 2131 4.1: option overload; RFC 3396 5: a repeated option is one."""
    bootp = {"file": b"\x3d\x03one\xff", "sname": b"\x3d\x03two\xff"}
    reply = client.told("discover", ("dhcp-option-overload", 3), bootp=bootp)
    assert options_of(reply)["client_id"] == b"onetwo"


@pytest.mark.parametrize("tail", [b"\x3d", b"\x3d\xff", b"\x3d\x05abc", b"\x00\x00\x32"])
def test_option_that_does_not_fit_is_none(client: Client, tail: bytes) -> None:
    whole = dhcp4("discover")[: 14 + 20 + 8]
    message = bytes(BOOTP(chaddr=mac_bytes(MAC), options=b"c\x82Sc")) + b"\x35\x01\x01" + tail
    reply = client.desk.answer(
        bytes(Ether(whole[:14]) / IP(src="0.0.0.0", dst="255.255.255.255")
              / UDP(sport=68, dport=67) / message), 0.0)  # fmt: skip
    assert reply is not None
    assert "client_id" not in options_of(reply)
