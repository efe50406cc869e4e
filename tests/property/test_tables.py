"""The small machines against models that are too simple to be wrong: a dict, a bytearray, a list,
a set of numbers. Hypothesis draws the calls; every answer must be the model's.
"""

from __future__ import annotations

import struct

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from slirp.core.testfaces import Flows, Pool, Queue, Ranges, Timers

TICK = 1000
N_TIMERS = 8
EXAMPLES = settings(max_examples=100, stateful_step_count=40, deadline=None)


class TimersMachine(RuleBasedStateMachine):
    """Model: when each timer is due. The clock also stands near where the wheel turns over."""

    @initialize(
        start=st.one_of(
            st.integers(0, 2**20),
            st.sampled_from([64**level * TICK for level in range(1, 6)]).map(lambda at: at - 1500),
            st.integers(0, 2**50),
        )
    )
    def start(self, start: int) -> None:
        self.now = start
        self.wheel = Timers(N_TIMERS, start)
        self.due: dict[int, int] = {}

    @rule(
        which=st.integers(0, N_TIMERS - 1),
        delay=st.one_of(
            st.integers(-5000, 5000),
            st.integers(0, 70_000),
            st.integers(0, 5 * 10**6),
            st.integers(0, 3 * 64**5 * TICK),
        ),
    )
    def arm(self, which: int, delay: int) -> None:
        at = max(0, self.now + delay)
        self.wheel.set(which, at)
        self.due[which] = at

    @rule(which=st.integers(0, N_TIMERS - 1))
    def cancel(self, which: int) -> None:
        self.wheel.cancel(which)
        self.due.pop(which, None)

    @rule(
        step=st.one_of(
            st.integers(0, 2000), st.integers(0, 10**6), st.integers(0, 2 * 64**5 * TICK)
        )
    )
    def pass_time(self, step: int) -> None:
        self.now += step
        while (which := self.wheel.pop(self.now)) is not None:
            assert self.due.pop(which) <= self.now, "early"
        late = {which for which, at in self.due.items() if at + TICK <= self.now}
        assert not late

    @rule()
    def sleep_until_the_next_deadline(self) -> None:
        """Whoever sleeps as told wakes up in time."""
        at = self.wheel.next()
        assert (at is None) == (not self.due)
        if at is not None:
            assert at < min(self.due.values()) + TICK or at <= self.now
            self.pass_time(max(0, at - self.now))

    @invariant()
    def counts_agree(self) -> None:
        if hasattr(self, "wheel"):
            assert self.wheel.armed == len(self.due)
            assert all(self.wheel.is_set(n) == (n in self.due) for n in range(N_TIMERS))


