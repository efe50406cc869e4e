"""DHCPv6 (RFC 8415): each message of a client's, bytes in, bytes out; scapy is the oracle."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.dhcp6 import (
    DHCP6,
    DUID_LL,
    DHCP6_Confirm,
    DHCP6_Decline,
    DHCP6_InfoRequest,
    DHCP6_Rebind,
    DHCP6_Release,
    DHCP6_Renew,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSDomains,
    DHCP6OptDNSServers,
    DHCP6OptIA_NA,
    DHCP6OptIA_TA,
    DHCP6OptIAAddress,
    DHCP6OptIAPrefix,
    DHCP6OptOptReq,
    DHCP6OptRapidCommit,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from harness.dhcp import GATEWAY_MAC, LINK_LOCAL, MAC, OTHER_MAC, dhcp6, ia_na
from slirp.config import Config, parse_cidr6
from slirp.services import Services
from slirp.services import dhcp6 as server

FIRST, SECOND, LAST = "fd00::f", "fd00::10", "fd00::1e"
OUR_ID = DHCP6OptServerId(duid=DUID_LL(lladdr=GATEWAY_MAC))
OTHER_ID = DHCP6OptServerId(duid=DUID_LL(lladdr=OTHER_MAC))
XID = 0xABCDEF


class Resolvers:
    """Stands for slirp.resolver.Resolvers."""

    def __init__(self, *domains: str) -> None:
        self.domains = list(domains)


def services(*domains: str, dns: bool = True, cidr6: str = "fd00::/64") -> Services:
    config = Config()
    config.dns = dns
    config.network6 = parse_cidr6(cidr6)
    return Services(config, Resolvers(*domains) if dns else None)  # type: ignore[arg-type]


class Client:
    """Somebody who asks."""

    def __init__(self, desk: Services, mac: str = MAC) -> None:
        self.desk, self.mac = desk, mac
        self.now_s = 0.0

    def ask(self, message: Any, *options: Any, **fields: Any) -> bytes | None:
        fields = {"mac": self.mac, **fields}
        message = message(trid=XID)
        return self.desk.answer(dhcp6(message, *options, **fields), self.now_s)

    def told(self, message: Any, *options: Any, **fields: Any) -> Any:
        reply = self.ask(message, *options, **fields)
        assert reply is not None
        return Ether(reply)

    def lease(self, iaid: int = 7) -> str:
        reply = self.told(DHCP6_Request, OUR_ID, ia_na(iaid=iaid))
        return str(reply[DHCP6OptIAAddress].addr)


@pytest.fixture
def client() -> Client:
    return Client(services("example.test"))


def status(reply: Any) -> int:
    return int(reply[DHCP6OptStatusCode].statuscode)


# ---- solicit, request


def test_advertise(client: Client) -> None:
    reply = client.told(DHCP6_Solicit, ia_na())
    assert (reply.src, reply.dst) == (GATEWAY_MAC, MAC)
    assert (reply[IPv6].src, reply[IPv6].dst) == ("fe80::2", LINK_LOCAL)
    assert (reply[UDP].sport, reply[UDP].dport) == (547, 546)
    message = reply[UDP].payload
    assert (message.msgtype, message.trid) == (server.ADVERTISE, XID)
    assert reply[DHCP6OptClientId].duid.lladdr == MAC
    assert reply[DHCP6OptServerId].duid.lladdr == GATEWAY_MAC
    ia, address = reply[DHCP6OptIA_NA], reply[DHCP6OptIAAddress]
    assert (ia.iaid, ia.T1, ia.T2) == (7, 21600, 34560)
    assert (address.addr, address.preflft, address.validlft) == (FIRST, 43200, 86400)
    assert reply[DHCP6OptDNSServers].dnsservers == ["fd00::3"]
    assert reply[DHCP6OptDNSDomains].dnsdomains == ["example.test."]


def test_frame_is_sound(client: Client) -> None:
    """By an oracle with checksums of its own: made anew, they are the same."""
    reply = client.ask(DHCP6_Solicit, ia_na())
    assert reply is not None
    again = Ether(reply)
    del again[IPv6].plen, again[UDP].chksum, again[UDP].len
    assert bytes(again) == reply


def test_prefix_of_ones_choice() -> None:
    reply = Client(services(cidr6="2001:db8:9::/64")).told(DHCP6_Solicit, ia_na())
    assert reply[DHCP6OptIAAddress].addr == "2001:db8:9::f"
    assert reply[DHCP6OptDNSServers].dnsservers == ["2001:db8:9::3"]


def test_an_offer_is_no_lease(client: Client) -> None:
    client.told(DHCP6_Solicit, ia_na())
    other = Client(client.desk, OTHER_MAC)
    other.now_s = 61.0
    assert other.told(DHCP6_Request, OUR_ID, ia_na(FIRST))[DHCP6OptIAAddress].addr == FIRST


def test_request(client: Client) -> None:
    client.told(DHCP6_Solicit, ia_na())
    reply = client.told(DHCP6_Request, OUR_ID, ia_na(FIRST))
    assert reply[UDP].payload.msgtype == server.REPLY
    assert reply[DHCP6OptIAAddress].addr == FIRST


def test_rapid_commit(client: Client) -> None:
    """RFC 8415 18.3.1: two messages instead of four."""
    reply = client.told(DHCP6_Solicit, DHCP6OptRapidCommit(), ia_na())
    assert reply[UDP].payload.msgtype == server.REPLY
    assert DHCP6OptRapidCommit in reply
    client.now_s = 86000.0
    other = Client(client.desk, OTHER_MAC)
    other.now_s = client.now_s
    assert other.lease() == SECOND


def test_same_client_same_address(client: Client) -> None:
    other = Client(client.desk, OTHER_MAC)
    assert (client.lease(), other.lease(), client.lease(8)) == (FIRST, SECOND, "fd00::11")
    assert (client.lease(), other.lease(), client.lease(8)) == (FIRST, SECOND, "fd00::11")


def test_wish_is_granted(client: Client) -> None:
    assert client.told(DHCP6_Solicit, ia_na(LAST))[DHCP6OptIAAddress].addr == LAST


@pytest.mark.parametrize("message", [DHCP6_Solicit, DHCP6_Request])
def test_pool_is_finite(client: Client, message: Any) -> None:
    for number in range(16):
        client.lease(100 + number)
    options = [OUR_ID] if message is DHCP6_Request else []
    reply = client.told(message, *options, ia_na())
    assert status(reply) == server.NO_ADDRESSES
    assert DHCP6OptIAAddress not in reply


def test_other_kinds_of_associations_get_nothing(client: Client) -> None:
    reply = client.told(DHCP6_Solicit, DHCP6OptIA_TA(iaid=3))
    assert (reply[DHCP6OptIA_TA].iaid, status(reply)) == (3, server.NO_ADDRESSES)
    # scapy's option of prefix delegation is made by hand: 25, IAID, T1, T2
    reply = client.ask(DHCP6_Solicit, bytes.fromhex("0019000c000000090000000000000000"))
    assert reply is not None
    assert bytes.fromhex("00190012000000090000000000000000000d00020006") in reply
    assert DHCP6OptIAPrefix not in Ether(reply)


# ---- what follows a lease


@pytest.mark.parametrize(("message", "ids"), [(DHCP6_Renew, [OUR_ID]), (DHCP6_Rebind, [])])
def test_renew_and_rebind(client: Client, message: Any, ids: list[Any]) -> None:
    address = client.lease()
    client.now_s = 80000.0
    reply = client.told(message, *ids, ia_na(address))
    assert (reply[DHCP6OptIAAddress].addr, reply[DHCP6OptIAAddress].validlft) == (address, 86400)
    other = Client(client.desk, OTHER_MAC)
    other.now_s = 160000.0
    assert other.lease() == SECOND


@pytest.mark.parametrize(("message", "ids"), [(DHCP6_Renew, [OUR_ID]), (DHCP6_Rebind, [])])
def test_renewing_what_we_have_forgotten(client: Client, message: Any, ids: list[Any]) -> None:
    reply = client.told(message, *ids, ia_na(LAST))
    assert (reply[DHCP6OptIAAddress].addr, reply[DHCP6OptIAAddress].validlft) == (LAST, 86400)


@pytest.mark.parametrize(("message", "ids"), [(DHCP6_Renew, [OUR_ID]), (DHCP6_Rebind, [])])
def test_renewing_what_is_not_to_be_had(client: Client, message: Any, ids: list[Any]) -> None:
    """RFC 8415 18.3.4: no binding; and the address is to be given up."""
    reply = client.told(message, *ids, ia_na("2001:db8::1"))
    address = reply[DHCP6OptIAAddress]
    assert (address.addr, address.preflft, address.validlft) == ("2001:db8::1", 0, 0)
    assert status(reply) == server.NO_BINDING


def test_renewing_more_than_one_has(client: Client) -> None:
    address = client.lease()
    reply = client.told(DHCP6_Renew, OUR_ID, ia_na("2001:db8::1", address))
    lifetimes = {a.addr: a.validlft for a in reply[DHCP6OptIA_NA].ianaopts}
    assert lifetimes == {"2001:db8::1": 0, address: 86400}


@pytest.mark.parametrize(
    ("addresses", "code"),
    [([FIRST], 0), (["fd00::1234"], 0), ([FIRST, "fd01::1"], server.NOT_ON_LINK)],
)
def test_confirm(client: Client, addresses: list[str], code: int) -> None:
    assert status(client.told(DHCP6_Confirm, ia_na(*addresses))) == code


def test_confirm_of_nothing(client: Client) -> None:
    assert client.ask(DHCP6_Confirm, ia_na()) is None


def test_release(client: Client) -> None:
    address = client.lease()
    reply = client.told(DHCP6_Release, OUR_ID, ia_na(address))
    assert (reply[UDP].payload.msgtype, status(reply)) == (server.REPLY, server.SUCCESS)
    other = Client(client.desk, OTHER_MAC)
    assert other.told(DHCP6_Request, OUR_ID, ia_na(address))[DHCP6OptIAAddress].addr == address


def test_decline(client: Client) -> None:
    address = client.lease()
    assert status(client.told(DHCP6_Decline, OUR_ID, ia_na(address))) == server.SUCCESS
    assert client.lease() != address


@pytest.mark.parametrize("message", [DHCP6_Release, DHCP6_Decline])
def test_giving_back_what_one_has_not(client: Client, message: Any) -> None:
    address = Client(client.desk, OTHER_MAC).lease()
    reply = client.told(message, OUR_ID, ia_na(address))
    assert reply[DHCP6OptIA_NA].ianaopts[0].statuscode == server.NO_BINDING
    assert Client(client.desk, OTHER_MAC).lease() == address


# ---- information


@pytest.mark.parametrize("mac", [MAC, None])
def test_information(client: Client, mac: str | None) -> None:
    reply = client.told(DHCP6_InfoRequest, DHCP6OptOptReq(reqopts=[23, 24, 32]), mac=mac)
    assert reply[DHCP6_Reply].trid == XID
    assert reply[DHCP6OptDNSServers].dnsservers == ["fd00::3"]
    assert reply[DHCP6OptDNSDomains].dnsdomains == ["example.test."]
    assert bytes.fromhex("0020000400000e10") in bytes(reply)
    assert (DHCP6OptClientId in reply) == (mac is not None)


def test_what_is_told_is_what_is_wanted(client: Client) -> None:
    reply = client.told(DHCP6_InfoRequest, DHCP6OptOptReq(reqopts=[24]))
    assert DHCP6OptDNSServers not in reply
    assert DHCP6OptDNSDomains in reply


def test_no_name_service_is_told_of_where_there_is_none() -> None:
    reply = Client(services(dns=False)).told(DHCP6_InfoRequest)
    assert DHCP6OptDNSServers not in reply
    assert DHCP6OptDNSDomains not in reply


def test_domains_are_as_many_as_fit() -> None:
    desk = services(*(f"{chr(97 + n) * 60}.test" for n in range(26)))
    reply = Client(desk).told(DHCP6_InfoRequest)
    assert len(reply[DHCP6OptDNSDomains].dnsdomains) == 7
    assert len(reply[IPv6]) <= 1280


# ---- what has to be discarded (RFC 8415 16)


@pytest.mark.parametrize("message", [DHCP6_Solicit, DHCP6_Confirm, DHCP6_Rebind])
def test_names_a_server_where_none_is_to_be_named(client: Client, message: Any) -> None:
    assert client.ask(message, OUR_ID, ia_na(FIRST)) is None


@pytest.mark.parametrize("message", [DHCP6_Request, DHCP6_Renew, DHCP6_Release, DHCP6_Decline])
def test_names_another_server_or_none(client: Client, message: Any) -> None:
    assert client.ask(message, OTHER_ID, ia_na(FIRST)) is None
    assert client.ask(message, ia_na(FIRST)) is None


@pytest.mark.parametrize("message", [DHCP6_Solicit, DHCP6_Confirm, DHCP6_Rebind])
def test_names_no_client(client: Client, message: Any) -> None:
    assert client.ask(message, ia_na(FIRST), mac=None) is None


def test_information_for_another_server_or_with_an_association(client: Client) -> None:
    assert client.ask(DHCP6_InfoRequest, OTHER_ID) is None
    assert client.ask(DHCP6_InfoRequest, ia_na()) is None


@pytest.mark.parametrize("words", [{"dst": "fd00::2"}, {"dst": "ff05::1:3"}, {"src": "::"}])
def test_not_to_all_servers_of_the_link(client: Client, words: dict[str, str]) -> None:
    assert client.ask(DHCP6_Solicit, ia_na(), **words) is None


@pytest.mark.parametrize("kind", [0, 2, 7, 10, 12, 13, 200])
def test_no_question(client: Client, kind: int) -> None:
    assert client.desk.answer(dhcp6(DHCP6(msgtype=kind), ia_na()), 0.0) is None


def test_many_associations_in_one_message(client: Client) -> None:
    """What fits one datagram is answered, and no more is kept than there are addresses."""
    reply = client.told(DHCP6_Solicit, *(ia_na(iaid=n) for n in range(60)))
    assert len(reply[IPv6]) <= 1280
