"""Protocol tests stand on the harness."""

from __future__ import annotations

from harness.fixtures import make_tcp, net, tcp

__all__ = ["make_tcp", "net", "tcp"]
