"""From a schedule to one rank's program: messages cut into segments, and what must be complete before what.

What an operation depends on is found from the ranges that each reads and writes, so that with segments the reduction
of one, the receive of the next and the forwarding of the previous overlap, across steps, without changing what a step
means.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, pairwise
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpcdist.schedule.ir import NO_ROWS, Rows, Schedule, Transfer
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.program import HERE, Kind, Operation, Place, Program
from hpcdist.schedule.reach import NEVER, Reach

NOBODY_REACHED = Reach()

T = TypeVar("T")


@dataclass
class _Hazards:
    """Which operations last wrote, and have since read, each part of a rank's memory."""

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

    def is_written(self, start: int, stop: int) -> bool:
        """Whether anything has written there."""
        return any(self.writer[part] is not None for part in self._parts(start, stop))

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

    def __init__(
        self, schedule: Schedule, rank: int, layout: Layout, segments: Sequence[int], staged: bool, reach: Reach
    ) -> None:
        self.schedule, self.rank, self.layout, self.segments, self.staged = schedule, rank, layout, segments, staged
        self.reach = reach
        rows_of = dict(schedule.rows_of(rank))
        numbers = sorted({*rows_of, *reach.barriers})
        self.steps = [(number, self._messages(rows_of.get(number, NO_ROWS))) for number in numbers]
        self.incoming = [self._incoming(number, messages) for number, messages in self.steps]
        self.outgoing = [self._outgoing(messages) for _, messages in self.steps]
        self.inboxes, self.outboxes = _two_boxes(self.incoming), _two_boxes(self.outgoing)
        self.hazards: dict[int, _Hazards] = defaultdict(_Hazards)  # by whose memory it is
        self.operations: list[Operation] = []
        self.barrier: int | None = None  # the last one
        self.average = False
        self.sums: dict[int, NDArray[np.bool_]] = {}

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

    def _is_sent(self, m: _Message) -> bool:
        return m.row.src != m.row.dst and not self.reach.inside(m.row.src, m.row.dst)

    def _sends(self, m: _Message) -> bool:
        return m.row.src == self.rank and self._is_sent(m)

    def _receives(self, m: _Message) -> bool:
        return m.row.dst == self.rank and self._is_sent(m)

    def _incoming(self, number: int, messages: list[_Message]) -> dict[int, int]:
        """Which messages of a step cannot be received in place, with their counts; when staged, none can.

        Nor can those to be reduced, and those whose place is still read: receiving over what the same step sends would
        have to wait for the send, and the peer, doing the same, for ours.
        """
        reads = [(m.src_start, m.src_start + m.count) for m in messages if m.row.src == self.rank]
        boxed = {}
        for index, m in enumerate(messages):
            start, stop = m.dst_start, m.dst_start + m.count
            unfit = self.staged or m.row.reduce or any(a < stop and start < b for a, b in reads)
            if (self._receives(m) and unfit) or (number in self.reach.boxed and m.row.dst == self.rank):
                boxed[index] = m.count
        return boxed

    def _outgoing(self, messages: list[_Message]) -> dict[tuple[int, int], int]:
        """The ranges of a step that are copied out to be sent, with their counts: once, if they go to several ranks."""
        return {(m.src_start, m.count): m.count for m in messages if self.staged and self._sends(m)}

    def run(self, average: bool) -> tuple[Operation, ...]:
        """All operations, each after those it depends on."""
        self.average = average and self.schedule.size > 1
        inbox = self.layout.length
        outbox = inbox + sum(self.inboxes)
        inboxes, outboxes = cycle((inbox, inbox + self.inboxes[0])), cycle((outbox, outbox + self.outboxes[0]))
        self.sums = self._sums() if self.average else {}
        for (number, messages), incoming, outgoing in zip(self.steps, self.incoming, self.outgoing, strict=True):
            if number in self.reach.barriers:
                self._barrier(number)
            self._send_all(number, messages, _places(outgoing, outboxes))
            places = _places(incoming, inboxes)
            for index, m in enumerate(messages):
                if self._receives(m):
                    self._receive(number, m, places.get(index, m.dst_start))
            if number in self.reach.boxed:
                self._fetch(number, messages, places)
            else:
                self._exchange(number, messages)
            for index, place in places.items():
                self._take(number, messages[index], Place(HERE, place))
            self._divide(number, 0, self.schedule.chunks)
        self._copy_the_rest()
        return tuple(self.operations)

    # --- messages ---

    def _send_all(self, step: int, messages: list[_Message], places: dict[tuple[int, int], int]) -> None:
        """The messages that a step sends, from where they lie or from their copies in the outbox."""
        sent = [m for m in messages if self._sends(m)]
        first_of = {(m.src_start, m.count): m for m in reversed(sent)}
        for source, place in places.items():
            m = first_of[source]
            self._work(Kind.COPY, step, m, Place(HERE, place), [self._source(step, m)], m.row.dst)
        for m in sent:
            copied = places.get((m.src_start, m.count))
            self._send(step, m, self._source(step, m).start if copied is None else copied)

    def _cut(self, m: _Message) -> Iterator[tuple[int, int]]:
        """(offset, count) of each segment, as its peer has them; what is no message is not cut, if anything is none."""
        if self.reach.inside(m.row.src, m.row.dst):
            return m.cut(m.count)
        return m.cut(self.segments[m.row.dst if m.row.src == self.rank else m.row.src])

    def _send(self, step: int, m: _Message, place: int) -> None:
        for offset, count in self._cut(m):
            start = place + offset
            before = self.hazards[HERE].read(len(self.operations), start, start + count)
            self._add(Kind.SEND, step, start, count, before, peer=m.row.dst)

    def _receive(self, step: int, m: _Message, place: int) -> None:
        for offset, count in self._cut(m):
            start = place + offset
            before = self.hazards[HERE].write(len(self.operations), start, start + count)
            self._add(Kind.RECV, step, start, count, before, peer=m.row.src)

    def _take(self, step: int, m: _Message, operand: Place) -> None:
        """Reduce or copy what lies at `operand` into its place."""
        target, operands = Place(HERE, m.dst_start), [operand]
        if m.row.reduce:
            mine = self._mine(step, m)
            operands = [operand, mine] if m.row.src < m.row.dst else [mine, operand]
        self._work(Kind.REDUCE if m.row.reduce else Kind.COPY, step, m, target, operands, m.row.src)

    # --- memory of others ---

    def _source(self, step: int, m: _Message) -> Place:
        """Where a message is read."""
        if self.reach.ranks and m.row.src in self.reach.ranks:
            return self._read_at(step, m.row.src, m.row.src_chunk)
        return Place(HERE, m.src_start)

    def _mine(self, step: int, m: _Message) -> Place:
        """Where what a rank adds to is read; once it has added, in the result."""
        if self.hazards[HERE].is_written(m.dst_start, m.dst_start + m.count):
            return Place(HERE, m.dst_start)
        return self._read_at(step, self.rank, m.row.dst_chunk)

    def _read_at(self, step: int, rank: int, chunk: int) -> Place:
        """Where the chunks of a rank are read: in its input as long as nobody has written them, if there is one."""
        here = HERE if rank == self.rank else rank
        start = self.layout.start
        if self.layout.input_chunks and self.reach.ranks:
            written = self.reach.first_write[self.reach.ranks.index(rank), chunk]
            return Place(here, start(self.layout.chunks + chunk) if written >= step else start(chunk))
        return Place(here, start(chunk))

    def _exchange(self, step: int, messages: list[_Message]) -> None:
        """Write what others get, and reduce what they have, in the order of the ranks."""
        sums: dict[tuple[int, int], list[_Message]] = {}
        for m in messages:
            if self._is_sent(m):
                continue
            if m.row.src == m.row.dst:
                self._take(step, m, self._source(step, m))
            elif not m.row.reduce and m.row.src == self.rank:
                self._work(Kind.COPY, step, m, Place(m.row.dst, m.dst_start), [self._source(step, m)], m.row.dst)
            elif m.row.reduce and m.row.dst == self.rank:
                sums.setdefault((m.dst_start, m.count), []).append(m)
        for group in sums.values():
            m = group[0]
            operands = sorted(
                [(self.rank, self._mine(step, m)), *((each.row.src, self._source(step, each)) for each in group)]
            )
            self._work(Kind.REDUCE, step, m, Place(HERE, m.dst_start), [place for _, place in operands], m.row.src)
            if not any(self._receives(m) for m in messages) and _are_apart(sums):
                self._divide(step, m.row.dst_chunk, m.row.dst_chunk + m.row.count)

    def _fetch(self, step: int, messages: list[_Message], places: dict[int, int]) -> None:
        """Copy what others have aside, before anybody overwrites it."""
        for index, m in enumerate(messages):
            if m.row.dst == self.rank and not self._is_sent(m):
                self._work(Kind.COPY, step, m, Place(HERE, places[index]), [self._source(step, m)], m.row.src)
        self._barrier(step)

    def _barrier(self, step: int) -> None:
        """What comes before it is complete when it begins, and all that comes later waits for it."""
        since = range(self.barrier or 0, len(self.operations))
        self._add(Kind.BARRIER, step, 0, 0, set(since))
        self.barrier = len(self.operations) - 1

    def _copy_the_rest(self) -> None:
        """From an input of its own, what nobody has written in the result."""
        if not (self.reach.ranks and self.layout.input_chunks):
            return
        written = self.reach.first_write[self.reach.ranks.index(self.rank)] != NEVER
        for chunk in (~written).nonzero()[0].tolist():
            start, stop = self.layout.start(chunk), self.layout.start(chunk + 1)
            if start < stop:
                m = _Message(Transfer(self.rank, self.rank, chunk, chunk, 1, False), start, start, stop - start)
                last = len(self.schedule.steps)
                self._work(Kind.COPY, last, m, Place(HERE, start), [self._source(last, m)], self.rank)

    # --- averages ---

    def _sums(self) -> dict[int, NDArray[np.bool_]]:
        """After which steps which chunks hold a sum of this rank's that is complete and stays, and is to be divided."""
        chunks = self.schedule.chunks
        last, adds = np.full(chunks, -1), np.zeros(chunks, bool)
        for number, messages in self.steps:
            for m in messages:
                if m.row.dst == self.rank:
                    written = slice(m.row.dst_chunk, m.row.dst_chunk + m.row.count)
                    last[written], adds[written] = number, m.row.reduce
        owner = self.schedule.contract.owner
        adds &= True if owner is None else np.asarray(owner) == self.rank
        return {number: adds & (last == number) for number in set(last[adds].tolist())}

    def _divide(self, step: int, first: int, end: int) -> None:
        """Divide what this step has completed of these chunks; no segment of a message waits for more than its own."""
        if step not in self.sums:
            return
        wanted = self.sums[step][first:end]
        edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False)) + first
        for run, behind in edges.reshape(-1, 2).tolist():
            start, stop = self.layout.start(run), self.layout.start(behind)
            for at, count in self._pieces(stop - start):
                before = self.hazards[HERE].write(len(self.operations), start + at, start + at + count)
                self._add(Kind.DIVIDE, step, start + at, count, before)
        wanted[:] = False

    def _pieces(self, count: int) -> Iterator[tuple[int, int]]:
        segment = count if self.reach.ranks else min(self.segments)
        for offset in range(0, count, segment or 1):
            yield offset, min(segment, count - offset)

    # --- operations ---

    def _work(self, kind: Kind, step: int, m: _Message, target: Place, operands: Sequence[Place], peer: int) -> None:
        """Put the elements at the operands, combined, into those at `target`."""
        for offset, count in self._cut(m):
            number = len(self.operations)
            before: set[int] = set()
            places = tuple(Place(rank, start + offset) for rank, start in operands)
            for rank, start in places:
                before |= self.hazards[rank].read(number, start, start + count)
            start = target.start + offset
            before |= self.hazards[target.rank].write(number, start, start + count)
            self._add(kind, step, start, count, before, peer=peer, operands=places, owner=target.rank)

    def _add(self, kind: Kind, step: int, start: int, count: int, before: set[int], **more: Any) -> None:
        if self.barrier is not None:
            before.add(self.barrier)
        after = tuple(sorted(before))
        self.operations.append(Operation(kind, step, start, start + count, after=after, **more))


