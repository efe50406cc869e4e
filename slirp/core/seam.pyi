"""Python's side of the stack, and the whole without I/O of its own: for tests. Times are
microseconds.
"""

from typing import NotRequired, TypedDict, Unpack, final

from slirp.core.hostops import Host

class _Settings(TypedDict):
    """What Engine takes by the same names; addresses are bytes in network order."""

    mtu: int
    network4: bytes
    prefix_len4: int
    gateway4: bytes
    dns4: bytes
    guest4: bytes
    gateway_mac: bytes
    guest_mac: bytes
    offload: int
    host_loopback: bool
    dns_enabled: bool
    max_flows: int
    tcp_buffer_bytes: int
    memory_bytes: int
    udp_timeouts_s: NotRequired[tuple[int, int, int]]
    network6: NotRequired[bytes | None]
    prefix_len6: NotRequired[int]
    gateway6: NotRequired[bytes]
    dns6: NotRequired[bytes]
    guest6: NotRequired[bytes]

FLOW_KINDS: tuple[str, ...]
TCP_STATES: tuple[str, ...]
HOST_STATES: tuple[str, ...]
GATEWAY_LINK_LOCAL: bytes

@final
class Stack:
    def __new__(cls, host: Host, now_us: int = 0, **settings: Unpack[_Settings]) -> Stack: ...
    def input(self, frame: bytes, now_us: int) -> None: ...
    def input_batch(self, frames: list[bytes], now_us: int) -> None: ...
    def host_event(self, ref: int, events: int, now_us: int) -> None: ...
    def run_timers(self, now_us: int) -> None: ...
    def next_deadline(self) -> int | None: ...
    def set_dns(self, servers: list[bytes]) -> None: ...
    def add_forward(self, proto: str, fd: int, guest_addr: bytes, guest_port: int) -> int: ...
    def remove_forward(self, forward_id: int) -> bool: ...
    def punted(self) -> list[bytes]: ...
    def send_frame(self, frame: bytes) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def flows(self) -> list[dict[str, object]]: ...
