"""What the daemon can tell about itself: counters and flows as lines of JSON, on SIGUSR1."""

from __future__ import annotations

import json
import os
from socket import AF_INET, AF_INET6, inet_ntop

from slirp import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from slirp.core.engine import Engine


def collect(engine: Engine, more: Mapping[str, int]) -> str:
    """One line with the counters, the engine's and `more`, then one for each flow; no newline at
    the end.
    """
    lines = [json.dumps({"stats": {**engine.stats(), **more}})]
    lines += [json.dumps({"flow": flow}, default=_describe) for flow in engine.flows()]
    return "\n".join(lines)


def write(text: str) -> None:
    """Write a report to stderr. May wait for the reader: not for the event loop's thread."""
    log.put(log.STDERR, os.fsencode(text + "\n"))


def _describe(address: bytes) -> str:
    return inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)
