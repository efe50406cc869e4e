#!/usr/bin/env python3
"""Layers only call down: a module of the data plane may cimport only what stands before it here.

The order is total, and is the map in ext/slirp/core/__init__.pxd read from top to bottom. Cython
needs it anyway: a cycle of cimports between extension modules fails at import.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Iterator

LAYERS = (
    ("linux", "wire", "seq"),
    ("siphash", "csum", "stats", "blocks", "timers", "rate", "conn", "flow", "hostops", "ctx"),
    (
        *("ip", "ip4", "ip6", "frag", "fwd", "punt", "arp", "icmp6", "icmp", "ping", "ndp"),
        *("train", "udp", "dns"),
    ),
    ("tcp", "tcp_wire", "tcp_sack", "tcp_out", "tcp_recv", "tcp_timer", "tcp_host", "tcp_in"),
    ("stack", "seam"),
    ("testfaces", "mill", "hostfake"),
    ("fuzz", "fuzz_host", "fuzz_guest", "fuzz_frames", "fuzz_check", "fuzz_script"),
    ("hostlinux", "slice", "engine"),
    ("oscalls", "confine"),
)
ORDER = [module for layer in LAYERS for module in layer]
CIMPORT = re.compile(r"^\s*from \.?(?:slirp\.core\.)?(\w*) cimport (.*)$")
ROOT = pathlib.Path(__file__).resolve().parent.parent


def cimports(path: pathlib.Path) -> Iterator[tuple[int, str]]:
    """(line number, module) of each cimport of a sibling."""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = CIMPORT.match(line)
        if match is None:
            continue
        if match[1]:
            yield number, match[1]
        else:  # from . cimport one, two
            yield from ((number, word.strip()) for word in match[2].strip("()").split(","))


def main() -> int:
    """Print each call upwards; 1 when there are any."""
    failures = []
    rank = {module: at for at, module in enumerate(ORDER)}
    core = ROOT / "ext" / "slirp" / "core"
    for path in sorted([*core.glob("*.pyx"), *core.glob("*.pxd")]):
        if path.stem == "__init__":
            continue
        if path.stem not in rank:
            failures.append(f"{path}: not in the list of layers (tools/check_layers.py)")
            continue
        for number, module in cimports(path):
            if module in rank and module != path.stem and rank[module] > rank[path.stem]:
                failures.append(f"{path}:{number}: {path.stem} stands below {module}")
    print(*failures, sep="\n", end="\n" if failures else "")
    print(f"check_layers: {len(ORDER)} modules, {len(failures)} calls upwards")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
