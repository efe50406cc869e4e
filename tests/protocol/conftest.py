"""Protocol tests stand on the harness."""

from __future__ import annotations

from harness.fixtures import lan, make_lan, make_tcp, net, tcp

__all__ = ["lan", "make_lan", "make_tcp", "net", "tcp"]
