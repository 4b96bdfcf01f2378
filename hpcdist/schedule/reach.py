"""What changes where ranks reach each other's memory: transfers among them are reads and writes, between barriers.

A transfer that adds is done by its receiver, which reads the sender's memory; one that overwrites is done by its
sender, which writes the receiver's. A barrier is needed wherever a rank touches what another one has written, or
writes what another one has read, since the last barrier. The run begins as if every rank had just written all that it
has, and ends as if it were to write all of it next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hpcdist.schedule.ir import Ints, Rows, Schedule

NOBODY = -1
NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Reach:
    """What some ranks of a schedule do when they reach each other's memory.

    Attributes:
        ranks: these ranks, in their order.
        barriers: the steps before which they have a barrier; after the last one if the number of steps is among them.
        boxed: the steps that read what they overwrite: all is copied aside, and put in its place after a barrier.
        first_write: [rank of these, chunk] the step that is the first to write there; NEVER if none does.
        input_is_read: whether each range that is moved is either all as the rank contributed it or all written before,
            so that contributions can be read from another array than the result's.
    """

    ranks: tuple[int, ...] = ()
    barriers: frozenset[int] = frozenset()
    boxed: frozenset[int] = frozenset()
    first_write: Ints = field(default_factory=lambda: np.empty((0, 0), np.int64))
    input_is_read: bool = False

    def inside(self, src: int, dst: int) -> bool:
        """Whether a transfer is a read or a write, and no message."""
        return src in self.ranks and dst in self.ranks


def reach(schedule: Schedule, ranks: Sequence[int]) -> Reach:
    """What `ranks` do if they reach each other's memory. Looks at all their rows.

    Raises: ValueError for a schedule with an input of its own.
    """
    if schedule.input_chunks:
        raise ValueError(f"{schedule.name} has an input of its own, which ranks cannot read from each other.")
    return _Analysis(schedule, sorted(ranks)).run()


class _Analysis:
    """Goes through the steps, and remembers who has touched each cell, a chunk of a rank, since the last barrier."""

    def __init__(self, schedule: Schedule, ranks: list[int]) -> None:
        self.schedule, self.ranks = schedule, ranks
        self.index = np.full(schedule.size, NOBODY)  # of a rank among these
        self.index[ranks] = np.arange(len(ranks))
        self.owner = np.repeat(np.arange(len(ranks)), schedule.chunks)  # of each cell
        self.writer = self.owner.copy()
        self.readers = np.empty((2, len(self.owner)), np.int64)  # the first and the last of them
        self._forget_readers()
        self.first_write = np.full_like(self.owner, NEVER)
        self.input_is_read = True
        self.barriers: set[int] = set()
        self.boxed: set[int] = set()

    def run(self) -> Reach:
        """All steps, and the end."""
        for number, step in enumerate(self.schedule.steps):
            rows = Rows.concatenate([step.rows_of(rank) for rank in self.ranks])
            if len(rows):
                self._step(number, rows)
        if self._is_touched(np.arange(len(self.owner)), self.owner):
            self.barriers.add(len(self.schedule.steps))
        first_write = self.first_write.reshape(len(self.ranks), -1)
        return Reach(
            tuple(self.ranks), frozenset(self.barriers), frozenset(self.boxed), first_write, self.input_is_read
        )

    def _step(self, number: int, rows: Rows) -> None:
        src, dst = self.index[rows.src], self.index[rows.dst]
        inside = (src != NOBODY) & (dst != NOBODY)
        sent, source = self._cells(src, rows.src_chunk, rows.count)
        received, target = self._cells(dst, rows.dst_chunk, rows.count)
        added = rows.reduce[received]
        self._look_at_input(number, sent, source)
        self._look_at_input(number, received[added], target[added])
        boxed = bool(inside.any() and np.isin(source, target).any())
        by_receiver = inside & (rows.reduce | boxed)
        reader, writer = np.where(by_receiver, dst, src)[sent], np.where(inside & ~by_receiver, src, dst)[received]
        if self._is_written(source, reader) or (not boxed and self._is_touched(target, writer)):
            self.barriers.add(number)
            self._forget()
        if boxed:
            self.boxed.add(number)
            self._forget()
        else:
            np.minimum.at(self.readers[0], source, reader)
            np.maximum.at(self.readers[1], source, reader)
        self.writer[target] = writer
        self.first_write[target] = np.minimum(self.first_write[target], number)

    def _cells(self, index: Ints, first: Ints, count: Ints) -> tuple[Ints, Ints]:
        """(rows, cells): each cell that the rows touch at one end, with the number of the row."""
        each = np.repeat(np.arange(len(index)), count)
        offset = np.arange(len(each)) - np.repeat(np.cumsum(count) - count, count)
        here = index[each] != NOBODY
        cells = index[each] * self.schedule.chunks + first[each] + offset
        return each[here], cells[here]

    def _look_at_input(self, number: int, rows: Ints, cells: Ints) -> None:
        """See whether what each row reads is all untouched so far, or all written."""
        touched = self.first_write[cells] < number
        written, read = (np.bincount(rows, weights) for weights in (touched, None))
        self.input_is_read &= bool(((written == 0) | (written == read)).all())

    def _is_written(self, cells: Ints, by: Ints) -> bool:
        """Whether another rank has written any of the cells."""
        written_by = self.writer[cells]
        return bool(((written_by != NOBODY) & (written_by != by)).any())

    def _is_touched(self, cells: Ints, by: Ints) -> bool:
        """Whether another rank has read or written any of the cells."""
        first, last = self.readers[:, cells]
        return self._is_written(cells, by) or bool(((first < by) | (last > by)).any())

    def _forget(self) -> None:
        """After a barrier."""
        self.writer[:] = NOBODY
        self._forget_readers()

    def _forget_readers(self) -> None:
        self.readers[0], self.readers[1] = NEVER, NOBODY
