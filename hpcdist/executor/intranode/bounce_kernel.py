"""Compiled by Numba: all-reduces of ordinary arrays on one node, through bounce buffers that its ranks share.

The array travels in pieces. Each rank copies a piece into its bounce buffer; after a barrier each reduces its part of
the piece from the bounce buffers of all and puts the result into its own; after another barrier each copies the
parts of the others out. A barrier serves three pieces: after it one is copied out, the next is reduced, and the one
after that copied in. So a bounce buffer has three slots, taken in turn, and there is one barrier more than there are
pieces. A small array is one piece, which every rank reduces for itself after a single barrier.

The slot of a piece follows from the flags, which count the barriers of all runs: a run may follow another at once.

What others will read can be streamed, that is written past the caches. Between cores that are far from each other, what
was changed in the cache of one comes to the other at a fraction of the rate of memory; between near ones it is faster
than memory. Nobody says how far they are, and a virtual machine moves them: so a few pieces of every EVERY are trials
of both ways, and the time that they take, waiting left out, decides about the others. Ranks need not decide alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numpy.typing import NDArray

from hpcdist.device.buffers import address_of
from hpcdist.executor.intranode.bounce_layout import NUMBER, SLOTS, SMALL, length_of, pieces_of
from hpcdist.kernels.copy_loops import copy_entry, stream_entry
from hpcdist.kernels.in_order import ADDRESSES, COUNT, Reduction
from hpcdist.kernels.native import call, compiled, intrinsic, words_at
from hpcdist.transport import barrier_flags
from hpcdist.transport.barrier_flags import (
    FLAGS,
    GOAL,
    ME,
    OWN,
    REDUCE,
    ROW,
    SIZE,
    STAGE,
    all_there,
    raise_flag,
    set_goal,
)

# fields of a job; behind the flags there are the addresses of the bounce buffers
PASSED, PIECES, LENGTH, NBYTES, ITEMSIZE, SOURCE, TARGET, WHOLE = range(OWN, OWN + 8)
BEFORE, COST, TIME = OWN + 8, OWN + 9, OWN + 15  # pieces of earlier runs; see `_note`; seconds and nanoseconds
COPY, STREAM = OWN + 17, OWN + 18  # addresses of functions of `kernels.copy_loops`
CALL = OWN + 19  # the number of the call, which all ranks compare before a small reduction

EVERY, AT_FIRST = 1021, 127  # pieces, and those of a plan's first EVERY; primes, so that trials come anywhere in a run
TRIALS = 6  # of them for each way; the first half is not timed, since it finds the caches as the other way left them
IN, REDUCE_PART, OUT = range(3)  # what is timed
WAITING, COMPLETE = range(2)  # stages
PENDING, DONE, DIFFERENT = range(3)  # what a run answers; nothing is done if a rank is in a different call
MONOTONIC = 1  # the clock, of Linux
NEVER = 1 << 40  # nanoseconds


def reduction(dtype: np.dtype, size: int, op: str) -> Reduction:
    """What reduces on each of `size` ranks; a job sets the addresses."""
    return Reduction(dtype, [0] * size, [0], 0, op, size if op == "avg" else 1)


def job(
    me: int,
    flags: Sequence[int],
    slots: Sequence[int],
    work: Reduction,
    source: NDArray,
    target: NDArray,
    crowded: bool,
    number: int = 0,
) -> NDArray[np.int64]:
    """A job of rank `me`: addresses of flags and of slots, the own array, where its result goes, and the call."""
    fields = barrier_flags.job(me, flags, crowded, slots)
    fields[CALL] = number
    fields[[REDUCE, ROW]] = work.code, work.row
    fields[[COPY, STREAM]] = copy_entry.address, stream_entry.address
    fields[[SOURCE, TARGET]] = address_of(source), address_of(target)
    fields[[NBYTES, ITEMSIZE]] = source.nbytes, source.itemsize
    length = length_of(source.nbytes)
    fields[[LENGTH, PIECES]] = length, pieces_of(source.nbytes)
    fields[WHOLE] = source.nbytes <= SMALL
    return fields


@intrinsic
def _fence(_context: Any) -> Any:
    """Let all that was streamed be seen before what is stored next."""

    def generate(context: Any, builder: Any, _signature: Any, _values: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _address(_context: Any, array: Any) -> Any:
    """Where the elements of an array are."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, values[0]).data
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(array), generate


