"""Protocol tests stand on the harness."""

from __future__ import annotations

from harness.fixtures import lan, make_lan, make_tcp, make_wired, net, tcp, wired

__all__ = ["lan", "make_lan", "make_tcp", "make_wired", "net", "tcp", "wired"]
