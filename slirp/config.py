"""What the user asked for: the virtual network, the target, the options. Plain data, checked here.

A virtual network is a CIDR from which all addresses follow, as in slirp4netns: gateway = network +
2, DNS = network + 3, DHCP = network + 15 to + 30, the guest's own address = network + 100. The
prefix ends at 25 so that they all fit. In IPv6 the guest's own address is the one that it would
make of its hardware address by itself.
"""

from __future__ import annotations

from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton

from slirp.errors import SlirpError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

DEFAULT_CIDR = "10.0.2.0/24"
DEFAULT_CIDR6 = "fd00::/64"
DEFAULT_MTU = 1500
# A kernel TCP/IP stack pays per packet, and nothing between us and the container needs small ones.
# slirp4netns keeps 1500 for the sake of its callers; `pyslirp run` has none to surprise.
DEFAULT_RUN_MTU = 65520
MIN_MTU = 576  # RFC 791: what every host must accept, and the least our TCP reckons with
MAX_MTU = 65521  # the kernel's limit for a TAP: 65535 less the Ethernet header
MIN_PREFIX_LEN = 1
MAX_PREFIX_LEN = 25
# RFC 4862 5.5.3 d, RFC 2464 4: what a guest adds to a prefix on Ethernet has 64 bits, so one of
# another length could not be advertised.
PREFIX_LEN6 = 64
MIN_MTU6 = 1280  # RFC 8200 5
MAX_INTERFACE_NAME_BYTES = 15  # IFNAMSIZ less the terminator
MAC_BYTES = 6
_MAX_DIGITS = 10  # any 32-bit number

PID = "pid"
PATH = "path"
TAPFD = "tapfd"
BESS = "bess"

_SIZE_SUFFIXES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

_GATEWAY_OFFSET = 2
_DNS_OFFSET = 3
_DHCP_OFFSETS = range(15, 31)
_GUEST_OFFSET = 100
# The gateway's MAC is 52:55 followed by its IPv4 address, as libslirp makes it: known to the field,
# and different for different networks.
_IPV4_MAPPED = bytes(10) + b"\xff\xff"
_GATEWAY_MAC_PREFIX = b"\x52\x55"


class Network:
    """The guest's view of its IPv4 network; addresses are 4 bytes in network order."""

    __slots__ = ("address", "dns", "gateway", "guest", "netmask", "prefix_len")

    def __init__(self, address: bytes, prefix_len: int) -> None:
        first = int.from_bytes(address, "big")
        self.address = address
        self.prefix_len = prefix_len
        self.netmask = _netmask(prefix_len).to_bytes(4, "big")
        self.gateway = (first + _GATEWAY_OFFSET).to_bytes(4, "big")
        self.dns = (first + _DNS_OFFSET).to_bytes(4, "big")
        self.guest = (first + _GUEST_OFFSET).to_bytes(4, "big")

    @property
    def gateway_mac(self) -> bytes:
        """The 6 bytes that answer for every address beyond the guest."""
        return _GATEWAY_MAC_PREFIX + self.gateway

    @property
    def dhcp_pool(self) -> list[bytes]:
        """The addresses that DHCP gives away."""
        return _addresses(self.address, _DHCP_OFFSETS)

    def contains(self, address: bytes) -> bool:
        """Whether an address is of this network."""
        mask = int.from_bytes(self.netmask, "big")
        first = int.from_bytes(self.address, "big")
        return int.from_bytes(address, "big") & mask == first


class Network6:
    """The guest's view of its IPv6 network; addresses are 16 bytes in network order."""

    __slots__ = ("address", "dns", "gateway", "prefix_len")

    def __init__(self, address: bytes, prefix_len: int) -> None:
        self.address = address
        self.prefix_len = prefix_len
        self.gateway, self.dns = _addresses(address, (_GATEWAY_OFFSET, _DNS_OFFSET))

    @property
    def dhcp_pool(self) -> list[bytes]:
        """The addresses that DHCPv6 gives away."""
        return _addresses(self.address, _DHCP_OFFSETS)

    def contains(self, address: bytes) -> bool:
        """Whether an address is of this network."""
        return address[:8] == self.address[:8]

    def guest(self, mac: bytes) -> bytes:
        """What the guest with that hardware address is called: the prefix and the modified EUI-64
        (RFC 4291 2.5.1), as the guest itself would have it by RFC 4862.
        """
        return self.address[:8] + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]