_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.int64))


@njit
def _turn(job: NDArray, piece: int) -> int:
    """The number of a piece since trials began: first those of copies through the caches, then those of streams."""
    number = job[BEFORE] + piece
    return number % (AT_FIRST if number < EVERY else EVERY)


@njit
def _streams(job: NDArray, piece: int) -> bool:
    """Whether this rank streams a piece."""
    turn, cached, streamed = _turn(job, piece), COST, COST + 3
    if turn < 2 * TRIALS:
        return turn >= TRIALS
    return job[streamed : streamed + 3].sum() < job[cached : cached + 3].sum()


@njit
def _now(job: NDArray, piece: int) -> int:
    """Nanoseconds, if the piece is a trial."""
    if _turn(job, piece) >= 2 * TRIALS:
        return 0
    _clock_gettime(MONOTONIC, _address(job) + 8 * TIME)
    return job[TIME] * 1_000_000_000 + job[TIME + 1]


@njit
def _note(job: NDArray, piece: int, what: int, began: int) -> None:
    """Remember how long something took, the shortest of the trials of each way."""
    turn = _turn(job, piece)
    if turn >= 2 * TRIALS:
        return
    at = COST + 3 * (turn // TRIALS) + what
    if turn % TRIALS < TRIALS // 2:
        job[at] = NEVER
    elif piece == 0 or piece + 1 < job[PIECES]:  # the last one may be shorter
        job[at] = min(job[at], _now(job, piece) - began)


@njit
def _copy(job: NDArray, piece: int, target: int, source: int, nbytes: int) -> None:
    """Copy bytes of a piece to where others read them."""
    call(job[STREAM] if _streams(job, piece) else job[COPY], (target, source, nbytes))


@njit
def _slot(job: NDArray, rank: int, piece: int) -> int:
    """Where a piece is in a rank's bounce buffer."""
    turn = (job[GOAL] - job[PASSED] + piece) % SLOTS
    return job[FLAGS + job[SIZE] + rank] + turn * job[LENGTH]


@njit
def _nbytes(job: NDArray, piece: int) -> int:
    """Bytes of a piece."""
    return min(job[LENGTH], job[NBYTES] - piece * job[LENGTH])


@njit
def _call_at(slot: int) -> NDArray:
    """The number of the call before a small array."""
    return carray(words_at(slot), 1)


@njit
def _is_same_call(job: NDArray) -> bool:
    """Whether all ranks have come to the same one."""
    for rank in range(job[SIZE]):  # noqa: SIM110  # Numba knows no generators
        if _call_at(_slot(job, rank, 0))[0] != job[CALL]:
            return False
    return True


@njit
def _reduce_whole(job: NDArray) -> None:
    """Reduce a small array, all of it."""
    row, size = carray(words_at(job[ROW]), ADDRESSES + job[SIZE] + 1), job[SIZE]
    row[COUNT] = job[NBYTES] // job[ITEMSIZE]
    for rank in range(size):
        row[ADDRESSES + rank] = _slot(job, rank, 0) + NUMBER
    row[ADDRESSES + size] = job[TARGET]
    call(job[REDUCE], (job[ROW],))


@njit
def _start(job: NDArray, piece: int, rank: int) -> int:
    """The byte of a piece at which the part of a rank begins."""
    return _nbytes(job, piece) // job[ITEMSIZE] * rank // job[SIZE] * job[ITEMSIZE]


@njit
def _copy_in(job: NDArray, piece: int) -> None:
    """Copy a piece to where others read it, all but the own part."""
    began = _now(job, piece)
    slot, source, nbytes = _slot(job, job[ME], piece), job[SOURCE] + piece * job[LENGTH], _nbytes(job, piece)
    own, behind = _start(job, piece, job[ME]), _start(job, piece, job[ME] + 1)
    _copy(job, piece, slot, source, own)
    _copy(job, piece, slot + behind, source + behind, nbytes - behind)
    _note(job, piece, IN, began)


@njit
def _reduce(job: NDArray, piece: int, first: int, end: int) -> None:
    """Reduce these bytes of a piece, in the order of the ranks."""
    row, size, skip = carray(words_at(job[ROW]), ADDRESSES + job[SIZE] + 1), job[SIZE], piece * job[LENGTH] + first
    row[COUNT] = (end - first) // job[ITEMSIZE]
    for rank in range(size):
        row[ADDRESSES + rank] = _slot(job, rank, piece) + first
    row[ADDRESSES + job[ME]] = job[SOURCE] + skip
    row[ADDRESSES + size] = job[TARGET] + skip
    call(job[REDUCE], (job[ROW],))


@njit
def _reduce_part(job: NDArray, piece: int) -> None:
    """Reduce the own part of a piece, and copy it to where the others read it."""
    began = _now(job, piece)
    first, end = _start(job, piece, job[ME]), _start(job, piece, job[ME] + 1)
    _reduce(job, piece, first, end)
    result = job[TARGET] + piece * job[LENGTH] + first
    _copy(job, piece, _slot(job, job[ME], piece) + first, result, end - first)
    _note(job, piece, REDUCE_PART, began)


@njit
def _copy_out(job: NDArray, piece: int) -> None:
    """Copy the parts of a piece that others have reduced."""
    began = _now(job, piece)
    target = job[TARGET] + piece * job[LENGTH]
    for rank in range(job[SIZE]):
        if rank != job[ME]:
            first, end = _start(job, piece, rank), _start(job, piece, rank + 1)
            call(job[COPY], (target + first, _slot(job, rank, piece) + first, end - first))
    _note(job, piece, OUT, began)


@njit
def _end(job: NDArray) -> None:
    """The result is there."""
    job[BEFORE] += job[PIECES]
    job[STAGE] = COMPLETE


@njit
def _job_at(address: int) -> NDArray[np.int64]:
    """The job at an address: Python hands over a number sooner than an array."""
    size = carray(words_at(address), FLAGS)[SIZE]
    return carray(words_at(address), FLAGS + 2 * size)


@compiled("void(int64)")
def begin(address: int) -> None:
    """Begin the run of the job at an address: copy the first piece in."""
    job = _job_at(address)
    job[STAGE], job[PASSED] = WAITING, 0
    set_goal(job)  # from which the slot follows
    if job[WHOLE]:
        slot = _slot(job, job[ME], 0)
        _call_at(slot)[0] = job[CALL]
        call(job[COPY], (slot + NUMBER, job[SOURCE], job[NBYTES]))
    else:
        _copy_in(job, 0)
        _fence()
    raise_flag(job)


@compiled("int64(int64, int64)")
def advance(address: int, looks: int) -> int:
    """Go on as far as `looks` allow; whether all is done."""
    job = _job_at(address)
    while job[STAGE] == WAITING:
        if not all_there(job, looks):
            return PENDING
        passed = job[PASSED]
        if job[WHOLE]:
            same = _is_same_call(job)
            if same:
                _reduce_whole(job)
            _end(job)
            return DONE if same else DIFFERENT
        if passed > 0:
            _copy_out(job, passed - 1)
        if passed == job[PIECES]:
            _end(job)
            return DONE
        if passed + 1 < job[PIECES]:
            _copy_in(job, passed + 1)
        _reduce_part(job, passed)
        _fence()
        job[PASSED] += 1
        raise_flag(job)
    return DONE


@compiled("int64(int64, int64)")
def run(address: int, looks: int) -> int:
    """`begin` and `advance` in one call, which a small reduction is worth."""
    begin(address)
    return advance(address, looks)


def awaited(job: NDArray[np.int64]) -> str:
    """What a rank must have done for which a job waits."""
    passed, pieces = job[PASSED], job[PIECES]
    return f"come to piece {passed + 1} of {pieces}" if passed < pieces else "reduced its part of the last piece"
