"""Compiled by Numba: barriers over flags in shared memory.

A flag is a number in a cache line of its own that one rank raises and others read. It is stored with release and
loaded with acquire order, so that who has seen it sees all that was written before it, on Arm and POWER as well.

All calls take a *job*: a row of 64-bit integers with the fields below, then the addresses of the flags. It is compiled
by the import, and kept on disk where that is possible, so that only the first run on a machine waits for the compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numpy.typing import NDArray

from hpcdist.kernels.native import compiled, intrinsic, words_at

# fields of a job
GOAL = 0  # what all flags must reach next
AT = 1  # the first rank that is not known to be there
ME = 2
SIZE = 3  # how many flags
BEFORE_YIELD = 4  # looks before the core is offered to others between two looks
STAGE = 5  # how far the run is, for those who give the job more to do
REDUCE = 6  # the address of a function of `kernels.in_order`
ROW = 7  # the address of its row
OWN = 8  # from here on, fields of other modules
FLAGS = 32  # the addresses of the flags begin here

MANY_LOOKS = 3000  # at a flag; then Python and MPI get their turn
LOOKS_BEFORE_YIELD = 2000  # some microseconds; what is late by more is late by a time slice


def job(me: int, flags: Sequence[int], crowded: bool = False, more: Sequence[int] = ()) -> NDArray[np.int64]:
    """A job of rank `me` of as many as there are flags, whose addresses these are; `more` is put behind them."""
    fields = np.zeros(FLAGS + len(flags) + len(more), np.int64)
    fields[[ME, SIZE]] = me, len(flags)
    fields[BEFORE_YIELD] = 0 if crowded else LOOKS_BEFORE_YIELD
    fields[FLAGS:] = [*flags, *more]
    return fields


@njit
def job_at(address: int) -> NDArray[np.int64]:
    """The job at an address, as far as its flags."""
    size = carray(words_at(address), FLAGS)[SIZE]
    return carray(words_at(address), FLAGS + size)


def late(job: NDArray[np.int64], ranks: Sequence[int]) -> int:
    """The first of the ranks of a job that is not known to be there."""
    return ranks[min(int(job[AT]), len(ranks) - 1)]


@intrinsic
def _load(typing: Any, address: Any) -> Any:
    """The 64-bit integer at an address, with acquire order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(pointer, "acquire", 8)

    return types.int64(types.int64), generate


@intrinsic
def _store(typing: Any, address: Any, value: Any) -> Any:
    """Put a 64-bit integer at an address, with release order."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        builder.store_atomic(arguments[1], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


_yield = types.ExternalFunction("sched_yield", types.int32())


@compiled("void(int64[::1])")
def set_goal(job: NDArray) -> None:
    """Let the next barrier be the goal: that to which the own flag will be raised next."""
    job[GOAL] = _load(job[FLAGS + job[ME]]) + 1


@compiled("void(int64[::1])")
def raise_flag(job: NDArray) -> None:
    """Raise the own flag by one; what it is then is what the others' must reach, too."""
    set_goal(job)
    job[AT] = 0
    _store(job[FLAGS + job[ME]], job[GOAL])


@compiled("boolean(int64[::1], int64)")
def all_there(job: NDArray, looks: int) -> bool:
    """Whether all flags are raised to the goal, after at most so many looks at one that is not."""
    at, looked = job[AT], 0
    while at < job[SIZE]:
        if _load(job[FLAGS + at]) >= job[GOAL]:
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
