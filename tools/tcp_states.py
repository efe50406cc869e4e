#!/usr/bin/env python3
"""The guest side's states and the joint rules, drawn from the code (ext/slirp/core/tcp.pxd).

    python3 tools/tcp_states.py                 print the Markdown that ARCHITECTURE.md holds
    python3 tools/tcp_states.py --write         put it there
    python3 tools/tcp_states.py --check         status 1 when the page says something else

The edges come from `tcp_edges`, which every change of state is held against in debug builds; the
joint rules are the table at the head of the file, each row of which has a test of its own.
"""

from __future__ import annotations

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
SOURCE = ROOT / "ext/slirp/core/tcp.pxd"
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN = "<!-- drawn by tools/tcp_states.py -->"
END = "<!-- end of the drawing -->"


def edges(source: str) -> list[tuple[str, str]]:
    """(state, following state) in the order of the code."""
    body = source[source.index("cdef inline uint32_t tcp_edges") :]
    out = []
    for states, targets in re.findall(r"if (state == .*?):\s+return (.*)", body):
        for state in re.findall(r"TCP_(\w+)", states):
            out += [(state, target) for target in re.findall(r"TCP_(\w+)", targets)]
    return out


def joint_rules(source: str) -> list[tuple[str, str, str]]:
    """The rows (event, state it meets, what follows), continuation lines joined."""
    lines = source[source.index("    event   ") :].splitlines()
    starts = [match.start() for match in re.finditer(r"-+", lines[1])]
    rows: list[list[str]] = []
    for line in lines[2:]:
        if not line.strip():
            break
        cells = [line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    return [(row[0], row[1], row[2]) for row in rows]


def draw() -> str:
    """A Mermaid state diagram and a Markdown table."""
    source = SOURCE.read_text()
    diagram = [f"    {a} --> {b}" for a, b in edges(source)]
    table = [f"| {event} | {state} | {follows} |" for event, state, follows in joint_rules(source)]
    return "\n".join(
        [
            BEGIN,
            "```mermaid",
            "stateDiagram-v2",
            *diagram,
            "```",
            "",
            "Every state may also end in CLOSED.",
            "",
            "| event | state it meets | what follows |",
            "| --- | --- | --- |",
            *table,
            END,
        ]
    )


def main() -> int:
    """See the module's text."""
    drawing = draw()
    page = PAGE.read_text()
    current = page[page.index(BEGIN) : page.index(END) + len(END)]
    if "--write" in sys.argv:
        PAGE.write_text(page.replace(current, drawing))
    elif "--check" in sys.argv:
        if current != drawing:
            print("ARCHITECTURE.md is behind the code: python3 tools/tcp_states.py --write")
            return 1
    else:
        print(drawing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
