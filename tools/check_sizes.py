#!/usr/bin/env python3
"""No file over 600 lines; functions over 60 are named, so that somebody looks at them."""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Iterator

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
FOLDERS = ("slirp", "ext", "tests", "bench", "tools")
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".h"}
FUNCTION = re.compile(r"^(\s*)(?:async def|def|cdef|cpdef)\b[^=]*?\b(\w+)\(")
ROOT = pathlib.Path(__file__).resolve().parent.parent


def indent(line: str) -> int:
    """The number of leading spaces."""
    return len(line) - len(line.lstrip())


def body_start(lines: list[str], start: int) -> int:
    """Where a signature that begins in line `start` has closed its brackets."""
    open_brackets = 0
    for at in range(start, len(lines)):
        open_brackets += lines[at].count("(") - lines[at].count(")")
        if open_brackets <= 0:
            return at + 1
    return len(lines)


def functions(lines: list[str]) -> Iterator[tuple[int, str, int]]:
    """(line number, name, lines) of each function; nested ones count for themselves too."""
    for start, line in enumerate(lines):
        match = FUNCTION.match(line)
        if match is None:
            continue
        last = body_start(lines, start)
        for at in range(last, len(lines)):
            if not lines[at].strip():
                continue
            if indent(lines[at]) <= len(match[1]):
                break
            last = at + 1
        yield start + 1, match[2], last - start


def main() -> int:
    """Print what is too long; 1 when a file is."""
    failures = warnings = checked = 0
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in SUFFIXES:
                continue
            checked += 1
            lines = path.read_text().splitlines()
            name = path.relative_to(ROOT)
            if len(lines) > MAX_FILE_LINES:
                failures += 1
                print(f"{name}: {len(lines)} lines, at most {MAX_FILE_LINES}")
            for number, function, length in functions(lines):
                if length > MAX_FUNCTION_LINES:
                    warnings += 1
                    print(f"{name}:{number}: {function} has {length} lines (warning)")
    print(f"check_sizes: {checked} files, {failures} too long, {warnings} long functions")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
