"""The virtio-net header, as TUNSETVNETHDRSZ 12 puts it before each frame (virtio 1.2, 5.1.6)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.core.testfaces import vnet_bytes, vnet_fields

U8 = st.integers(0, 0xFF)
U16 = st.integers(0, 0xFFFF)


@given(st.tuples(U8, U8, U16, U16, U16, U16))
def test_fields_are_little_endian(fields: tuple[int, int, int, int, int, int]) -> None:
    wire = struct.pack("<BBHHHHH", *fields, 0)
    assert vnet_bytes(*fields) == wire
    assert vnet_fields(wire) == fields


def test_num_buffers_is_ignored_and_zero() -> None:
    """Only a host that merges receive buffers writes it."""
    assert vnet_fields(bytes(10) + b"\xff\xff") == (0, 0, 0, 0, 0, 0)
    assert vnet_bytes(0, 0, 0, 0, 0, 0) == bytes(12)


@pytest.mark.parametrize("n", [0, 11, 13])
def test_other_lengths_are_no_header(n: int) -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        vnet_fields(bytes(n))
