"""What the gateway is asked rarely: addresses and configuration, as pure functions from the
frame that the data plane punts to the frame that answers it.

    frame -> frames.parse -> dhcp4 | dhcp6 | ra -> frames.udp4, udp6, icmp6 -> frame

All of them are given the time, keep nothing but bounded tables of leases, and trust nothing in a
frame: the data plane has verified what is in it as far as UDP and ICMPv6, and no more. They are
written on bytes and struct alone: the import of a packet library would stop all traffic for 60 ms.
"""

from __future__ import annotations

from slirp import log
from slirp.services import dhcp4, dhcp6, frames, ra

TYPE_CHECKING = False
if TYPE_CHECKING:
    from slirp.config import Config
    from slirp.resolver import Resolvers

_COMPLAIN_PERIOD_S = 60.0


class Services:
    """The gateway's DHCP servers and router, as one function of frames.

    resolvers: the host's, for its search domains; None when the guest has no DNS of ours.
    """

    def __init__(self, config: Config, resolvers: Resolvers | None) -> None:
        self._config = config
        self._resolvers = resolvers
        self._dhcp4 = dhcp4.Server(config)
        self._dhcp6 = dhcp6.Server(config) if config.network6 is not None else None
        self._quiet_until_s = 0.0

    def answer(self, frame: bytes, now_s: float) -> bytes | None:
        """The frame that answers a frame of the guest's, if any does. Raises nothing."""
        try:
            return self._answer(frame, now_s)
        except Exception as error:
            # A mistake of ours is not to end everybody's connections, nor to fill somebody's log.
            if now_s >= self._quiet_until_s:
                self._quiet_until_s = now_s + _COMPLAIN_PERIOD_S
                log.complain(f"cannot answer a frame of {len(frame)} bytes: {error!r}")
            return None

    def _answer(self, frame: bytes, now_s: float) -> bytes | None:
        asked = frames.parse(frame)
        if asked is None:
            return None
        if asked.port == dhcp4.SERVER_PORT:
            return self._dhcp4.answer(asked, self._domains(), now_s)
        if self._dhcp6 is None:
            return None
        if asked.port == dhcp6.SERVER_PORT:
            return self._dhcp6.answer(asked, self._domains(), now_s)
        return ra.answer(self._config, self._domains(), asked)

    def _domains(self) -> list[str]:
        return [] if self._resolvers is None else self._resolvers.domains
