"""Double binary trees: each of two trees sums and spreads half of the buffer, and nobody is an inner node of both."""

from __future__ import annotations

import math

import numpy as np

from hpcdist.schedule.algebra import beside, mirror, place, relabel, then
from hpcdist.schedule.ir import Ints, Rows, Schedule, Step, reduce_scatter_to

MOST_BLOCKS = 1 << 12  # more would be messages too small for any network, and steps too many to look at


def height(size: int) -> int:
    """Edges from the root to the deepest leaf, the fewest that a binary tree of `size` nodes can have."""
    return size.bit_length() - 1


def best_blocks(size: int) -> int:
    """Into how many blocks to cut each half of the buffer, which no schedule knows the length of.

    With b blocks all-reduce takes 4 (b + h) alpha + 2 (1 + h / b) nbytes beta, the least at b**2 = h nbytes beta /
    (2 alpha). Two trees are of use where a ring has too many messages and folding too many bytes, which is around
    nbytes beta = size alpha: there b**2 = h size / 2. From 128 blocks on h / b is small for any number of ranks.
    """
    return min(128, max(1, round(math.sqrt(size * height(size) / 2))))


def _parents(size: int) -> Ints:
    """Of the nodes 1 .. size of a tree in order, left < parent < right; 0 above the root, and for 0, which is no node.

    A node's height is the number of its trailing zeros, so that odd nodes are leaves.
    """
    node = np.arange(size + 1)
    lowest = node & -node
    left_of_it = node - lowest
    parent = left_of_it | 2 * lowest
    return np.where(parent <= size, parent, left_of_it)


def _depths(parents: Ints) -> Ints:
    """How many edges each node is below the root."""
    depth, above = np.zeros_like(parents), parents
    while above.any():
        depth += above > 0
        above = parents[above]
    return depth


def _reduce(size: int, blocks: int) -> Schedule:
    """Along one tree, in which rank i is node i + 1, block after block: a rank receives one and passes on the last."""
    parents = _parents(size)
    delay = height(size) - _depths(parents)  # of a node's first block, in steps
    nodes = np.flatnonzero(parents)
    last = delay[nodes].max(initial=0)  # from this step on all nodes have begun

    def pass_up(number: int) -> Step:
        def make(rank: int | None) -> Rows:
            block = number - delay
            src = nodes[(block[nodes] >= 0) & (block[nodes] < blocks)]
            return Rows.of(src - 1, parents[src] - 1, block[src], reduce=True)

        return Step(make, pattern=size if last <= number < blocks else None)

    steps = tuple(pass_up(number) for number in range(height(size) + blocks - 1)) if size > 1 else ()
    root = 1 << height(size)
    return Schedule("pipelined reduce", size, blocks, steps, reduce_scatter_to([root - 1] * blocks))


def _twin(size: int) -> list[int]:
    """Who takes the part of each rank in the other tree, so that inner nodes, the odd ranks, become leaves.

    Mirrored, an odd rank becomes an even one where their number is even; where it is odd, all move on by one.
    """
    ranks = range(size)
    return list(reversed(ranks)) if size % 2 == 0 else [(rank + 1) % size for rank in ranks]


def scatter_reduce(size: int, blocks: int | None = None) -> Schedule:
    """Each half of the buffer is summed along a tree of its own and ends at that tree's root, cut in `blocks`.

    Steps: h + blocks - 1 with h = floor(log2(size)), none for a lone rank.
    Bytes sent per rank: nbytes in 2 * blocks messages, or half of both by the roots.
    Raises: ValueError for less than 1 block, or more than 4096.
    """
    blocks = best_blocks(size) if blocks is None else blocks
    if not 1 <= blocks <= MOST_BLOCKS:
        raise ValueError(f"double_binary_trees cuts each half in 1 to {MOST_BLOCKS} blocks, not {blocks}.")
    one = _reduce(size, blocks)
    other = relabel(one, _twin(size), size)
    halves = [place(tree, range(b, b + blocks + 1), 2 * blocks) for tree, b in ((one, 0), (other, blocks))]
    owner = np.concatenate([one.contract.owner, other.contract.owner])
    steps = beside([half.steps for half in halves])
    return Schedule("double_binary_trees scatter_reduce", size, 2 * blocks, steps, reduce_scatter_to(owner))


def all_gather(size: int, blocks: int | None = None) -> Schedule:
    """The scatter-reduce backwards: each root spreads its half.

    Steps: those of `scatter_reduce`. Bytes sent per rank: at most nbytes, by inner nodes with two children.
    """
    return mirror(scatter_reduce(size, blocks), "double_binary_trees all_gather")


def double_binary_trees(size: int, blocks: int | None = None) -> Schedule:
    """All-reduce by two complementary binary trees, a half of the buffer each, pipelined in blocks.

    One tree alone leaves half of the ranks, its leaves, without anything to pass on; the leaves of one are the inner
    nodes of the other, so all links are busy both ways. It takes about as many bytes as a ring, in steps that grow with
    the square root of the number of ranks only: cheaper than ring, halving_doubling and binary_blocks at middle sizes
    where that number is large and the sum of many powers of two, as 127 and 1023. On a network that is equally fast
    between all ranks circulant is cheaper still.

    Blocks are chunks, not the executor's segments: with these a rank adds all that comes from one child before it looks
    at the other, and passes nothing on meanwhile.

    Args:
        size: ranks.
        blocks: of each half; about sqrt(size log2(size) / 2) if None, see `best_blocks`. Larger buffers want more.

    Steps: 2 (h + blocks - 1) with h = floor(log2(size)), none for a lone rank.
    Bytes sent per rank: at most 2 nbytes, in at most 4 * blocks messages.
    Raises: ValueError for less than 1 block, or more than 4096.
    Source: Sanders, Speck and Traeff, Two-tree algorithms for full bandwidth broadcast, reduction and scan, Parallel
    Computing 35(12), 2009.
    """
    return then(scatter_reduce(size, blocks), all_gather(size, blocks), "double_binary_trees")
