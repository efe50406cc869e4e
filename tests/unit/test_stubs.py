"""The stubs of the compiled modules say what the modules say (style, types: tools/dev.py lint)."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import slirp.core

HERE = Path(__file__).parent


def test_stubs_agree_with_the_compiled_modules() -> None:
    pytest.importorskip("mypy.stubtest")
    folder = Path(slirp.core.__file__).parent
    stubs = sorted(path.stem for path in folder.glob("*.pyi"))
    compiled = {module.name for module in pkgutil.iter_modules([str(folder)])}
    assert set(stubs) <= compiled, "a stub without a module"
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy.stubtest",
            "--ignore-unused-allowlist",
            f"--allowlist={HERE / 'stubtest_allowlist.txt'}",
            *(f"slirp.core.{name}" for name in stubs),
        ],
        cwd=folder.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
