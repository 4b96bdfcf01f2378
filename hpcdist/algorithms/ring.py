"""Ring: every rank talks to its right neighbour only, and every chunk travels once around the circle, twice."""

from __future__ import annotations

import numpy as np

from hpcdist.schedule.algebra import then
from hpcdist.schedule.ir import Rows, Schedule, Step, allgather_from, reduce_scatter_to


def _to_the_right(size: int, chunk_of_rank_0: int, reduce: bool) -> Step:
    """Rank i sends chunk i + chunk_of_rank_0 (mod size) to rank i + 1 (mod size)."""

    def make(rank: int | None) -> Rows:
        src = np.arange(size) if rank is None else np.array([rank - 1, rank]) % size
        return Rows.of(src, (src + 1) % size, (src + chunk_of_rank_0) % size, reduce=reduce)

    return Step(make, pattern=(size, reduce))


def scatter_reduce(size: int) -> Schedule:
    """In step s rank i sends chunk i - s; after size - 1 steps rank i holds the sum of chunk i + 1.

    Steps: size - 1. Bytes sent per rank: (size - 1) / size * nbytes.
    """
    steps = tuple(_to_the_right(size, -s, reduce=True) for s in range(size - 1))
    owner = (np.arange(size) - 1) % size
    return Schedule("ring scatter_reduce", size, size, steps, reduce_scatter_to(owner), alike=True)


def all_gather(size: int) -> Schedule:
    """In step s rank i sends chunk i + 1 - s, beginning with the one it owns.

    Steps: size - 1. Bytes sent per rank: (size - 1) / size * nbytes.
    """
    steps = tuple(_to_the_right(size, 1 - s, reduce=False) for s in range(size - 1))
    owner = (np.arange(size) - 1) % size
    return Schedule("ring all_gather", size, size, steps, allgather_from(owner), alike=True)


def ring(size: int) -> Schedule:
    """All-reduce around a ring: the fewest bytes any algorithm can send, in many steps.

    Steps: 2 (size - 1). Bytes sent per rank: 2 (size - 1) / size * nbytes, the least possible.
    Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms for clusters of workstations, JPDC 69(2),
    2009.
    """
    return then(scatter_reduce(size), all_gather(size), "ring")