class QueueMachine(RuleBasedStateMachine):
    """Model: a bytearray with None where nothing was written yet; two queues share the pool."""

    BLOCK = Pool.block_bytes
    LIMIT = 12

    @initialize()
    def start(self) -> None:
        self.pool = Pool(self.LIMIT * self.BLOCK)
        self.queues = [Queue(self.pool), Queue(self.pool)]
        self.held = [bytearray(), bytearray()]
        # Written beyond the end, in order: (offset from the head, bytes).
        self.ahead: list[list[tuple[int, bytes]]] = [[], []]
        self.counter = 0

    WHICH = st.integers(0, 1)
    SIZES = st.one_of(
        st.integers(1, 2000),
        st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK]),
        st.integers(1, 9 * BLOCK),
    )

    def fresh(self, n: int) -> bytes:
        """Bytes of which each place can be told from others."""
        self.counter += 1
        return (struct.pack(">I", self.counter) * (n // 4 + 1))[:n]

    @rule(which=WHICH, n=SIZES)
    def append(self, which: int, n: int) -> None:
        if self.ahead[which]:
            return
        data = self.fresh(n)
        done = self.queues[which].append(data)
        assert done <= n
        if done < min(n, 7 * self.BLOCK):
            assert self.pool.used_blocks == self.LIMIT, "room was left"
        self.held[which] += data[:done]

    @rule(which=WHICH, n=SIZES)
    def reserve(self, which: int, n: int) -> None:
        if not self.ahead[which]:
            before = self.pool.used_blocks
            self.queues[which].reserve(n)
            assert self.pool.used_blocks <= before, "kept for nothing"

    @rule(which=WHICH, gap=st.integers(0, 4 * BLOCK), n=SIZES)
    def write_ahead(self, which: int, gap: int, n: int) -> None:
        offset = len(self.held[which]) + gap
        data = self.fresh(n)
        if self.queues[which].write(offset, data):
            self.ahead[which].append((offset, data))

    @rule(which=WHICH)
    def fill_all_gaps(self, which: int) -> None:
        """Write what is missing up to the furthest byte; all of it becomes part of the queue."""
        if not self.ahead[which]:
            return
        length = len(self.held[which])
        end = max(offset + len(data) for offset, data in self.ahead[which])
        whole: list[int | None] = [None] * (end - length)
        for offset, data in self.ahead[which]:
            whole[offset - length : offset - length + len(data)] = data
        missing = [at for at, byte in enumerate(whole) if byte is None]
        for start in (at for at in missing if at == 0 or whole[at - 1] is not None):
            stop = next((at for at in range(start, len(whole)) if whole[at] is not None), None)
            gap = self.fresh((len(whole) if stop is None else stop) - start)
            if not self.queues[which].write(length + start, gap):
                return
            self.ahead[which].append((length + start, gap))
            whole[start : start + len(gap)] = gap
        self.queues[which].extend(len(whole))
        self.held[which] += bytes(byte for byte in whole if byte is not None)
        self.ahead[which] = []

    @rule(which=WHICH, share=st.floats(0, 1))
    def consume(self, which: int, share: float) -> None:
        n = int(share * len(self.held[which]))
        self.queues[which].consume(n)
        del self.held[which][:n]
        self.ahead[which] = [(offset - n, data) for offset, data in self.ahead[which]]

    @rule(which=WHICH)
    def clear(self, which: int) -> None:
        self.queues[which].clear()
        self.held[which].clear()
        self.ahead[which] = []

    @rule(which=WHICH, a=st.floats(0, 1), b=st.floats(0, 1))
    def read_a_part(self, which: int, a: float, b: float) -> None:
        held = self.held[which]
        start, end = sorted((int(a * len(held)), int(b * len(held))))
        pieces = self.queues[which].read(start, end - start, max_iov=64)
        assert b"".join(pieces) == held[start:end]

    @invariant()
    def contents_agree_and_memory_is_bounded(self) -> None:
        if not hasattr(self, "queues"):
            return
        assert self.pool.used_blocks <= self.LIMIT
        for queue, held in zip(self.queues, self.held, strict=True):
            assert len(queue) == len(held)
            assert b"".join(queue.read(0, len(held), max_iov=64)) == held

    def teardown(self) -> None:
        for queue in getattr(self, "queues", ()):
            queue.clear()
        if hasattr(self, "pool"):
            assert self.pool.used_blocks == 0


class FlowsMachine(RuleBasedStateMachine):
    """Model: a dict from keys to handles, and a list of handles per class, oldest first."""

    CLASSES = Flows.lru_classes
    handles: Bundle[int] = Bundle("handles")

    @initialize()
    def start(self) -> None:
        self.table = Flows(128)
        self.keys: dict[bytes, int] = {}
        self.unhashed: set[int] = set()
        self.dead: set[int] = set()
        self.lists: list[list[int]] = [[] for _ in range(self.CLASSES)]

    @staticmethod
    def key(n: int) -> bytes:
        return bytes(32) + struct.pack("=HHB3x", n, 53, 17)

    def listed(self, handle: int) -> list[int] | None:
        return next((each for each in self.lists if handle in each), None)

    def living(self) -> set[int]:
        return set(self.keys.values()) | self.unhashed

    @rule(target=handles, n=st.integers(0, 200))
    def alloc(self, n: int) -> int:
        key = self.key(n)
        if key in self.keys:
            return self.keys[key]
        handle = self.table.alloc(key)
        assert (handle is None) == (len(self.living()) == 128)
        if handle is None:
            return next(iter(self.living()))
        assert handle not in self.living()
        self.keys[key] = handle
        self.dead.discard(handle)
        return handle

    @rule(first=st.integers(0, 200), n=st.integers(1, 100))
    def alloc_many(self, first: int, n: int) -> None:
        for i in range(first, first + n):
            self.alloc(i)

    @rule(handle=handles)
    def unhash(self, handle: int) -> None:
        if handle in self.keys.values():
            self.table.unhash(handle)
            del self.keys[self.table.key(handle)]
            self.unhashed.add(handle)

    @rule(handle=handles)
    def free(self, handle: int) -> None:
        if handle not in self.living():
            return
        self.unhash(handle)
        self.table.free(handle)
        self.unhashed.discard(handle)
        self.dead.add(handle)
        listed = self.listed(handle)
        if listed is not None:
            listed.remove(handle)

    @rule(handle=handles, lru_class=st.integers(0, CLASSES))
    def set_class(self, handle: int, lru_class: int) -> None:
        if handle not in self.living():
            return
        self.table.set_class(handle, lru_class)
        listed = self.listed(handle)
        if listed is not None:
            listed.remove(handle)
        if lru_class < self.CLASSES:
            self.lists[lru_class].append(handle)

    @rule(handle=handles)
    def use(self, handle: int) -> None:
        listed = self.listed(handle)
        if listed is not None:
            self.table.use(handle)
            listed.remove(handle)
            listed.append(handle)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "table"):
            return
        assert self.table.n_flows == len(self.living())
        assert all(self.table.lookup(self.key(n)) == self.keys.get(self.key(n)) for n in range(301))
        assert all(self.table.alive(handle) for handle in self.living())
        assert not any(self.table.alive(handle) for handle in self.dead)
        assert [self.table.by_age(n) for n in range(self.CLASSES)] == self.lists


class RangesMachine(RuleBasedStateMachine):
    """Model: the set of single numbers held, as offsets from a base that may be near 2^32."""

    WORLD = 400
    HOLES = 32

    @initialize(base=st.sampled_from([0, 1000, 2**32 - 200, 2**31 - 200, 2**32 - 1]))
    def start(self, base: int) -> None:
        self.base = base
        self.ranges = Ranges()
        self.held: set[int] = set()

    def seq(self, offset: int) -> int:
        return (self.base + offset) % 2**32

    def runs(self, held: set[int]) -> list[tuple[int, int]]:
        """Maximal runs, ascending, as (start, end)."""
        starts = sorted(n for n in held if n - 1 not in held)
        ends = sorted(n + 1 for n in held if n + 1 not in held)
        return list(zip(starts, ends, strict=True))

    def as_seq(self, runs: list[tuple[int, int]]) -> list[tuple[int, int]]:
        return [(self.seq(start), self.seq(end)) for start, end in runs]

    @rule(start=st.integers(0, WORLD - 1), n=st.integers(1, 60))
    def add(self, start: int, n: int) -> None:
        grown = self.held | set(range(start, start + n))
        if len(self.runs(grown)) > self.HOLES:
            assert not self.ranges.add(self.seq(start), self.seq(start + n))
            return
        assert self.ranges.add(self.seq(start), self.seq(start + n))
        self.held = grown
        first = self.ranges.report(1)[0]
        whole = next(run for run in self.runs(grown) if run[0] <= start < run[1])
        assert first == self.as_seq([whole])[0]

    @rule(starts=st.lists(st.integers(0, WORLD // 2 - 1), max_size=50))
    def add_single_ones(self, starts: list[int]) -> None:
        for start in starts:
            self.add(2 * start, 1)

    @rule(below=st.integers(0, WORLD))
    def trim(self, below: int) -> None:
        self.ranges.trim(self.seq(below))
        self.held = {n for n in self.held if n >= below}
        assert self.ranges.allocated == bool(self.held) or not self.held

    @rule(a=st.integers(0, WORLD + 60), b=st.integers(0, WORLD + 60))
    def bytes_in(self, a: int, b: int) -> None:
        expected = len(self.held & set(range(a, b)))
        assert self.ranges.bytes_in(self.seq(a), self.seq(b)) == expected

    @rule(at=st.integers(0, WORLD + 60))
    def skip(self, at: int) -> None:
        limit = self.WORLD + 100
        free = next(n for n in range(at, limit) if n not in self.held)
        behind = next((n for n in range(free, limit) if n in self.held), limit)
        assert self.ranges.skip(self.seq(at), self.seq(limit)) == (self.seq(free), self.seq(behind))

    @precondition(lambda self: self.held)
    @rule(n=st.integers(1, 32))
    def report(self, n: int) -> None:
        blocks = self.ranges.report(n)
        runs = self.as_seq(self.runs(self.held))
        assert len(blocks) == min(n, len(runs))
        assert len(set(blocks)) == len(blocks)
        assert set(blocks) <= set(runs)

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "ranges"):
            assert self.ranges.ranges == self.as_seq(self.runs(self.held))


TestTimers = TimersMachine.TestCase
TestQueue = QueueMachine.TestCase
TestFlows = FlowsMachine.TestCase
TestRanges = RangesMachine.TestCase
TestTimers.settings = EXAMPLES
TestQueue.settings = EXAMPLES
TestFlows.settings = EXAMPLES
TestRanges.settings = EXAMPLES
