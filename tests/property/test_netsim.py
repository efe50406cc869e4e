"""Throughput in virtual time over links of every kind is what it was (bench/netsim.py)."""

from __future__ import annotations

import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))

from bench import netsim


def test_throughput_is_as_expected() -> None:
    """The table to the last digit; whoever means to change it renews it: netsim.py --update."""
    assert list(netsim.table()) == netsim.EXPECTED.read_text().splitlines()
