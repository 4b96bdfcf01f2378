"""From a schedule to one rank's program: operations on ranges of elements, and which must be complete before which.

An operation may start when those in its `after` are complete; what it depends on is found from the ranges that each
reads and writes, so that with segments the reduction of one, the receive of the next and the forwarding of the
previous overlap, across steps, without changing what a step means. Messages between two ranks are started in program
order at both ends, which is how they find each other.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import cycle
from typing import Any

from hpcdist.schedule import Layout, Rows, Schedule, Transfer


class Kind(Enum):
    """What an operation does."""

    SEND = "send"
    RECV = "receive"
    REDUCE = "reduce"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a rank does with elements `start` .. `stop` - 1 of its line: buffer, then input, then inbox.

    REDUCE and COPY take their operand from `operand` on. `incoming_first` says that the operand comes from a lower
    rank and is therefore the left one: all ranks that compute a sum then compute the same bits.
    """

    kind: Kind
    step: int
    start: int
    stop: int
    peer: int = -1
    operand: int = -1
    incoming_first: bool = False
    after: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Elements."""
        return self.stop - self.start


@dataclass(frozen=True)
class Program:
    """All that one rank does. `inbox` elements after the buffer and the input hold what is received to be reduced."""

    schedule: Schedule
    rank: int
    layout: Layout
    inbox: int
    operations: tuple[Operation, ...]

    @property
    def inbox_start(self) -> int:
        """Where on the line the inbox begins."""
        return self.layout.length


@dataclass
class _Hazards:
    """Which operations last wrote, and have since read, each part of a line of elements."""

    cuts: list[int] = field(default_factory=lambda: [0])
    writer: list[int | None] = field(default_factory=lambda: [None])
    readers: list[set[int]] = field(default_factory=lambda: [set()])

    def _parts(self, start: int, stop: int) -> range:
        """The indices of the parts that make up a range, after cutting at its ends."""
        return range(self._cut(start), self._cut(stop))

    def _cut(self, at: int) -> int:
        index = bisect_left(self.cuts, at)
        if index == len(self.cuts) or self.cuts[index] != at:
            self.cuts.insert(index, at)
            self.writer.insert(index, self.writer[index - 1])
            self.readers.insert(index, set(self.readers[index - 1]))
        return index

    def read(self, operation: int, start: int, stop: int) -> set[int]:
        """Note a read; returns the operations that must be complete before it."""
        parts = self._parts(start, stop)
        for part in parts:
            self.readers[part].add(operation)
        return {w for w in (self.writer[part] for part in parts) if w is not None}

    def write(self, operation: int, start: int, stop: int) -> set[int]:
        """Note a write; returns the operations that must be complete before it."""
        before: set[int] = set()
        for part in self._parts(start, stop):
            before |= self.readers[part]
            if (writer := self.writer[part]) is not None:
                before.add(writer)
            self.writer[part], self.readers[part] = operation, set()
        return before - {operation}


@dataclass(frozen=True, slots=True)
class _Message:
    """A transfer in elements, as one rank sees it."""

    row: Transfer
    src_start: int
    dst_start: int
    count: int

    def segments(self, size: int) -> Iterator[tuple[int, int]]:
        """(offset, count) of each segment; both ends cut alike, since both know the count."""
        for offset in range(0, self.count, size):
            yield offset, min(size, self.count - offset)


class _Lowering:
    """Builds the operations of one rank, step by step."""

    def __init__(self, schedule: Schedule, rank: int, layout: Layout, segment: int) -> None:
        self.rank, self.layout, self.segment = rank, layout, segment
        self.steps = [(number, self._messages(rows)) for number, rows in schedule.rows_of(rank)]
        self.staged = [self._staged(messages) for _, messages in self.steps]
        self.inboxes = self._inboxes()
        self.hazards = _Hazards()
        self.operations: list[Operation] = []

    def _messages(self, rows: Rows) -> list[_Message]:
        """The rows of a step that move any element at all."""
        start = self.layout.start
        messages = []
        for row in rows:
            dst_start = start(row.dst_chunk)
            count = start(row.dst_chunk + row.count) - dst_start
            if count:
                messages.append(_Message(row, start(row.src_chunk), dst_start, count))
        return messages

    def _receives(self, m: _Message) -> bool:
        return m.row.dst == self.rank != m.row.src

    def _staged(self, messages: list[_Message]) -> set[int]:
        """Which messages of a step cannot be received in place: those to be reduced, or whose place is still read.

        Receiving over what the same step sends would have to wait for the send, and the peer, doing the same, for ours.
        """
        reads = [(m.src_start, m.src_start + m.count) for m in messages if m.row.src == self.rank]
        staged = set()
        for index, m in enumerate(messages):
            start, stop = m.dst_start, m.dst_start + m.count
            if self._receives(m) and (m.row.reduce or any(a < stop and start < b for a, b in reads)):
                staged.add(index)
        return staged

    def _inboxes(self) -> tuple[int, int]:
        """The sizes of the two inboxes that steps use in turn, so that one fills while the other is emptied."""
        needs = [
            sum(messages[index].count for index in staged)
            for (_, messages), staged in zip(self.steps, self.staged, strict=True)
            if staged
        ]
        return max(needs[::2], default=0), max(needs[1::2], default=0)

    def _add(self, kind: Kind, step: int, start: int, count: int, before: set[int], **more: Any) -> None:
        after = tuple(sorted(before))
        self.operations.append(Operation(kind, step, start, start + count, after=after, **more))

    def run(self) -> tuple[Operation, ...]:
        """All operations, each after those it depends on."""
        inboxes = cycle((self.layout.length, self.layout.length + self.inboxes[0]))
        for (number, messages), staged in zip(self.steps, self.staged, strict=True):
            for m in messages:
                if m.row.src == self.rank != m.row.dst:
                    self._send(number, m)
            for m in messages:
                if m.row.src == m.row.dst:
                    self._take(number, m, m.src_start)
            free = next(inboxes) if staged else 0
            places = {}
            for index, m in enumerate(messages):
                if index in staged:
                    places[index], free = free, free + m.count
                if self._receives(m):
                    self._receive(number, m, places.get(index, m.dst_start))
            for index, place in places.items():
                self._take(number, messages[index], place)
        return tuple(self.operations)

    def _send(self, step: int, m: _Message) -> None:
        for offset, count in m.segments(self.segment):
            start = m.src_start + offset
            before = self.hazards.read(len(self.operations), start, start + count)
            self._add(Kind.SEND, step, start, count, before, peer=m.row.dst)

    def _receive(self, step: int, m: _Message, place: int) -> None:
        for offset, count in m.segments(self.segment):
            start = place + offset
            before = self.hazards.write(len(self.operations), start, start + count)
            self._add(Kind.RECV, step, start, count, before, peer=m.row.src)

    def _take(self, step: int, m: _Message, operand: int) -> None:
        """Reduce or copy what lies at `operand` into its place."""
        kind = Kind.REDUCE if m.row.reduce else Kind.COPY
        for offset, count in m.segments(self.segment):
            start, taken = m.dst_start + offset, operand + offset
            number = len(self.operations)
            before = self.hazards.read(number, taken, taken + count)
            before |= self.hazards.write(number, start, start + count)
            first = m.row.src < m.row.dst
            self._add(kind, step, start, count, before, peer=m.row.src, operand=taken, incoming_first=first)


def lower(schedule: Schedule, rank: int, layout: Layout, segment: int) -> Program:
    """The program of `rank`.

    Args:
        schedule: a verified schedule.
        rank: whose part to take.
        layout: where the chunks lie.
        segment: elements of a segment; messages are cut into segments of this size.

    Raises: ValueError for a rank outside the schedule or a segment below 1.
    """
    if not 0 <= rank < schedule.size:
        raise ValueError(f"{schedule.name} is for ranks 0..{schedule.size - 1}; there is no rank {rank} in it.")
    if segment < 1:
        raise ValueError(f"a segment needs at least 1 element, not {segment}.")
    lowering = _Lowering(schedule, rank, layout, segment)
    return Program(schedule, rank, layout, sum(lowering.inboxes), lowering.run())


class Act(Enum):
    """What a driver does with an operation; REDUCE and COPY are done at once, messages are started and waited for."""

    START = "start"
    WAIT = "wait"
    DO = "do"


def in_order(operations: tuple[Operation, ...]) -> list[tuple[Act, int]]:
    """One good order for a driver that does one thing after the other: (what to do, number of the operation).

    Messages start as soon as what they need is complete, receives before sends; the driver waits only where the next
    reduction, or a message that would reuse a range, cannot go on without. No rank waits for anything that its peer
    would start only after a later step, so programs made from one schedule cannot deadlock.
    """
    missing = [len(op.after) for op in operations]
    unblocks: list[list[int]] = [[] for _ in operations]
    queues: dict[tuple[Kind, int], list[int]] = {}
    for number, op in enumerate(operations):
        for dependency in op.after:
            unblocks[dependency].append(number)
        if op.kind in (Kind.SEND, Kind.RECV):
            queues.setdefault((op.kind, op.peer), []).append(number)
    heads = dict.fromkeys(queues, 0)
    position = {number: i for numbers in queues.values() for i, number in enumerate(numbers)}
    startable: list[tuple[int, bool, int]] = []
    started, complete = [False] * len(operations), [False] * len(operations)
    order: list[tuple[Act, int]] = []

    def offer(number: int) -> None:
        """Put a message on the heap if nothing keeps it: dependencies, or an earlier message of the pair."""
        op = operations[number]
        key = (op.kind, op.peer)
        if op.kind in (Kind.SEND, Kind.RECV) and not missing[number] and position[number] == heads[key]:
            heapq.heappush(startable, (op.step, op.kind is Kind.SEND, number))

    def start_all() -> None:
        while startable:
            number = heapq.heappop(startable)[2]
            order.append((Act.START, number))
            started[number] = True
            key = (operations[number].kind, operations[number].peer)
            heads[key] += 1
            if heads[key] < len(queues[key]):
                offer(queues[key][heads[key]])

    def finish(act: Act, number: int) -> None:
        order.append((act, number))
        started[number] = complete[number] = True
        for waiting in unblocks[number]:
            missing[waiting] -= 1
            offer(waiting)
        start_all()

    for numbers in queues.values():
        offer(numbers[0])
    start_all()
    for number, op in enumerate(operations):
        for dependency in op.after:
            if not started[number] and not complete[dependency]:
                finish(Act.WAIT, dependency)
        if not started[number]:
            finish(Act.DO, number)
    for number, done in enumerate(complete):
        if not done:
            order.append((Act.WAIT, number))
    return order
