"""Tree: reduce to one rank along a binomial tree, then broadcast back. A naive reference for large buffers."""

from __future__ import annotations

import numpy as np

from hpcdist.schedule.algebra import mirror, relabel, then
from hpcdist.schedule.ir import Rows, Schedule, Step, reduce_scatter_to


def _up(size: int, distance: int) -> Step:
    """Every rank whose lowest set bit is `distance` sends all it has to the rank `distance` below."""
    src = np.arange(distance, size, 2 * distance)
    return Step.of(Rows.of(src, src - distance, 0, reduce=True))


def scatter_reduce(size: int, root: int = 0) -> Schedule:
    """A binomial reduce: the whole buffer ends at `root`.

    Steps: ceil(log2(size)). Bytes sent per rank: at most nbytes.
    """
    distances = (1 << k for k in range((size - 1).bit_length()))
    steps = tuple(_up(size, distance) for distance in distances)
    schedule = Schedule("tree scatter_reduce", size, 1, steps, reduce_scatter_to([0]))
    return relabel(schedule, [(i + root) % size for i in range(size)], size) if root else schedule


def all_gather(size: int, root: int = 0) -> Schedule:
    """A binomial broadcast from `root`.

    Steps: ceil(log2(size)). Bytes sent per rank: at most ceil(log2(size)) * nbytes, by the root.
    """
    return mirror(scatter_reduce(size, root), "tree all_gather")


def tree(size: int) -> Schedule:
    """All-reduce as a binomial reduce to rank 0 and a binomial broadcast from it.

    Steps: 2 ceil(log2(size)). Bytes sent per rank: at most ceil(log2(size)) * nbytes, by rank 0.
    Source: Thakur, Rabenseifner and Gropp, Optimization of collective communication operations in MPICH,
    IJHPCA 19(1), 2005.
    """
    return then(scatter_reduce(size), all_gather(size), "tree")
