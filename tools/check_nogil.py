#!/usr/bin/env python3
"""The hot path is free of Python: no C-API call in any nogil function of the generated C.

    check_nogil.py SOURCE_DIR

`nogil` alone does not promise it: `a // b` without cdivision compiles to PyGILState_Ensure and an
unraisable exception, without a word. The generated C tells the truth, also for the inline functions
of .pxd files, which Cython's own annotation leaves out. SOURCE_DIR holds the .pyx and .pxd files
with the .c files made of them. Exempt are the modules that lend the machines to Python on purpose.
"""

from __future__ import annotations

import pathlib
import re
import sys
from collections.abc import Iterator

EXEMPT = {"hostfake", "testfaces", "oscalls", "confine", "fuzz_script"}
# A signature may take several lines; it ends with the colon that opens the body.
SIGNATURE = re.compile(r"^ *(?:cdef|cpdef) [^=\n]*?\b(\w+)\([^:]*?\)([^:()\n]*):\s*$", re.M)
DEFINITION = re.compile(r"^(?:static|CYTHON_INLINE)\b[^;\n]*\b__pyx_f_(\w+)\([^;\n]*\{$", re.M)
PYTHON_CALL = re.compile(r"\b(Py[A-Z]\w*|_Py\w+|__Pyx_(?!ssize_t)\w+)\s*\(")
LINE_COMMENT = re.compile(r'/\* "([^"]+)":(\d+)')


def nogil_functions(source_dir: pathlib.Path) -> set[tuple[str, str]]:
    """(module, function) of everything that is declared nogil in a .pyx or .pxd file."""
    found = set()
    for path in sorted([*source_dir.rglob("*.pyx"), *source_dir.rglob("*.pxd")]):
        for match in SIGNATURE.finditer(path.read_text()):
            if "nogil" in match[2]:
                found.add((path.stem, match[1]))
    return found


def functions(c_text: str) -> Iterator[tuple[str, str]]:
    """(mangled name, body) of every function that comes from a cdef function."""
    for match in DEFINITION.finditer(c_text):
        end = c_text.find("\n}\n", match.end())
        yield match[1], c_text[match.end() : end]


def split_name(mangled: str) -> tuple[str, str] | None:
    """`5slirp_4core_6tcp_in_establish` is function `establish` of module `tcp_in`."""
    match = re.match(r"5slirp_4core_(\d+)(.*)", mangled)
    if match is None:
        return None
    length, rest = int(match[1]), match[2]
    return rest[:length], rest[length + 1 :]


def offences(body: str) -> Iterator[tuple[str, str]]:
    """(place in the Cython source, Python call) for each call into Python in a function's body."""
    place = "?"
    in_comment = False
    for line in body.splitlines():
        if start := LINE_COMMENT.search(line):
            place = f"{start[1]}:{start[2]}"
            in_comment = True
        if not in_comment and (call := PYTHON_CALL.search(line)):
            yield place, call[1]
        if "*/" in line:
            in_comment = False


def main(argv: list[str]) -> int:
    """Print each offence; 1 when there are any, or when there was nothing to check."""
    source_dir = pathlib.Path(argv[1])
    declared = nogil_functions(source_dir)
    checked: set[tuple[str, str]] = set()
    bad: set[str] = set()
    for c_file in sorted(source_dir.rglob("*.c")):
        if c_file.stem in EXEMPT:
            continue
        for mangled, body in functions(c_file.read_text(errors="replace")):
            name = split_name(mangled)
            if name is None or name not in declared:
                continue
            checked.add(name)
            bad |= {f"{place}: {'.'.join(name)} calls {call}" for place, call in offences(body)}
    for line in sorted(bad):
        print(line)
    print(f"check_nogil: {len(checked)} nogil functions, {len(bad)} calls into Python")
    return 1 if bad or not checked else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
