"""The Internet checksum against the definition in RFC 1071, and against dpkt's."""

from __future__ import annotations

import struct

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.core.csum import checksum
from slirp.core.testfaces import fold, pseudo_checksum


def definition(data: bytes) -> int:
    """RFC 1071 1: the complement of the one's complement sum of 16-bit words, the last padded."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_rfc_1071_example() -> None:
    """RFC 1071 3: the numerical example."""
    assert checksum(bytes.fromhex("0001 f203 f4f5 f6f7")) == ~0xDDF2 & 0xFFFF


def test_nothing_sums_to_zero() -> None:
    assert checksum(b"") == 0xFFFF


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    assert checksum(data) == definition(data)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=8))
def test_pieces_of_any_length_sum_as_their_concatenation(pieces: list[bytes]) -> None:
    """RFC 1071 2(B): byte order independence lets a piece start at an odd offset."""
    assert checksum(*pieces) == definition(b"".join(pieces))


@pytest.mark.parametrize("n", [1, 2, 3, 65535, 65536, 1 << 20])
def test_all_ones_carry_through(n: int) -> None:
    assert checksum(b"\xff" * n) == definition(b"\xff" * n)


def test_more_pieces_than_a_frame_has() -> None:
    with pytest.raises(ValueError, match="8 pieces"):
        checksum(*[b""] * 9)


@given(st.integers(0, 2**64 - 1))
def test_fold_of_any_sum(total: int) -> None:
    """The sum is congruent modulo 0xFFFF, and not zero unless it was."""
    folded = ~fold(total) & 0xFFFF
    assert folded % 0xFFFF == total % 0xFFFF
    assert (folded == 0) == (total == 0)


ADDRESSES = st.one_of(
    st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)),
    st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)),
)


def pseudo_header(src: bytes, dst: bytes, proto: int, length: int) -> bytes:
    """RFC 9293 3.1 for IPv4, RFC 8200 8.1 for IPv6."""
    if len(src) == 4:
        return src + dst + struct.pack(">BBH", 0, proto, length)
    return src + dst + struct.pack(">IHBB", length, 0, 0, proto)


@given(ADDRESSES, st.sampled_from([6, 17, 58]), st.binary(max_size=100))
def test_pseudo_header_of_both_families(
    addresses: tuple[bytes, bytes], proto: int, segment: bytes
) -> None:
    head = pseudo_header(*addresses, proto, len(segment))
    full = int.from_bytes(pseudo_checksum(*addresses, proto, segment), "big")
    assert full == definition(head + segment)
    if len(addresses[0]) == 4:
        assert full == dpkt.in_cksum(head + segment)


@given(ADDRESSES, st.sampled_from([6, 17]), st.binary(max_size=100))
def test_partial_sum_is_what_offload_finishes(
    addresses: tuple[bytes, bytes], proto: int, segment: bytes
) -> None:
    """virtio 1.2 5.1.6.2: the field holds the pseudo-header's sum; the device adds the rest."""
    partial = pseudo_checksum(*addresses, proto, segment, partial=True)
    finished = checksum(partial, segment)
    assert finished.to_bytes(2, "big") == pseudo_checksum(*addresses, proto, segment)
