"""The rows of the table: what is measured, under which conditions, and what pyslirp is to reach."""

from __future__ import annotations

import functools

from bench.bulk import forward, tcp, trains, udp
from bench.measure import Cell
from bench.rates import ALL_PORTS, REUSED_PORTS, request_rate
from bench.rest import idle_memory, idle_tcp, launch, memory_after, memory_fresh

MATRIX = frozenset({"cc", "mtu", "family", "rtt"})
NEAR = frozenset({"mtu", "family"})
PER_MTU = frozenset({"mtu"})

bulk = functools.partial(Cell, group="tcp", unit="Gbit/s", cost_unit="CPU s/GB", varies=MATRIX)
datagrams = functools.partial(Cell, group="udp", unit="Gbit/s", cost_unit="CPU s/GB", varies=NEAR)
count = functools.partial(Cell, unit="1/s", cost_unit="CPU us/op", varies=NEAR)
many = functools.partial(Cell, group="flows", unit="1/s", cost_unit="CPU us/op")
rest = functools.partial(Cell, group="rest")


def _flows(number: int) -> Cell:
    return many(
        f"flows-{number}",
        title=f"requests over {number:,} connections",
        measure=request_rate("many", count=number, ports=ALL_PORTS, one_cpu=True),
        mark="cost does not grow",
    )


CELLS = (
    bulk("tcp-up", title="TCP up", measure=tcp(1, down=False), mark="0.85; 0.33 s/GB"),
    bulk("tcp-down", title="TCP down", measure=tcp(1, down=True), mark="0.85; 0.42 s/GB"),
    bulk("tcp-up-8", title="TCP up, 8 streams", measure=tcp(8, down=False), mark="0.85"),
    bulk("tcp-down-8", title="TCP down, 8 streams", measure=tcp(8, down=True), mark="0.85"),
    Cell(
        *("fwd-in", "fwd", "port forward, in", "Gbit/s", forward(out=False), PER_MTU, "CPU s/GB"),
        mark="0.85",
    ),
    Cell(
        *("fwd-out", "fwd", "port forward, out", "Gbit/s", forward(out=True), PER_MTU, "CPU s/GB"),
        mark="0.85",
    ),
    datagrams("udp-up", title="UDP up, 1,400 B", measure=udp(down=False), mark="best of three"),
    datagrams("udp-down", title="UDP down, 1,400 B", measure=udp(down=True), mark="best of three"),
    datagrams("udp-up-100", title="same up at 100 Mbit/s", measure=udp(down=False, rate="100M")),
    datagrams("udp-down-100", title="same down at 100 Mbit/s", measure=udp(down=True, rate="100M")),
    datagrams("udp-up-500", title="same up at 500 Mbit/s", measure=udp(down=False, rate="500M")),
    datagrams("udp-down-500", title="same down at 500 Mbit/s", measure=udp(down=True, rate="500M")),
    datagrams(
        "trains-up",
        group="trains",
        title="UDP trains up",
        measure=trains("up"),
        mark="5 x slirp4netns",
    ),
    datagrams(
        "trains-down",
        group="trains",
        title="UDP trains down",
        measure=trains("down"),
        mark="5 x slirp4netns",
    ),
    count(
        *("rr", "rr", "request/response"),
        measure=request_rate("rr", one_cpu=True),
        mark="1.4 x the better",
    ),
    count("rr-free", "rr", "same, on all CPUs", measure=request_rate("rr")),
    count(
        *("crr-32", "crr", "connections, 32 at once"),
        measure=request_rate("crr", count=32),
        mark="0.75; 1.6 x pasta",
    ),
    count(
        *("crr", "crr", "connections, one by one"),
        measure=request_rate("crr", count=1, one_cpu=True),
        mark="0.5",
    ),
    count(
        *("crr-reuse", "crr", "same, from 64 ports"),
        measure=request_rate("crr", count=1, ports=REUSED_PORTS, one_cpu=True),
        mark="0.5",
    ),
    *(_flows(number) for number in (10, 1_000, 20_000)),
    Cell("idle", "idle", "each of 10,000 idle connections", "B", idle_memory, mark="2,048 B; 0 %"),
    Cell(
        *("idle-tcp", "idle", "TCP down beside 10,000 idle", "Gbit/s", idle_tcp),
        cost_unit="CPU s/GB",
        mark="as without",
    ),
    rest("ready", title="launch to ready", unit="ms", measure=launch, mark="80 ms"),
    rest("memory", title="memory, fresh (PSS)", unit="MB", measure=memory_fresh, mark="22 MB"),
    rest("memory-after", title="memory, after the run (PSS)", unit="MB", measure=memory_after),
)
GROUPS = " ".join(dict.fromkeys(cell.group for cell in CELLS))
AT_REST = frozenset({"ready", "memory", "memory-after", "idle"})  # nothing that a base has too


def choose(names: str) -> list[Cell]:
    """The cells whose name or group is in the comma-separated `names`; all when it is empty."""
    wanted = set(filter(None, names.split(",")))
    unknown = wanted - {cell.name for cell in CELLS} - {cell.group for cell in CELLS}
    if unknown:
        known = ", ".join(dict.fromkeys(word for c in CELLS for word in (c.group, c.name)))
        raise SystemExit(f"bench: no such cell: {', '.join(sorted(unknown))} (known: {known})")
    return [cell for cell in CELLS if not wanted or wanted & {cell.name, cell.group}]
