"""Hierarchical: reduce inside the nodes, all-reduce between the nodes, gather inside the nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from hpcdist.algorithms.halving_doubling import halving_doubling
from hpcdist.algorithms.ring import scatter_reduce as ring_scatter_reduce
from hpcdist.schedule.algebra import backwards, beside, on_groups, place
from hpcdist.schedule.ir import Ints, Schedule, Step

FINEST = 1 << 10  # parts; where nodes have no common multiple up to this, their chunks differ by a part


def members(topology: Sequence[int]) -> list[list[int]]:
    """The ranks of every node, from the node of every rank."""
    nodes: dict[int, list[int]] = {}
    for rank, node in enumerate(topology):
        nodes.setdefault(node, []).append(rank)
    return list(nodes.values())


def layered(topology: Sequence[int]) -> bool:
    """Whether nodes hold several ranks; if not, or if there is one node, hierarchical is one of its parts by name."""
    return 1 < len(set(topology)) < len(topology)


def _grid(chunks: Sequence[int]) -> int:
    """Into how many parts to cut the buffer so that the chunks of every node are made of whole parts."""
    common = math.lcm(*chunks)
    return common if common <= FINEST else max(FINEST, 4 * max(chunks))


def _stretched(schedule: Schedule, chunks: int) -> Schedule:
    """The schedule with each of its chunks made of near-equally many finer ones."""
    return place(schedule, [chunks * c // schedule.chunks for c in range(schedule.chunks + 1)], chunks)


def _runs(owners: Ints) -> list[tuple[int, int, list[int]]]:
    """(first part, end, one rank per node) for each run of parts that the same ranks own; owners: [nodes, parts]."""
    changes = np.flatnonzero((owners[:, 1:] != owners[:, :-1]).any(axis=0)) + 1
    bounds = [0, *changes.tolist(), owners.shape[1]]
    return [(a, b, owners[:, a].tolist()) for a, b in pairwise(bounds)]


def hierarchical(
    size: int,
    topology: Sequence[int] | None = None,
    inner: Callable[[int], Schedule] = ring_scatter_reduce,
    outer: Callable[[int], Schedule] = halving_doubling,
) -> Schedule:
    """All-reduce in three phases: scatter-reduce in each node, all-reduce across, all-gather in each node.

    After the first phase the ranks of a node share its sum; each part of the buffer is then all-reduced among the
    ranks, one per node, that own it, all parts at the same time. Nodes may differ in size and ranks may be placed
    in any order. With `inner=tree.scatter_reduce` one rank leads each node: the classic reduce, all-reduce among
    leaders, broadcast.

    Args:
        size: ranks.
        topology: the node of each rank, `size` numbers; all on one node if None.
        inner: the scatter-reduce inside a node.
        outer: the all-reduce between nodes.

    Steps: 2 steps(inner) of the largest node + steps(outer) of the number of nodes.
    Bytes sent per rank, for N nodes of k ranks with the defaults and N = 2**j:
    2 (k - 1) / k * nbytes inside, 2 (N - 1) / (N k) * nbytes between nodes: together 2 (Nk - 1) / (Nk) * nbytes.
    Raises: ValueError if the topology does not name the node of each rank.
    Source: the two-dimensional scheme of Mikami et al., arXiv 1811.05233, for any shape.
    """
    topology = [0] * size if topology is None else list(topology)
    if len(topology) != size:
        raise ValueError(f"the topology names the nodes of {len(topology)} ranks, but there are {size}.")
    of_size: dict[int, list[list[int]]] = {}
    for ranks in members(topology):
        of_size.setdefault(len(ranks), []).append(ranks)
    nodes = sum(map(len, of_size.values()))
    inside = {length: inner(length) for length in of_size}
    parts = _grid([schedule.chunks for schedule in inside.values()])
    across = outer(nodes)
    chunks = parts * across.chunks

    reduces, owners = [], []
    for length, groups in of_size.items():
        one = _stretched(inside[length], parts)
        reduces.append(on_groups(_stretched(one, chunks), groups, size))
        owners.append(np.array(groups)[:, one.contract.owner])

    def all_reduce(first: int, end: int, ranks: list[int]) -> tuple[Step, ...]:
        cuts = [first * across.chunks + (end - first) * c for c in range(across.chunks + 1)]
        return on_groups(place(across, cuts, chunks), [ranks], size)

    scatter_reduce = beside(reduces)
    between_nodes = beside([all_reduce(*run) for run in _runs(np.concatenate(owners))])
    return Schedule("hierarchical", size, chunks, (*scatter_reduce, *between_nodes, *backwards(scatter_reduce)))
