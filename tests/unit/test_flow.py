"""The flow table: handles that go stale, bounds, lists by age, a hash that grows."""

from __future__ import annotations

import struct

import pytest

from slirp.core.testfaces import Flows

CLASSES = Flows.lru_classes
SLAB = Flows.slab_flows


def key(n: int) -> bytes:
    """FlowKey: two addresses, two ports, a protocol and three bytes of zero."""
    guest = bytes(10) + b"\xff\xff\x0a\x00\x02\x64"
    dest = bytes(10) + b"\xff\xff" + struct.pack(">I", n >> 16 | 0x01000000)
    return guest + dest + struct.pack("=HHB3x", n & 0xFFFF, 80, 6)


def filled(n: int, max_flows: int = 1 << 20) -> tuple[Flows, list[int]]:
    table = Flows(max_flows)
    handles = []
    for i in range(n):
        handle = table.alloc(key(i))
        assert handle is not None
        handles.append(handle)
    return table, handles


def test_found_by_its_key_only() -> None:
    table, (handle,) = filled(1)
    assert table.lookup(key(0)) == handle
    assert table.lookup(key(1)) is None
    assert table.key(handle) == key(0)


@pytest.mark.parametrize("byte", range(37))
def test_every_byte_of_the_key_counts(byte: int) -> None:
    table, _ = filled(1)
    other = bytearray(key(0))
    other[byte] ^= 1
    assert table.lookup(bytes(other)) is None


def test_ten_thousand_and_back() -> None:
    table, handles = filled(10_000)
    assert len(set(handles)) == 10_000
    assert all(table.lookup(key(i)) == handle for i, handle in enumerate(handles))
    for handle in handles:
        table.unhash(handle)
        table.free(handle)
    assert table.n_flows == 0
    assert all(table.lookup(key(i)) is None for i in range(10_000))


def test_hash_grows_with_the_flows_and_is_never_more_than_half_full() -> None:
    table, _ = filled(5000)
    assert 2 * 5000 <= table.n_slots < 4 * 5000


def test_bound() -> None:
    """Flows come in slabs: the bound is rounded up to one."""
    table, handles = filled(2 * SLAB, max_flows=SLAB + 1)
    assert table.alloc(key(2 * SLAB)) is None
    assert table.n_flows == 2 * SLAB
    table.unhash(handles[0])
    assert table.alloc(key(2 * SLAB)) is None
    table.free(handles[0])
    assert table.alloc(key(2 * SLAB)) is not None


def test_stale_handle_is_nobody() -> None:
    """A late event of the host for a flow that is gone must not reach its successor."""
    table, (old,) = filled(1)
    table.unhash(old)
    assert table.alive(old)
    table.free(old)
    assert not table.alive(old)
    new = table.alloc(key(1))
    assert new is not None
    assert new != old
    assert new & 0xFFFFF == old & 0xFFFFF
    assert not table.alive(old)


def test_generations_last_for_4096_successors() -> None:
    table = Flows(SLAB)
    seen = set()
    for _ in range(4096):
        handle = table.alloc(key(0))
        assert handle is not None
        seen.add(handle)
        table.unhash(handle)
        table.free(handle)
    assert len(seen) == 4096


@pytest.mark.parametrize("handle", [0, 1, 63, 64, 0xFFFFF, 0xFFFFFFFF])
def test_any_number_is_a_handle_of_nobody(handle: int) -> None:
    assert not Flows(64).alive(handle)


def test_unhashed_leaves_its_key_to_another() -> None:
    """A connection that only drains stands beside its successor."""
    table, (old,) = filled(1)
    table.unhash(old)
    assert table.lookup(key(0)) is None
    new = table.alloc(key(0))
    assert new is not None
    assert table.lookup(key(0)) == new
    assert table.alive(old)


def test_lists_by_age() -> None:
    table, (a, b, c) = filled(3)
    for handle in (a, b, c):
        table.set_class(handle, 3)
    table.use(a)
    assert table.by_age(3) == [b, c, a]
    table.use(a)
    assert table.by_age(3) == [b, c, a]
    table.set_class(b, 0)
    assert table.by_age(3) == [c, a]
    assert table.by_age(0) == [b]
    table.set_class(c, CLASSES)
    assert table.by_age(3) == [a]


def test_freed_leaves_its_list() -> None:
    table, (a, b) = filled(2)
    table.set_class(a, 1)
    table.set_class(b, 1)
    table.unhash(a)
    table.free(a)
    assert table.by_age(1) == [b]
