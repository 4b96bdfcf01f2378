"""Direct: every rank sends to every other at once. The naive reference, and the first thing to read."""

from __future__ import annotations

import numpy as np

from hpcdist.schedule.algebra import mirror, then
from hpcdist.schedule.ir import Ints, Rows, Schedule, Step, reduce_scatter_to


def pairs(size: int, rank: int | None) -> tuple[Ints, Ints]:
    """All (src, dst) with src != dst, ordered by src; only those that touch `rank` if it is given."""
    if rank is not None:
        others, me = np.delete(np.arange(size), rank), np.full(size - 1, rank)
        return np.concatenate([others, me]), np.concatenate([me, others])
    src, dst = np.divmod(np.arange(size * size), size)
    return src[src != dst], dst[src != dst]


def scatter_reduce(size: int) -> Schedule:
    """Every rank sends chunk d to rank d, which adds them in the order of ranks.

    Steps: 1, of size - 1 messages per rank. Bytes sent per rank: (size - 1) / size * nbytes.
    """

    def make(rank: int | None) -> Rows:
        src, dst = pairs(size, rank)
        return Rows.of(src, dst, dst, reduce=True)

    steps = (Step(make),) if size > 1 else ()
    owner = np.arange(size)
    return Schedule("direct scatter_reduce", size, size, steps, reduce_scatter_to(owner), alike=True)


def all_gather(size: int) -> Schedule:
    """Every rank sends its chunk to every other.

    Steps: 1, of size - 1 messages per rank. Bytes sent per rank: (size - 1) / size * nbytes.
    """
    return mirror(scatter_reduce(size), "direct all_gather")


def direct(size: int) -> Schedule:
    """All-reduce by one exchange of everybody with everybody, twice.

    Steps: 2, of size - 1 messages per rank each. Bytes sent per rank: 2 (size - 1) / size * nbytes.
    Source: the definition of reduce-scatter and all-gather.
    """
    return then(scatter_reduce(size), all_gather(size), "direct")
