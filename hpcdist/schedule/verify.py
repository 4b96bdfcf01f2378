"""The proof that a schedule keeps its contract: play it on symbols and look at what every rank ends with.

Each rank contributes a token of its own to each chunk, and a cell (rank, chunk) holds the sum of the tokens that came:
of each rank how many (0 is missing, 2 was added twice) and of which chunks. That is exact for every operation that is
commutative and associative. For large worlds the tokens are random 64-bit numbers instead of unit vectors, added modulo
2**64: every cell is still checked, and a wrong schedule passes with a chance below 2**-40.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.errors import ScheduleError
from hpcdist.schedule.ir import Ints, Rows, Schedule

EXACT_CELLS = 1 << 25  # counters up to which unit vectors are played
ONE = 1 << 16  # one token as a counter has it; the number of its chunk is added below


def verify(schedule: Schedule) -> None:
    """Prove that `schedule` is well formed and keeps its contract.

    Raises: ScheduleError with the schedule printed and the guilty step marked.
    """
    check_form(schedule)
    exact = schedule.size**2 * schedule.all_chunks <= EXACT_CELLS and schedule.all_chunks < ONE
    wrong = _wrong_cells(schedule, (_Tokens.exact if exact else _Tokens.random)(schedule.size, schedule.all_chunks))
    if len(wrong):
        _blame(schedule, *wrong[0].tolist())


def check_form(schedule: Schedule) -> None:
    """Check what no playing shows: ranks and chunks that exist, and no two writes of a step in one place.

    Raises: ScheduleError with the guilty step marked.
    """
    if schedule.size < 1 or schedule.chunks < 1:
        raise ScheduleError(f"{schedule.name} has {schedule.size} ranks and {schedule.chunks} chunks; 1 is the least.")
    for number, step in enumerate(schedule.steps):
        rows = step.rows()
        for bad, why in (
            (
                (rows.src < 0) | (rows.src >= schedule.size),
                f"sends from a rank outside 0..{schedule.size - 1}",
            ),
            ((rows.dst < 0) | (rows.dst >= schedule.size), f"sends to a rank outside 0..{schedule.size - 1}"),
            (rows.count < 1, "moves no chunk"),
            (_outside(schedule, rows.src_chunk, rows.count), "reads chunks that do not exist"),
            (_outside(schedule, rows.dst_chunk, rows.count), "writes chunks that do not exist"),
            (rows.dst_chunk >= schedule.chunks, "writes into the input"),
            ((rows.src == rows.dst) & (rows.src_chunk < schedule.chunks), "sends to itself"),
        ):
            if bad.any():
                raise _error(schedule, number, f"{next(iter(rows.select(bad)))} {why}")
        clash = _clash(schedule, rows)
        if clash is not None:
            rank, chunk = clash
            raise _error(schedule, number, f"rank {rank}'s chunk {chunk} is overwritten and written again in one step")


def _outside(schedule: Schedule, chunk: Ints, count: Ints) -> NDArray[np.bool_]:
    """Ranges that leave the buffer, or reach from the buffer into the input."""
    end = chunk + count
    return (chunk < 0) | (end > schedule.all_chunks) | ((chunk < schedule.chunks) & (end > schedule.chunks))


def _clash(schedule: Schedule, rows: Rows) -> tuple[int, int] | None:
    """A (rank, chunk) that one step writes more than once, other than by adding; None if there is none."""
    if rows.reduce.all():
        return None
    start = rows.dst * schedule.all_chunks + rows.dst_chunk
    order = np.argsort(start, kind="stable")
    start, end, reduce = start[order], (start + rows.count)[order], rows.reduce[order]
    reach = np.maximum.accumulate(end)
    reach_of_copies = np.maximum.accumulate(np.where(reduce, -1, end))
    meets = start[1:] < np.where(reduce[1:], reach_of_copies[:-1], reach[:-1])
    if not meets.any():
        return None
    rank, chunk = divmod(int(start[1:][meets][0]), schedule.all_chunks)
    return rank, chunk


@dataclass(frozen=True)
class _Tokens:
    """Rank r contributes unit[r] * mark[c] to chunk c, a vector of k numbers; unit: [size, k], mark: [chunks, 1]."""

    unit: NDArray
    mark: NDArray
    rubbish: int

    @classmethod
    def exact(cls, size: int, chunks: int) -> _Tokens:
        """A counter for each source, of tokens in its upper half; if that is 1, the lower half is the token's chunk."""
        return cls(np.eye(size, dtype=np.uint32), (np.arange(chunks, dtype=np.uint32) + ONE)[:, None], ONE * 0x7FFF)

    @classmethod
    def random(cls, size: int, chunks: int) -> _Tokens:
        """Two sums are equal by chance only if they are not made of the same tokens."""
        odd = np.random.default_rng(0).integers(1 << 63, size=(size + chunks + 1, 1), dtype=np.uint64) * 2 + 1
        return cls(odd[:size], odd[size : size + chunks], int(odd[-1, 0]))


def _wrong_cells(schedule: Schedule, tokens: _Tokens) -> Ints:
    """Cells [rank, chunk] that do not hold what the contract says, after playing the schedule on tokens."""
    held = _before(schedule, tokens)
    for step in schedule.steps:
        _play(held, step.rows())
    want, matters = _after(schedule, tokens)
    return np.argwhere((held[:, : schedule.chunks] != want).any(axis=2) & matters)


