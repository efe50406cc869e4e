"""The pool of blocks and the byte queue: bounds, holes, and memory that comes back."""

from __future__ import annotations

import os

import pytest

from slirp.core.testfaces import Pool, Queue

BLOCK = Pool.block_bytes


def content(queue: Queue) -> bytes:
    return b"".join(queue.read(0, len(queue), max_iov=64))


def test_fifo_across_blocks() -> None:
    pool = Pool(16 * BLOCK)
    queue = Queue(pool)
    sent = os.urandom(3 * BLOCK + 17)
    assert queue.append(sent) == len(sent)
    assert content(queue) == sent
    assert pool.used_blocks == 4
    queue.consume(BLOCK + 1)
    assert content(queue) == sent[BLOCK + 1 :]
    assert pool.used_blocks == 3


def test_cleared_owns_nothing() -> None:
    pool = Pool(16 * BLOCK)
    queue = Queue(pool)
    queue.append(bytes(5 * BLOCK))
    queue.clear()
    assert len(queue) == 0
    assert pool.used_blocks == 0
    assert queue.append(b"again") == 5
    assert content(queue) == b"again"


def test_dropped_queue_gives_its_blocks_back() -> None:
    pool = Pool(16 * BLOCK)
    Queue(pool).append(bytes(5 * BLOCK))
    assert pool.used_blocks == 0


def test_reserved_and_unfilled_blocks_go_back() -> None:
    """A read that meets EAGAIN leaves an idle connection without memory."""
    pool = Pool(16 * BLOCK)
    queue = Queue(pool)
    assert queue.reserve(4 * BLOCK) == 4 * BLOCK
    assert pool.used_blocks == 0
    queue.append(b"x")
    assert queue.reserve(4 * BLOCK) == 4 * BLOCK
    assert pool.used_blocks == 1


def test_one_reservation_has_a_bound() -> None:
    """Eight pieces, of which the first may be the rest of a block."""
    queue = Queue(Pool(100 * BLOCK))
    assert queue.reserve(50 * BLOCK) == 7 * BLOCK
    queue.append(b"x")
    assert queue.reserve(50 * BLOCK) == 7 * BLOCK


def test_pool_is_bounded() -> None:
    pool = Pool(4 * BLOCK)
    one, other = Queue(pool), Queue(pool)
    assert one.append(bytes(3 * BLOCK)) == 3 * BLOCK
    assert other.append(bytes(3 * BLOCK)) == BLOCK
    assert other.append(b"x") == 0
    assert one.append(b"x") == 0
    assert pool.used_blocks == 4
    one.consume(BLOCK)
    assert other.append(bytes(3 * BLOCK)) == BLOCK


def test_no_room_for_the_first_byte_leaves_nothing_behind() -> None:
    pool = Pool(BLOCK)
    one, other = Queue(pool), Queue(pool)
    one.append(b"x")
    assert other.append(b"x") == 0
    assert other.reserve(1) == 0
    one.clear()
    assert pool.used_blocks == 0


def test_written_ahead_of_a_gap() -> None:
    """Reassembly: bytes beyond the end cost only the blocks that they touch."""
    pool = Pool(64 * BLOCK)
    queue = Queue(pool)
    queue.append(b"head")
    assert queue.write(10 * BLOCK, b"tail")
    assert pool.used_blocks == 2
    assert len(queue) == 4
    gap = os.urandom(10 * BLOCK - 4)
    assert queue.write(4, gap)
    queue.extend(len(gap) + 4)
    assert content(queue) == b"head" + gap + b"tail"


def test_write_without_memory_writes_nothing() -> None:
    pool = Pool(3 * BLOCK)
    queue = Queue(pool)
    queue.append(b"abc")
    assert not queue.write(3, bytes(4 * BLOCK))
    assert content(queue) == b"abc"
    assert queue.write(3, bytes(2 * BLOCK))
    queue.clear()
    assert pool.used_blocks == 0


def test_write_ahead_that_failed_is_no_reason_to_refuse_a_byte() -> None:
    """All that the pool had lies behind the gap, and comes back."""
    pool = Pool(4 * BLOCK)
    queue = Queue(pool)
    assert queue.append(bytes(2 * BLOCK)) == 2 * BLOCK
    assert not queue.write(3 * BLOCK, bytes(3 * BLOCK))
    assert queue.append(b"x") == 1
    assert pool.used_blocks == 3


def test_write_ahead_that_failed_is_no_reason_to_take_less() -> None:
    """There is room in the last block, and more behind the gap."""
    pool = Pool(4 * BLOCK)
    queue = Queue(pool)
    assert queue.append(bytes(BLOCK + 1)) == BLOCK + 1
    assert not queue.write(3 * BLOCK, bytes(3 * BLOCK))
    assert queue.append(bytes(2 * BLOCK)) == 2 * BLOCK
    assert pool.used_blocks == 4


def test_room_after_a_write_ahead_that_failed() -> None:
    """Blocks that such a write got lie behind a gap: they are room for the next byte only after
    they went back.
    """
    pool = Pool(4 * BLOCK)
    queue = Queue(pool)
    assert not queue.write(6 * BLOCK, bytes(5 * BLOCK))
    assert queue.reserve(BLOCK) == BLOCK
    assert pool.used_blocks == 0
    assert not queue.write(2 * BLOCK, bytes(5 * BLOCK))
    other = Queue(pool)
    assert other.append(b"x") == 0
    assert queue.append(b"x") == 1
    assert other.append(bytes(4 * BLOCK)) == 3 * BLOCK
    queue.clear()
    other.append(bytes(BLOCK))
    assert queue.append(b"x") == 0


def test_empty_write() -> None:
    pool = Pool(BLOCK)
    assert Queue(pool).write(5 * BLOCK, b"")
    assert pool.used_blocks == 0


def test_freed_blocks_are_kept_only_up_to_a_bound() -> None:
    pool = Pool(1000 * BLOCK)
    queue = Queue(pool)
    while queue.append(bytes(7 * BLOCK)):
        pass
    assert pool.used_blocks == 1000
    queue.clear()
    assert pool.used_blocks == 0
    assert pool.free_blocks == 128


def test_read_in_fewer_pieces_than_it_has() -> None:
    queue = Queue(Pool(16 * BLOCK))
    queue.append(bytes(4 * BLOCK))
    assert [len(piece) for piece in queue.read(1, 3 * BLOCK, max_iov=2)] == [BLOCK - 1, BLOCK]


def test_consumed_whole_blocks_reach_the_head_of_the_next() -> None:
    """The circle of block pointers turns many times."""
    pool = Pool(16 * BLOCK)
    queue = Queue(pool)
    for turn in range(50):
        queue.append(bytes([turn]) * (3 * BLOCK))
        assert content(queue) == bytes([turn]) * (3 * BLOCK)
        queue.consume(3 * BLOCK)
        assert pool.used_blocks == 0


@pytest.mark.parametrize("call", ["consume", "extend"])
def test_face_refuses_what_was_never_written(call: str) -> None:
    queue = Queue(Pool(BLOCK))
    queue.append(b"x")
    with pytest.raises(ValueError, match=r"beyond|never"):
        getattr(queue, call)(BLOCK + 1)
