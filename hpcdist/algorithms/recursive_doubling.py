"""Recursive doubling: the fewest steps, each with the whole buffer. Best where latency is all that counts."""

from __future__ import annotations

import numpy as np

from hpcdist.algorithms.halving import fold, kept_by_fold, largest_power
from hpcdist.schedule.algebra import backwards
from hpcdist.schedule.ir import Ints, Rows, Schedule, Step


def _exchange(ranks: Ints, distance: int) -> Step:
    """Partners at `distance` in the list of ranks swap all they have, and both add it."""
    part = np.arange(len(ranks))
    return Step.of(Rows.of(ranks, ranks[part ^ distance], 0, reduce=True))


def recursive_doubling(size: int) -> Schedule:
    """All-reduce by swapping sums with partners at distance 1, 2, 4, ..., for any number of ranks.

    It has no scatter_reduce and all_gather phases: every rank works on the whole buffer in every step. The size - p
    ranks beyond a power of two add to a neighbour before and get the result after.

    Steps: log2(p), and 2 more if size != p, with p the largest power of two <= size.
    Bytes sent per rank: log2(p) * nbytes; if size != p, at most nbytes more.
    Source: Thakur, Rabenseifner and Gropp, Optimization of collective communication operations in MPICH,
    IJHPCA 19(1), 2005.
    """
    p = largest_power(size)
    kept = np.array(kept_by_fold(size))
    steps = [_exchange(kept, 1 << k) for k in range(p.bit_length() - 1)]
    if size != p:
        before = fold(size, 1)
        steps = [before, *steps, *backwards([before])]
    return Schedule("recursive_doubling", size, 1, tuple(steps), alike=size == p)
