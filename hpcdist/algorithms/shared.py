"""Shared: what the ranks of a node do when they reach each other's memory, or have bounce buffers.

As data this is a hierarchical all-reduce whose scatter-reduce inside a node is the direct one: every rank reduces its
own chunk from all ranks in their order. Inside a node no message is sent for it: `lower` makes reads and writes of it.
Where the buffers themselves cannot be reached, they pass through bounce buffers, in one shot or in two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from hpcdist.algorithms.direct import direct, pairs, scatter_reduce
from hpcdist.algorithms.halving_doubling import halving_doubling
from hpcdist.algorithms.hierarchical import hierarchical
from hpcdist.schedule.ir import Rows, Schedule, Step


def shared(
    size: int, topology: Sequence[int] | None = None, outer: Callable[[int], Schedule] = halving_doubling
) -> Schedule:
    """Direct on one node; on several, direct inside each and `outer` between the owners of a chunk.

    Args:
        size: ranks.
        topology: the node of each rank; all on one node if None.
        outer: the all-reduce between nodes.

    Steps: 2 on one node, else 2 + steps(outer). Bytes sent per rank: those of direct and of hierarchical; what stays
    inside a node is read and written, not sent.
    """
    if topology is None or len(set(topology)) <= 1:
        return replace(direct(size), name="shared")
    return replace(hierarchical(size, topology, scatter_reduce, outer), name="shared")


@cache
def one_shot(size: int) -> Schedule:
    """Every rank reads all of every other's buffer, and reduces it for itself: what bounce buffers do with little data.

    Steps: 1. Bytes sent per rank: (size - 1) * nbytes.
    """

    def make(rank: int | None) -> Rows:
        src, dst = pairs(size, rank)
        return Rows.of(src, dst, 0, reduce=True)

    return Schedule("one_shot", size, 1, (Step(make),) if size > 1 else (), alike=True)


@cache
def two_shot(size: int, pieces: int = 1) -> Schedule:
    """Direct, piece after piece: while one is reduced, the one before is gathered. What bounce buffers do.

    Chunk p * size + r is rank r's part of piece p.

    Args:
        size: ranks.
        pieces: into which the buffer is cut.

    Steps: pieces + 1. Bytes sent per rank: those of direct.

    Raises: ValueError for less than one piece.
    """
    if pieces < 1:
        raise ValueError(f"two_shot needs at least 1 piece, not {pieces}.")

    def step(number: int) -> Step:
        def make(rank: int | None) -> Rows:
            src, dst = pairs(size, rank)
            gathered = Rows.of(src, dst, (number - 1) * size + src, reduce=False)
            reduced = Rows.of(src, dst, number * size + dst, reduce=True)
            return Rows.concatenate([gathered] * (number > 0) + [reduced] * (number < pieces))

        return Step(make, ("two_shot", size) if 0 < number < pieces else None)

    steps = tuple(map(step, range(pieces + 1))) if size > 1 else ()
    return Schedule(f"two_shot:{pieces}", size, size * pieces, steps, alike=True)
