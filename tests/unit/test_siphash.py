"""SipHash-2-4: the published vectors, and an implementation of its own in Python."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slirp.core.siphash import siphash

MASK = 2**64 - 1
KEY = bytes(range(16))


def rotl(x: int, bits: int) -> int:
    return (x << bits | x >> (64 - bits)) & MASK


def sip_round(v: list[int]) -> None:
    """Aumasson and Bernstein, 2012, figure 2.1."""
    v[0] = (v[0] + v[1]) & MASK
    v[2] = (v[2] + v[3]) & MASK
    v[1] = rotl(v[1], 13) ^ v[0]
    v[3] = rotl(v[3], 16) ^ v[2]
    v[0] = rotl(v[0], 32)
    v[2] = (v[2] + v[1]) & MASK
    v[0] = (v[0] + v[3]) & MASK
    v[1] = rotl(v[1], 17) ^ v[2]
    v[3] = rotl(v[3], 21) ^ v[0]
    v[2] = rotl(v[2], 32)


def reference(key: bytes, data: bytes) -> int:
    """SipHash-2-4 of bytes of any length."""
    k0, k1 = (int.from_bytes(half, "little") for half in (key[:8], key[8:]))
    text = (b"somepseu", b"dorandom", b"lygenera", b"tedbytes")
    keys = (k0, k1, k0, k1)
    v = [int.from_bytes(t, "big") ^ k for t, k in zip(text, keys, strict=True)]
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for at in range(0, len(padded), 8):
        word = int.from_bytes(padded[at : at + 8], "little")
        v[3] ^= word
        sip_round(v)
        sip_round(v)
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(4):
        sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, "310e0edd47db6f72"), (8, "6224939a79f5f593"), (16, "db9bc2577fcc2a3f")],
)
def test_published_vectors(length: int, expected: str) -> None:
    """The authors' vectors: key 00 01 ... 0f, data 00 01 ..., the hash in little-endian order."""
    assert siphash(KEY, bytes(range(length))).to_bytes(8, "little").hex() == expected


def test_reference_meets_the_papers_example() -> None:
    """Appendix A of the paper: 15 bytes."""
    assert reference(KEY, bytes(range(15))) == 0xA129CA6149BE45E5


@given(st.binary(min_size=16, max_size=16), st.integers(0, 64), st.data())
def test_any_words(key: bytes, n_words: int, data: st.DataObject) -> None:
    text = data.draw(st.binary(min_size=8 * n_words, max_size=8 * n_words))
    assert siphash(key, text) == reference(key, text)


@pytest.mark.parametrize(
    ("key", "data"), [(bytes(15), b""), (bytes(17), b""), (KEY, bytes(7)), (KEY, bytes(520))]
)
def test_other_lengths_are_refused(key: bytes, data: bytes) -> None:
    with pytest.raises(ValueError, match="key of 16 bytes"):
        siphash(key, data)