def _before(schedule: Schedule, tokens: _Tokens) -> NDArray:
    """What every rank holds at first: [rank, chunk, k]. A cell nobody filled holds rubbish."""
    size, everything, chunks = schedule.size, schedule.all_chunks, schedule.chunks
    kind, owner = schedule.contract.kind, schedule.contract.owner
    unit, mark = tokens.unit, tokens.mark
    held = np.full((size, everything, unit.shape[1]), tokens.rubbish, unit.dtype)
    if kind in ("allreduce", "reduce_scatter"):
        held[:, :chunks] = unit[:, None] * mark[:chunks]
    elif kind == "allgather":
        held[owner, np.arange(chunks)] = unit[owner] * mark[:chunks]
    elif kind == "alltoall":
        held[:, chunks:] = unit[:, None] * mark[: schedule.input_chunks]
    return held


def _after(schedule: Schedule, tokens: _Tokens) -> tuple[Any, Any]:
    """(what cells must hold at last, which cells matter), both to broadcast to [rank, chunk(, k)]."""
    size, chunks = schedule.size, schedule.chunks
    kind, owner = schedule.contract.kind, schedule.contract.owner
    unit, mark = tokens.unit, tokens.mark
    total = unit.sum(axis=0, dtype=unit.dtype) * mark[:chunks]
    if kind == "allreduce":
        return total, np.True_
    if kind == "reduce_scatter":
        return total, np.asarray(owner) == np.arange(size)[:, None]
    if kind == "allgather":
        return unit[owner] * mark[:chunks], np.True_
    if kind == "alltoall":  # chunk s of rank d: what s had as its input chunk d
        return unit * mark[:size, None], np.True_
    raise ScheduleError(f"{schedule.name} has an unknown contract: {kind}.")


def _play(held: NDArray, rows: Rows) -> None:
    """One step: all transfers read what is held before it, then copy or add, in the order of rows."""
    each = np.repeat(np.arange(len(rows)), rows.count)
    offset = np.arange(len(each)) - np.repeat(np.cumsum(rows.count) - rows.count, rows.count)
    data = held[rows.src[each], rows.src_chunk[each] + offset]
    dst, chunk, reduce = rows.dst[each], rows.dst_chunk[each] + offset, rows.reduce[each]
    held[dst[~reduce], chunk[~reduce]] = data[~reduce]
    if reduce.any():
        np.add.at(held, (dst[reduce], chunk[reduce]), data[reduce])


# --- pointing at the guilty step ---


def _error(schedule: Schedule, step: int, what: str) -> ScheduleError:
    printed = schedule.text(step) if len(schedule.steps) * schedule.size <= 2048 else f"{step}: {schedule.steps[step]}"
    return ScheduleError(f"{schedule.name} on {schedule.size} ranks, step {step}: {what}.\n{printed}")


def _blame(schedule: Schedule, rank: int, chunk: int) -> None:
    """Raise for a wrong cell, with the step its trail leads to."""
    if schedule.contract.kind not in ("allreduce", "reduce_scatter"):
        last = _last_write(schedule, rank, chunk, len(schedule.steps))
        raise _error(schedule, 0 if last is None else last[0], f"rank {rank} ends without the right chunk {chunk}")
    history = _history(schedule, chunk)
    counts = history[-1][rank]
    if (counts == 1).all():
        raise _error(schedule, _first_foreign(schedule, chunk), f"rank {rank} ends with more than chunk {chunk} in it")
    source = int(np.flatnonzero(counts != 1)[0])
    step = _first_double(history, source) if counts[source] > 1 else _trail(schedule, history, rank, chunk, source)
    what = f"rank {rank} ends with {counts[source]} copies of rank {source}'s chunk {chunk}, not 1"
    raise _error(schedule, step, f"{what}; the trail leads here")


def _history(schedule: Schedule, chunk: int) -> list[NDArray]:
    """How many of each rank's tokens [rank, source] each rank holds in one chunk, before step 0, 1, ... and at last.

    Tokens of other chunks do not count: they come from one more rank, which holds nothing.
    """
    size = schedule.size
    held = np.eye(size + 1, size, dtype=np.uint16)[:, None]
    states = [held[:size, 0].copy()]
    for step in schedule.steps:
        rows = _into(step.rows(), chunk)
        src = np.where(rows.src_chunk == rows.dst_chunk, rows.src, size)
        _play(held, Rows.of(src, rows.dst, 0, reduce=rows.reduce))
        states.append(held[:size, 0].copy())
    return states


def _into(rows: Rows, chunk: int) -> Rows:
    """The rows that write a chunk."""
    return rows.select((rows.dst_chunk <= chunk) & (chunk < rows.dst_chunk + rows.count))


def _first_foreign(schedule: Schedule, chunk: int) -> int:
    """The first step that puts another chunk's data into a chunk."""
    written = (_into(step.rows(), chunk) for step in schedule.steps)
    return next(number for number, rows in enumerate(written) if (rows.src_chunk != rows.dst_chunk).any())


def _first_double(history: list[NDArray], source: int) -> int:
    """The step after which somebody first holds a contribution twice."""
    return next(step for step, state in enumerate(history[1:]) if (state[:, source] > 1).any())


def _trail(schedule: Schedule, history: list[NDArray], rank: int, chunk: int, source: int) -> int:
    """Where a missing contribution should have come along: back from writer to writer while it is missing."""
    step = len(schedule.steps)
    found = max(0, step - 1)
    while (write := _last_write(schedule, rank, chunk, step)) is not None:
        step, rank = write
        found = step
        if history[step][rank, source]:
            break
    return found


def _last_write(schedule: Schedule, rank: int, chunk: int, before: int) -> tuple[int, int] | None:
    """(step, sender) of the last transfer into a cell before step `before`, or None."""
    for number in reversed(range(before)):
        rows = _into(schedule.steps[number].rows_of(rank), chunk)
        src = rows.src[rows.dst == rank]
        if len(src):
            return number, int(src[-1])
    return None
