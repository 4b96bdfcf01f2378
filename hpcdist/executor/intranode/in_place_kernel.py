"""Compiled by Numba: an all-reduce of arrays that lie in memory which the ranks of a node share.

A barrier, the reduction of the own part from all arrays into all arrays, and a barrier again. The calls take a job of
`barrier_flags`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.native import call, compiled
from hpcdist.transport.barrier_flags import REDUCE, ROW, STAGE, all_there, raise_flag
from hpcdist.transport.barrier_words import READY, WRITTEN

MEETING, REDUCED, COMPLETE = range(3)  # stages


@compiled("boolean(int64[::1], int64)")
def advance(job: NDArray, looks: int) -> bool:
    """Go on with meeting, reducing and meeting again, as far as `looks` allow; whether all is done."""
    if job[STAGE] == MEETING:
        if not all_there(job, looks):
            return False
        call(job[REDUCE], (job[ROW],))
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


@compiled("boolean(int64[::1], int64)")
def run(job: NDArray, looks: int) -> bool:
    """`begin` and `advance` in one call, which a small reduction is worth."""
    begin(job)
    return advance(job, looks)


def awaited(job: NDArray[np.int64]) -> str:
    """What a rank must have done for which a job waits."""
    return READY if job[STAGE] == MEETING else WRITTEN
