"""Compiled by Numba: flags in shared memory, and the loop that reduces what k ranks of a node hold for all of them.

A flag is a number in a cache line of its own that one rank raises and others read. It is stored with release and
loaded with acquire order, so that who has seen it sees all that was written before it, on Arm and POWER as well.

All calls take a *job*: a row of 64-bit integers with the fields below, then the addresses of k flags, k sources and
the destinations. The import compiles all of them for all types, and keeps them on disk where it can, so that only the
first run on a machine waits for the compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from hpcdist.kernels.native import compiled

# fields of a job
GOAL = 0  # what all flags must reach next
STAGE = 1  # one of the three below
AT = 2  # the first rank that is not known to be there
ME = 3
SIZE = 4  # k
TARGETS = 5  # how many destinations there are
COUNT = 6  # elements to reduce
OP = 7  # a place in OPS
BEFORE_YIELD = 8  # looks before the core is offered to others between two looks
TABLES = 9  # the addresses begin here

MEETING, REDUCED, COMPLETE = 0, 1, 2
OPS = ("sum", "max", "min", "prod", "avg")
DTYPES = ("float64", "float32", "int64", "int32")
PIECE = 4096  # bytes reduced at a time: k sources and the sum stay in the nearest cache
LOOKS_BEFORE_YIELD = 2000  # some microseconds; what is late by more is late by a time slice


def job(
    me: int,
    flags: Sequence[int],
    sources: Sequence[int] = (),
    destinations: Sequence[int] = (),
    count: int = 0,
    op: str = "sum",
    crowded: bool = False,
) -> NDArray[np.int64]:
    """A job of rank `me` of as many as there are flags: addresses of flags, of sources and of destinations."""
    row = np.zeros(TABLES + len(flags) + len(sources) + len(destinations), np.int64)
    row[[ME, SIZE, TARGETS, COUNT, OP]] = me, len(flags), len(destinations), count, OPS.index(op)
    row[BEFORE_YIELD] = 0 if crowded else LOOKS_BEFORE_YIELD
    row[TABLES:] = [*flags, *sources, *destinations]
    return row


_intrinsic: Any = intrinsic  # whose types say that the typing context is an argument of the call


@_intrinsic
def _load(typing: Any, address: Any) -> Any:
    """The 64-bit integer at an address, with acquire order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), generate


@_intrinsic
def _store(typing: Any, address: Any, value: Any) -> Any:
    """Put a 64-bit integer at an address, with release order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store_atomic(arguments[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@_intrinsic
def _pointer(typing: Any, address: Any, like: Any) -> Any:
    """An address as a pointer to what an array holds."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(types.int64, like), generate


_yield = types.ExternalFunction("sched_yield", types.int32())


@compiled("void(int64[::1])")
def raise_flag(job: NDArray) -> None:
    """Raise the own flag by one; what it is then is what the others' must reach, too."""
    flag = job[TABLES + job[ME]]
    job[GOAL] = _load(flag) + 1
    job[AT] = 0
    _store(flag, job[GOAL])


@compiled("boolean(int64[::1], int64)")
def all_there(job: NDArray, looks: int) -> bool:
    """Whether all flags are raised to the goal, after at most so many looks at one that is not."""
    at, looked = job[AT], 0
    while at < job[SIZE]:
        if _load(job[TABLES + at]) >= job[GOAL]:
            at += 1
            continue
        looked += 1
        if looked >= looks:
            job[AT] = at
            return False
        if looked > job[BEFORE_YIELD]:
            _yield()
    job[AT] = at
    return True


@numba.njit(nogil=True)
def _combine(op: int, left: NDArray, right: NDArray, out: NDArray) -> None:
    """As NumPy does, element by element; NaNs win in "max" and "min"."""
    if op == 1:
        for i in range(len(out)):
            out[i] = left[i] if left[i] >= right[i] or left[i] != left[i] else right[i]
    elif op == 2:
        for i in range(len(out)):
            out[i] = left[i] if left[i] <= right[i] or left[i] != left[i] else right[i]
    elif op == 3:
        for i in range(len(out)):
            out[i] = left[i] * right[i]
    else:
        for i in range(len(out)):
            out[i] = left[i] + right[i]


@compiled([f"void(int64[::1], {name}[::1])" for name in DTYPES])
def reduce_all(job: NDArray, piece: NDArray) -> None:
    """Reduce the sources in order into `piece`, piece by piece, and copy each to all destinations while it is hot."""
    size = job[SIZE]
    sources, destinations = TABLES + size, TABLES + 2 * size
    for first in range(0, job[COUNT], len(piece)):
        count = min(len(piece), job[COUNT] - first)
        total, skip = piece[:count], first * piece.itemsize
        one = numba.carray(_pointer(job[sources] + skip, piece), (count,))
        if size == 1:
            total[:] = one
        for rank in range(1, size):
            other = numba.carray(_pointer(job[sources + rank] + skip, piece), (count,))
            _combine(job[OP], one if rank == 1 else total, other, total)
        if job[OP] == 4:
            for i in range(count):
                total[i] = total[i] / size
        for rank in range(job[TARGETS]):
            out = numba.carray(_pointer(job[destinations + rank] + skip, piece), (count,))
            for i in range(count):
                out[i] = total[i]


@compiled([f"boolean(int64[::1], {name}[::1], int64)" for name in DTYPES])
def advance(job: NDArray, piece: NDArray, looks: int) -> bool:
    """Go on with meeting, reducing and meeting again, as far as `looks` allow; whether all is done."""
    if job[STAGE] == MEETING:
        if not all_there(job, looks):
            return False
        reduce_all(job, piece)
        raise_flag(job)
        job[STAGE] = REDUCED
    if job[STAGE] != COMPLETE:
        if not all_there(job, looks):
            return False
        job[STAGE] = COMPLETE
    return True


@compiled("void(int64[::1])")
def begin(job: NDArray) -> None:
    """Begin a run: say that the own source is ready."""
    job[STAGE] = MEETING
    raise_flag(job)


@compiled([f"boolean(int64[::1], {name}[::1], int64)" for name in DTYPES])
def run(job: NDArray, piece: NDArray, looks: int) -> bool:
    """`begin` and `advance` in one call, which a small reduction is worth."""
    begin(job)
    return advance(job, piece, looks)
