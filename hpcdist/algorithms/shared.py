"""Shared: what the ranks of a node do when they can read and write each other's buffers, or have bounce buffers.

As data this is a hierarchical all-reduce whose scatter-reduce inside a node is the direct one: every rank reduces its
own chunk from all ranks in their order. Inside a node no message is sent for it; the executor reads where the others
have their chunks and writes the result there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hpcdist.algorithms.direct import direct, scatter_reduce
from hpcdist.algorithms.halving_doubling import halving_doubling
from hpcdist.algorithms.hierarchical import hierarchical, members
from hpcdist.schedule.ir import Schedule


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


def between_nodes(schedule: Schedule, topology: Sequence[int]) -> Schedule:
    """The steps of a `shared` schedule that are messages: those between nodes."""
    inside = 1 if any(len(ranks) > 1 for ranks in members(topology)) else 0
    steps = schedule.steps[inside : len(schedule.steps) - inside]
    return replace(schedule, steps=() if len(set(topology)) == 1 else steps, alike=False)


def own_chunks(schedule: Schedule, topology: Sequence[int], rank: int) -> tuple[int, int]:
    """(first, end) of the chunks that `rank` reduces for its node; all if it is alone there."""
    if topology.count(topology[rank]) == 1:
        return 0, schedule.chunks
    rows = schedule.steps[0].rows_of(rank)
    first, count = next((row.dst_chunk, row.count) for row in rows if row.dst == rank)
    return first, first + count