class Config:
    """One command line, understood. Filled by cli, then only read."""

    def __init__(self, mtu: int = DEFAULT_MTU) -> None:
        self.target_kind = PID  # PID, PATH, TAPFD or BESS: what `target` is
        self.bess = False  # whatever was said of the kind, the target is BESS
        self.target = ""
        self.userns_path: str | None = None
        self.tap_name = ""
        self.configure = False  # addresses, route and link state are ours to set
        self.network = parse_cidr(DEFAULT_CIDR)
        self.network6: Network6 | None = None  # None: the guest has no IPv6
        self.mtu = mtu  # bytes of an IP packet
        self.mac: bytes | None = None  # 6 bytes; None leaves the kernel's random choice
        self.api_path: str | None = None
        self.ready_fd: int | None = None
        self.exit_fd: int | None = None
        self.host_loopback = True  # the gateway's address reaches the host's 127.0.0.1
        self.outbound: dict[int, str] = {}  # by family: an address or interface to speak from
        self.dns = True  # the network's DNS address reaches the host's resolvers
        self.tcp_buffer_bytes = 4 << 20  # per connection and direction
        self.memory_bytes = 256 << 20  # of all connections' buffers together
        self.udp_timeouts_s = (180, 30, 10)  # of a mapping that was answered, was not, of a query
        self.max_flows = 32768  # connections, UDP mappings and pings
        self.sandbox = True  # namespaces, capabilities, Landlock: all but the filter
        self.seccomp = True  # the system call filter
        self.require_sandbox = False  # a layer that the system refuses is an error
        self.warnings: list[str] = []


class RunConfig(Config):
    """One `pyslirp run`: the container is ours to make."""

    def __init__(self) -> None:
        super().__init__(DEFAULT_RUN_MTU)
        self.tap_name = "tap0"
        self.configure = True
        # On from the start: there is no caller to surprise, and a guest whose IPv6 addresses are
        # unique local ones prefers IPv4 to destinations that have both (RFC 6724 2.1, 10.6).
        self.network6 = parse_cidr6(DEFAULT_CIDR6)
        self.command: list[str] = []
        self.map_current_user = False  # keep the caller's uid instead of becoming root inside
        self.publish: list[Publication] = []


class Publication:
    """A port of the host to be forwarded from the start: -p [ADDR:]HOST_PORT:GUEST_PORT[/udp]."""

    __slots__ = ("guest_port", "host_addr", "host_port", "proto")

    def __init__(self, proto: str, host_addr: str, host_port: int, guest_port: int) -> None:
        self.proto = proto
        self.host_addr = host_addr
        self.host_port = host_port
        self.guest_port = guest_port


def parse_cidr(text: str) -> Network:
    """A network address with prefix length, such as 10.0.2.0/24. Raises SlirpError."""
    address_text, slash, length_text = text.partition("/")
    if (
        not slash
        or not is_number(length_text)
        or (length_text.startswith("0") and length_text != "0")
        or set(address_text) - set("0123456789.")
        or address_text.count(".") != 3
    ):
        raise SlirpError(f"invalid CIDR: {text}")
    try:
        address = inet_pton(AF_INET, address_text)
    except OSError:
        raise SlirpError(f"invalid network address: {address_text}") from None
    prefix_len = int(length_text)
    if not MIN_PREFIX_LEN <= prefix_len <= MAX_PREFIX_LEN:
        raise SlirpError(f"prefix length needs to be {MIN_PREFIX_LEN}-{MAX_PREFIX_LEN}")
    network = int.from_bytes(address, "big") & _netmask(prefix_len)
    if network != int.from_bytes(address, "big"):
        meant = f"{format_ipv4(network.to_bytes(4, 'big'))}/{prefix_len}"
        raise SlirpError(f"CIDR needs to be a network address like {meant}, not like {text}")
    return Network(address, prefix_len)


def parse_cidr6(text: str) -> Network6:
    """A prefix of 64 bits that a guest can have addresses of, such as fd00::/64.

    Raises SlirpError.
    """
    address_text, _, length_text = text.partition("/")
    try:
        address = inet_pton(AF_INET6, address_text)
    except (OSError, ValueError):
        raise SlirpError(f"invalid IPv6 CIDR: {text}") from None
    if length_text != str(PREFIX_LEN6):
        raise SlirpError(f"the prefix of an IPv6 CIDR has {PREFIX_LEN6} bits: {text}")
    if address[8:] != bytes(8):
        meant = f"{format_ipv6(address[:8] + bytes(8))}/{PREFIX_LEN6}"
        raise SlirpError(f"IPv6 CIDR needs to be a network address like {meant}, not like {text}")
    # RFC 4291 2.4: the unspecified address and the loopback's, link-local, multicast
    if address[:8] == bytes(8) or address[0] == 0xFF or address[:2] == b"\xfe\x80":
        raise SlirpError(f"IPv6 CIDR needs to be of global or unique local addresses, not {text}")
    return Network6(address, PREFIX_LEN6)


def parse_mac(text: str) -> bytes:
    """Six hex bytes with colons, of a single station. Raises SlirpError."""
    parts = text.split(":")
    if len(parts) != MAC_BYTES or not all(_is_hex_byte(part) for part in parts):
        raise SlirpError(
            f"\"{text}\" is an invalid MAC address (6 hex bytes, each separated by a ':')"
        )
    mac = bytes(int(part, 16) for part in parts)
    if mac[0] & 1 or not any(mac):
        raise SlirpError(f'"{text}" is a multicast or zero MAC address')
    return mac


