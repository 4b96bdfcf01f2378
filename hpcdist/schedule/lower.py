"""From a schedule to one rank's program: messages cut into segments, and what must be complete before what.

What an operation depends on is found from the ranges that each reads and writes, so that with segments the reduction
of one, the receive of the next and the forwarding of the previous overlap, across steps, without changing what a step
means.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, TypeVar

from hpcdist.schedule.ir import Rows, Schedule, Transfer
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.program import Kind, Operation, Program

T = TypeVar("T")


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

    def cut(self, segment: int) -> Iterator[tuple[int, int]]:
        """(offset, count) of each segment; both ends cut alike, since both know the count."""
        for offset in range(0, self.count, segment):
            yield offset, min(segment, self.count - offset)


class _Lowering:
    """Builds the operations of one rank, step by step."""

    def __init__(self, schedule: Schedule, rank: int, layout: Layout, segments: Sequence[int], staged: bool) -> None:
        self.rank, self.layout, self.segments, self.staged = rank, layout, segments, staged
        self.steps = [(number, self._messages(rows)) for number, rows in schedule.rows_of(rank)]
        self.incoming = [self._incoming(messages) for _, messages in self.steps]
        self.outgoing = [self._outgoing(messages) for _, messages in self.steps]
        self.inboxes, self.outboxes = _two_boxes(self.incoming), _two_boxes(self.outgoing)
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

    def _sends(self, m: _Message) -> bool:
        return m.row.src == self.rank != m.row.dst

    def _receives(self, m: _Message) -> bool:
        return m.row.dst == self.rank != m.row.src

    def _incoming(self, messages: list[_Message]) -> dict[int, int]:
        """Which messages of a step cannot be received in place, with their counts; when staged, none can.

        Nor can those to be reduced, and those whose place is still read: receiving over what the same step sends would
        have to wait for the send, and the peer, doing the same, for ours.
        """
        reads = [(m.src_start, m.src_start + m.count) for m in messages if m.row.src == self.rank]
        boxed = {}
        for index, m in enumerate(messages):
            start, stop = m.dst_start, m.dst_start + m.count
            unfit = self.staged or m.row.reduce or any(a < stop and start < b for a, b in reads)
            if self._receives(m) and unfit:
                boxed[index] = m.count
        return boxed

    def _outgoing(self, messages: list[_Message]) -> dict[tuple[int, int], int]:
        """The ranges of a step that are copied out to be sent, with their counts: once, if they go to several ranks."""
        return {(m.src_start, m.count): m.count for m in messages if self.staged and self._sends(m)}

    def run(self) -> tuple[Operation, ...]:
        """All operations, each after those it depends on."""
        inbox = self.layout.length
        outbox = inbox + sum(self.inboxes)
        inboxes, outboxes = cycle((inbox, inbox + self.inboxes[0])), cycle((outbox, outbox + self.outboxes[0]))
        for (number, messages), incoming, outgoing in zip(self.steps, self.incoming, self.outgoing, strict=True):
            self._send_all(number, messages, _places(outgoing, outboxes))
            for m in messages:
                if m.row.src == m.row.dst:
                    self._take(number, m, m.src_start)
            places = _places(incoming, inboxes)
            for index, m in enumerate(messages):
                if self._receives(m):
                    self._receive(number, m, places.get(index, m.dst_start))
            for index, place in places.items():
                self._take(number, messages[index], place)
        return tuple(self.operations)

    def _send_all(self, step: int, messages: list[_Message], places: dict[tuple[int, int], int]) -> None:
        """The messages that a step sends, from where they lie or from their copies in the outbox."""
        sent = [m for m in messages if self._sends(m)]
        first_of = {(m.src_start, m.count): m for m in reversed(sent)}
        for source, place in places.items():
            self._work(Kind.COPY, step, first_of[source], place, source[0], first_of[source].row.dst)
        for m in sent:
            self._send(step, m, places.get((m.src_start, m.count), m.src_start))

    def _cut(self, m: _Message) -> Iterator[tuple[int, int]]:
        """(offset, count) of each segment, as its peer has them; a copy of its own is cut as any."""
        return m.cut(self.segments[m.row.dst if m.row.src == self.rank else m.row.src])

    def _send(self, step: int, m: _Message, place: int) -> None:
        for offset, count in self._cut(m):
            start = place + offset
            before = self.hazards.read(len(self.operations), start, start + count)
            self._add(Kind.SEND, step, start, count, before, peer=m.row.dst)

    def _receive(self, step: int, m: _Message, place: int) -> None:
        for offset, count in self._cut(m):
            start = place + offset
            before = self.hazards.write(len(self.operations), start, start + count)
            self._add(Kind.RECV, step, start, count, before, peer=m.row.src)

    def _take(self, step: int, m: _Message, operand: int) -> None:
        """Reduce or copy what lies at `operand` into its place."""
        self._work(Kind.REDUCE if m.row.reduce else Kind.COPY, step, m, m.dst_start, operand, m.row.src)

    def _work(self, kind: Kind, step: int, m: _Message, place: int, operand: int, peer: int) -> None:
        """Put the elements at `operand` into, or add them to, those at `place`."""
        for offset, count in self._cut(m):
            start, taken = place + offset, operand + offset
            number = len(self.operations)
            before = self.hazards.read(number, taken, taken + count)
            before |= self.hazards.write(number, start, start + count)
            first = m.row.src < m.row.dst
            self._add(kind, step, start, count, before, peer=peer, operand=taken, incoming_first=first)

    def _add(self, kind: Kind, step: int, start: int, count: int, before: set[int], **more: Any) -> None:
        after = tuple(sorted(before))
        self.operations.append(Operation(kind, step, start, start + count, after=after, **more))


def _two_boxes(wanted: Sequence[dict[Any, int]]) -> tuple[int, int]:
    """The sizes of two boxes that steps use in turn, so that one fills while the other is emptied."""
    needs = [sum(counts.values()) for counts in wanted if counts]
    return max(needs[::2], default=0), max(needs[1::2], default=0)


def _places(wanted: dict[T, int], boxes: Iterator[int]) -> dict[T, int]:
    """Where in the next box each count has its room; a step that wants none leaves the box to the next."""
    free = next(boxes) if wanted else 0
    places = {}
    for key, count in wanted.items():
        places[key], free = free, free + count
    return places


def lower(schedule: Schedule, rank: int, layout: Layout, segment: int | Sequence[int], staged: bool = False) -> Program:
    """The program of `rank`.

    Args:
        schedule: a verified schedule.
        rank: whose part to take.
        layout: where the chunks lie.
        segment: elements of a segment; messages are cut into segments of this size. One for each peer, if there are
            several, and what two ranks send each other must be cut alike by both.
        staged: whether every message goes through inbox and outbox: what is sent is copied out first, and what is
            received is copied, or reduced, from the inbox.

    Raises: ValueError for a rank outside the schedule or a segment below 1.
    """
    if not 0 <= rank < schedule.size:
        raise ValueError(f"{schedule.name} is for ranks 0..{schedule.size - 1}; there is no rank {rank} in it.")
    segments = [segment] * schedule.size if isinstance(segment, int) else segment
    if min(segments) < 1:
        raise ValueError(f"a segment needs at least 1 element, not {min(segments)}.")
    lowering = _Lowering(schedule, rank, layout, segments, staged)
    inbox, outbox = sum(lowering.inboxes), sum(lowering.outboxes)
    return Program(schedule, rank, layout, inbox, lowering.run(), outbox, staged)
