"""The proof that a schedule keeps its contract: play it on symbols and look at what every rank ends with.

Each rank contributes a token of its own, and a cell (rank, chunk) holds how many of each token it has: 0 is missing,
2 was added twice. That is exact for every operation that is commutative and associative. For large worlds the tokens
are random 64-bit numbers instead of unit vectors, added modulo 2**64: every cell is still checked, and a wrong
schedule passes with a chance below 2**-40.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.errors import ScheduleError
from hpcdist.schedule import Ints, Rows, Schedule

EXACT_CELLS = 1 << 26  # counters up to which unit vectors are played


def verify(schedule: Schedule) -> None:
    """Prove that `schedule` is well formed and keeps its contract.

    Raises: ScheduleError with the schedule printed and the guilty step marked.
    """
    check_form(schedule)
    exact = schedule.size**2 * schedule.line <= EXACT_CELLS
    wrong = _wrong_cells(schedule, _unit_tokens(schedule.size) if exact else _random_tokens(schedule.size))
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
    return (chunk < 0) | (end > schedule.line) | ((chunk < schedule.chunks) & (end > schedule.chunks))


def _clash(schedule: Schedule, rows: Rows) -> tuple[int, int] | None:
    """A (rank, chunk) that one step writes more than once, other than by adding; None if there is none."""
    if rows.reduce.all():
        return None
    start = rows.dst * schedule.line + rows.dst_chunk
    order = np.argsort(start, kind="stable")
    start, end, reduce = start[order], (start + rows.count)[order], rows.reduce[order]
    reach = np.maximum.accumulate(end)
    reach_of_copies = np.maximum.accumulate(np.where(reduce, -1, end))
    meets = start[1:] < np.where(reduce[1:], reach_of_copies[:-1], reach[:-1])
    if not meets.any():
        return None
    rank, chunk = divmod(int(start[1:][meets][0]), schedule.line)
    return rank, chunk


def _unit_tokens(size: int) -> NDArray:
    return np.eye(size, dtype=np.uint16)


def _random_tokens(size: int) -> NDArray:
    return np.random.default_rng(0).integers(1 << 63, size=(size, 1), dtype=np.uint64) * 2 + 1


def _wrong_cells(schedule: Schedule, tokens: NDArray) -> Ints:
    """Cells [rank, chunk] that do not hold what the contract says, after playing the schedule on tokens [rank, k]."""
    held = _before(schedule, tokens)
    for step in schedule.steps:
        _play(held, step.rows())
    want, matters = _after(schedule, tokens)
    return np.argwhere((held[:, : schedule.chunks] != want).any(axis=2) & matters)


def _before(schedule: Schedule, tokens: NDArray) -> NDArray:
    """What every rank holds at first: [rank, chunk of the line, k]. A cell nobody filled holds rubbish."""
    size, line, chunks = schedule.size, schedule.line, schedule.chunks
    kind, owner = schedule.contract.kind, schedule.contract.owner
    held = np.full((size, line, tokens.shape[1]), 7, tokens.dtype)
    if kind in ("allreduce", "reduce_scatter"):
        held[:] = tokens[:, None]
    elif kind == "allgather":
        held[owner, np.arange(chunks)] = tokens[owner] * _chunk_factor(chunks, tokens.dtype)
    elif kind == "alltoall":
        held[:, chunks:] = tokens[:, None] * _chunk_factor(schedule.input_chunks, tokens.dtype)
    return held


def _after(schedule: Schedule, tokens: NDArray) -> tuple[Any, Any]:
    """(what cells must hold at last, which cells matter), both to broadcast to [rank, chunk(, k)]."""
    size, chunks = schedule.size, schedule.chunks
    kind, owner = schedule.contract.kind, schedule.contract.owner
    total = tokens.sum(axis=0, dtype=tokens.dtype)
    if kind == "allreduce":
        return total, np.True_
    if kind == "reduce_scatter":
        return total, np.asarray(owner) == np.arange(size)[:, None]
    if kind == "allgather":
        return tokens[owner] * _chunk_factor(chunks, tokens.dtype), np.True_
    if kind == "alltoall":  # chunk s of rank d: the token of s, marked as its chunk d
        return tokens[None] * _chunk_factor(size, tokens.dtype)[:, None], np.True_
    raise ScheduleError(f"{schedule.name} has an unknown contract: {kind}.")


def _chunk_factor(chunks: int, dtype: np.dtype) -> NDArray:
    """Marks the chunks of one rank apart from each other, [chunks, 1]; without it a permuted gather would pass."""
    return (np.arange(chunks, dtype=dtype) * 2 + 1)[:, None]


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
    source = int(np.flatnonzero(counts != 1)[0])
    step = _first_double(history, source) if counts[source] > 1 else _trail(schedule, history, rank, chunk, source)
    what = f"rank {rank} ends with {counts[source]} copies of rank {source}'s chunk {chunk}, not 1"
    raise _error(schedule, step, f"{what}; the trail leads here")


def _history(schedule: Schedule, chunk: int) -> list[NDArray]:
    """How many of each rank's tokens [rank, source] each rank holds in one chunk, before step 0, 1, ... and at last."""
    held = _unit_tokens(schedule.size)[:, None]
    states = [held[:, 0].copy()]
    for step in schedule.steps:
        rows = step.rows()
        rows = rows.select((rows.dst_chunk <= chunk) & (chunk < rows.dst_chunk + rows.count))
        _play(held, Rows.of(rows.src, rows.dst, 0, reduce=rows.reduce))
        states.append(held[:, 0].copy())
    return states


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
        rows = schedule.steps[number].rows_of(rank)
        into = (rows.dst == rank) & (rows.dst_chunk <= chunk) & (chunk < rows.dst_chunk + rows.count)
        if into.any():
            return number, int(rows.src[into][-1])
    return None