def _are_apart(ranges: Iterable[tuple[int, int]]) -> bool:
    """Whether no two of these (start, count) have elements in common."""
    return all(start + count <= behind for (start, count), (behind, _) in pairwise(sorted(ranges)))


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


def lower(
    schedule: Schedule,
    rank: int,
    layout: Layout,
    segment: int | Sequence[int],
    staged: bool = False,
    *,
    average: bool = False,
    reachable: Reach = NOBODY_REACHED,
    reads_input: bool = False,
) -> Program:
    """The program of `rank`.

    Args:
        schedule: a verified schedule.
        rank: whose part to take.
        layout: where the chunks lie.
        segment: elements of a segment; messages are cut into segments of this size. One for each peer, if there are
            several, and what two ranks send each other must be cut alike by both.
        staged: whether every message goes through inbox and outbox: what is sent is copied out first, and what is
            received is copied, or reduced, from the inbox.
        average: whether sums are divided by the number of ranks.
        reachable: the ranks that reach each other's memory, see `schedule.reach`; this one is among them, or there
            are none.
        reads_input: whether these read what each contributes from an input of its own, which is as long as the buffer
            and is left as it is. Where the schedule does not allow that, the program does not: see `Program`.

    Raises: ValueError for a rank outside the schedule or a segment below 1.
    """
    if not 0 <= rank < schedule.size:
        raise ValueError(f"{schedule.name} is for ranks 0..{schedule.size - 1}; there is no rank {rank} in it.")
    segments = [segment] * schedule.size if isinstance(segment, int) else segment
    if min(segments) < 1:
        raise ValueError(f"a segment needs at least 1 element, not {min(segments)}.")
    reads_input = reads_input and reachable.input_is_read
    if reads_input:
        layout = replace(layout, input_chunks=layout.chunks, input_count=layout.count)
    lowering = _Lowering(schedule, rank, layout, segments, staged, reachable)
    inbox, outbox = sum(lowering.inboxes), sum(lowering.outboxes)
    operations = lowering.run(average)
    return Program(
        schedule, rank, layout, inbox, operations, outbox, staged, average, reachable.ranks, reads_input=reads_input
    )