def parse_mtu(text: str) -> int:
    """Bytes of an IP packet. Raises UsageError."""
    if not is_number(text) or not MIN_MTU <= int(text) <= MAX_MTU:
        raise UsageError(f"MTU must be a positive integer (< {MAX_MTU + 1}, at least {MIN_MTU})")
    return int(text)


def parse_size(text: str, minimum: int, maximum: int) -> int:
    """A number of bytes, or of KiB, MiB or GiB with the suffix K, M or G. Raises UsageError."""
    digits, factor = text, 1
    if text[-1:] in _SIZE_SUFFIXES:
        digits, factor = text[:-1], _SIZE_SUFFIXES[text[-1:]]
    if not is_number(digits) or not minimum <= int(digits) * factor <= maximum:
        raise UsageError(f"invalid size: {text} (expected {minimum} to {maximum}, or K, M, G)")
    return int(digits) * factor


def parse_count(text: str, minimum: int, maximum: int) -> int:
    """A plain number. Raises UsageError."""
    if not is_number(text) or not minimum <= int(text) <= maximum:
        raise UsageError(f"invalid number: {text} (expected {minimum} to {maximum})")
    return int(text)


def parse_timeouts(text: str, defaults: tuple[int, int, int]) -> tuple[int, int, int]:
    """Up to as many seconds as there are defaults, with commas between. Raises UsageError."""
    words = text.split(",")
    if len(words) > len(defaults):
        raise UsageError(f"invalid time-outs: {text} (expected SECONDS[,UNANSWERED[,DNS]])")
    given = [parse_count(word, 1, 86400) for word in words]
    first, second, third = [*given, *defaults[len(given) :]]
    return first, second, third


def parse_publication(text: str) -> Publication:
    """[ADDR:]HOST_PORT:GUEST_PORT[/tcp|/udp]. Raises SlirpError."""
    ports, _, proto = text.partition("/")
    host_addr, _, rest = ports.rpartition(":")[0].rpartition(":")
    guest_text = ports.rpartition(":")[2]
    if (
        (proto or "tcp") not in ("tcp", "udp")
        or ("/" in text and not proto)
        or not is_port(rest)
        or not is_port(guest_text)
        or not is_ipv4(host_addr or "0.0.0.0")
    ):
        raise SlirpError(f"invalid port forward: {text} (expected [ADDR:]PORT:PORT[/udp])")
    return Publication(proto or "tcp", host_addr, int(rest), int(guest_text))


def check_tap_name(name: str) -> None:
    """Refuse what the kernel would refuse or take for a pattern ('%'). Raises SlirpError."""
    if len(name.encode(errors="surrogateescape")) > MAX_INTERFACE_NAME_BYTES:
        raise SlirpError(f"invalid TAPNAME: {name}: longer than {MAX_INTERFACE_NAME_BYTES} bytes")
    if name in ("", ".", "..") or any(c in "/:%" or c.isspace() for c in name):
        raise SlirpError(f"invalid TAPNAME: {name!r}")


def is_number(text: str) -> bool:
    """Whether `text` is a plain decimal number, without sign, blanks or digits of other scripts."""
    return text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS


def is_port(text: str) -> bool:
    """Whether `text` is a port that a service can have."""
    return is_number(text) and 1 <= int(text) <= 65535


def is_ipv4(text: str) -> bool:
    """Whether `text` is an IPv4 address in dotted-quad form."""
    return _is_address(AF_INET, text)


def is_ipv6(text: str) -> bool:
    """Whether `text` is an IPv6 address, and no IPv4 address in disguise (RFC 4291 2.5.5.2)."""
    return _is_address(AF_INET6, text) and not inet_pton(AF_INET6, text).startswith(_IPV4_MAPPED)


def _is_address(family: int, text: str) -> bool:
    try:
        inet_pton(family, text)
    except (OSError, ValueError):
        return False
    return True


def format_ipv4(address: bytes) -> str:
    """Dotted quad of 4 bytes in network order."""
    return inet_ntop(AF_INET, address)


def format_ipv6(address: bytes) -> str:
    """The text of 16 bytes in network order (RFC 5952)."""
    return inet_ntop(AF_INET6, address)


def format_mac(mac: bytes) -> str:
    """Six lower-case hex bytes with colons."""
    return mac.hex(":")


def _addresses(network: bytes, offsets: Iterable[int]) -> list[bytes]:
    first = int.from_bytes(network, "big")
    return [(first + offset).to_bytes(len(network), "big") for offset in offsets]


def _netmask(prefix_len: int) -> int:
    return 0xFFFFFFFF << (32 - prefix_len) & 0xFFFFFFFF


def _is_hex_byte(text: str) -> bool:
    return 1 <= len(text) <= 2 and all(c in "0123456789abcdefABCDEF" for c in text)
