"""A collective algorithm as data: for all ranks at once, which chunk moves from whom to whom in which step.

Because a schedule is written for all ranks, a send without its receive cannot be expressed. Nothing here knows
MPI or a buffer: chunks are numbers, and only a `Layout` turns them into elements.

Words: a *step* is a set of transfers that may run together, all reading the state before the step; a *transfer*
(one row of a step, one message) moves `count` neighbouring *chunks*. Chunks 0 .. chunks-1 are near-equal parts of
the buffer that holds the result; a collective that must not touch what it reads (all-to-all) numbers the chunks
of its input from `chunks` on.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Transfer:
    """One message: `count` chunks from rank `src` to rank `dst`, added to what `dst` holds or overwriting it."""

    src: int
    dst: int
    src_chunk: int
    dst_chunk: int
    count: int
    reduce: bool

    def __str__(self) -> str:
        def span(first: int) -> str:
            return f"c{first}" if self.count == 1 else f"c{first}..{first + self.count - 1}"

        where = span(self.src_chunk)
        if self.src_chunk != self.dst_chunk:
            where += f"=>{span(self.dst_chunk)}"
        return f"{self.src}->{self.dst} {where}{'+' if self.reduce else ''}"


@dataclass(frozen=True)
class Rows:
    """Transfers as columns, each an array of the same length: the fields of `Transfer`."""

    src: Ints
    dst: Ints
    src_chunk: Ints
    dst_chunk: Ints
    count: Ints
    reduce: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        src: ArrayLike,
        dst: ArrayLike,
        chunk: ArrayLike,
        *,
        reduce: ArrayLike,
        count: ArrayLike = 1,
        dst_chunk: ArrayLike | None = None,
    ) -> Rows:
        """Build rows from columns that broadcast together; `dst_chunk` is `chunk` unless given."""
        columns = (src, dst, chunk, chunk if dst_chunk is None else dst_chunk, count)
        s, d, sc, dc, n, add = np.broadcast_arrays(*(np.atleast_1d(np.asarray(c, np.int64)) for c in columns), reduce)
        return cls(s, d, sc, dc, n, add.astype(bool))

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        """All rows of all parts, in order."""
        if not parts:
            return NO_ROWS
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate(columns) for columns in zip(*(p.columns for p in parts), strict=True)))

    @property
    def columns(self) -> tuple[NDArray, ...]:
        """The six columns, in the order of `Transfer`."""
        return (self.src, self.dst, self.src_chunk, self.dst_chunk, self.count, self.reduce)

    def __len__(self) -> int:
        return len(self.src)

    def __iter__(self) -> Iterator[Transfer]:
        return (Transfer(*row) for row in zip(*(c.tolist() for c in self.columns), strict=True))

    def select(self, which: NDArray | slice) -> Rows:
        """The rows that a mask or an index array picks."""
        return Rows(*(column[which] for column in self.columns))

    def mirrored(self) -> Rows:
        """The same transfers backwards, overwriting."""
        return Rows(self.dst, self.src, self.dst_chunk, self.src_chunk, self.count, np.zeros_like(self.reduce))


NO_ROWS = Rows.of([], [], [], reduce=[])


@dataclass(frozen=True)
class Step:
    """Transfers that may run together, made when asked for.

    `make(None)` gives all rows; `make(rank)` may give fewer, but all in which `rank` sends or receives, so that a
    rank of a large world pays for its own rows only.

    Steps of a schedule that have one `pattern`, which is not None, move as many chunks between the same ranks and
    differ in which: who counts and prices looks at one of them (a test holds each algorithm to it).
    """

    make: Callable[[int | None], Rows]
    pattern: Hashable = None

    @classmethod
    def of(cls, rows: Rows) -> Step:
        """A step of rows that exist already."""
        return cls(lambda rank: rows)

    def rows(self) -> Rows:
        """All transfers of the step."""
        return self.make(None)

    def rows_of(self, rank: int) -> Rows:
        """The transfers in which `rank` sends or receives."""
        rows = self.make(rank)
        return rows.select((rows.src == rank) | (rows.dst == rank))

    def __str__(self) -> str:
        return "  ".join(map(str, self.rows())) or "-"


@dataclass(frozen=True)
class Contract:
    """What holds before and after a schedule.

    kind            before                                  after
    allreduce       each rank has its own contribution      each rank has the sum of all in every chunk
    reduce_scatter  the same                                rank owner[c] has the sum of all in chunk c
    allgather       rank owner[c] has chunk c               each rank has every chunk
    alltoall        input chunk d of rank s is for rank d   chunk s of rank d is what s had for d

    With one owner for all chunks, reduce_scatter is MPI's reduce and allgather is MPI's bcast.
    """

    kind: str
    owner: Any = field(default=None, compare=False)  # Ints, or None where no chunk is anybody's


ALLREDUCE = Contract("allreduce")
ALLTOALL = Contract("alltoall")


def reduce_scatter_to(owner: ArrayLike) -> Contract:
    """The contract of a reduce-scatter that leaves chunk c at rank `owner[c]`."""
    return Contract("reduce_scatter", np.asarray(owner, np.int64))


def allgather_from(owner: ArrayLike) -> Contract:
    """The contract of an all-gather that finds chunk c at rank `owner[c]`."""
    return Contract("allgather", np.asarray(owner, np.int64))


@dataclass(frozen=True)
class Schedule:
    """Steps for `size` ranks over a buffer cut into `chunks`, and the contract they keep.

    `alike` promises that every rank sends and receives as much as every other in each step, so that counting and
    pricing need look at one rank only (a test holds each algorithm to the promise).
    """

    name: str
    size: int
    chunks: int
    steps: Sequence[Step]
    contract: Contract = ALLREDUCE
    input_chunks: int = 0
    alike: bool = False

    @property
    def all_chunks(self) -> int:
        """How many chunk numbers there are: those of the buffer, then those of the input."""
        return self.chunks + self.input_chunks

    def rows_of(self, rank: int) -> Iterator[tuple[int, Rows]]:
        """(step number, rows of `rank`) for each step in which `rank` has any."""
        for number, step in enumerate(self.steps):
            rows = step.rows_of(rank)
            if len(rows):
                yield number, rows

    def text(self, guilty: int | None = None) -> str:
        """One line per step; `c2+` adds chunk 2 to what the receiver holds, `c2` overwrites it."""
        width = len(str(max(0, len(self.steps) - 1)))
        lines = [f"{self.name}: {self.size} ranks, {self.chunks} chunks, {len(self.steps)} steps"]
        for number, step in enumerate(self.steps):
            here = "   <-- here" if number == guilty else ""
            lines.append(f"{number:>{width}}: {step}{here}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text()
