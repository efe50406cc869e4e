"""The data plane on a TAP."""

from typing import final

RUN_IDLE: int
RUN_MORE: int
RUN_LINK_DOWN: int
RUN_PUNTED: int

@final
class Engine:
    """Owns `tap_fd` from the constructor's return on. One thread at a time may be inside."""

    def __new__(
        cls,
        tap_fd: int,
        *,
        mtu: int,
        network4: bytes,
        prefix_len4: int,
        gateway4: bytes,
        dns4: bytes,
        guest4: bytes,
        gateway_mac: bytes,
        guest_mac: bytes,
        offload: int,
        host_loopback: bool,
        dns_enabled: bool,
        network6: bytes | None = None,
        prefix_len6: int = 64,
        gateway6: bytes = b"",
        dns6: bytes = b"",
        guest6: bytes = b"",
        vnet_hdr: bool = True,
        max_flows: int = 32768,
        tcp_buffer_bytes: int = 4194304,
        memory_bytes: int = 268435456,
        udp_timeouts_s: tuple[int, int, int] = (180, 30, 10),
    ) -> Engine: ...
    def fileno(self) -> int: ...
    def run(self) -> int: ...
    def run_until(self, stop_fd: int, visit_us: int = 0) -> int: ...
    def set_link(self, fd: int) -> None: ...
    def ping_forbidden(self) -> bool: ...
    def set_outbound(self, address: bytes) -> None: ...
    def set_dns(self, servers: list[bytes]) -> None: ...
    def add_forward(
        self, proto: str, listen_fd: int, guest_addr: bytes, guest_port: int
    ) -> int: ...
    def remove_forward(self, forward_id: int) -> bool: ...
    def punted(self) -> list[bytes]: ...
    def send_frame(self, frame: bytes) -> None: ...
    def stats(self) -> dict[str, int]: ...
    def flows(self) -> list[dict[str, object]]: ...
    def close(self) -> None: ...
