"""The algorithms: pure functions from a number of ranks (and a topology) to a `Schedule`. One file each.

An algorithm's file also holds its phases, `scatter_reduce` and `all_gather`, where it has them. The tables below are
what everything else chooses from, by name. Functions carry their module's name, so import a module's phases with
`from hpcdist.algorithms.ring import scatter_reduce`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hpcdist.algorithms import binary_blocks as _binary_blocks
from hpcdist.algorithms import circulant as _circulant
from hpcdist.algorithms import direct as _direct
from hpcdist.algorithms import double_binary_trees as _double_binary_trees
from hpcdist.algorithms import halving_doubling as _halving_doubling
from hpcdist.algorithms import hierarchical as _hierarchical
from hpcdist.algorithms import own as _own
from hpcdist.algorithms import pairwise as _pairwise
from hpcdist.algorithms import recursive_doubling as _recursive_doubling
from hpcdist.algorithms import ring as _ring
from hpcdist.algorithms import shared as _shared
from hpcdist.algorithms import tree as _tree
from hpcdist.schedule.algebra import owned_in_order
from hpcdist.schedule.ir import Schedule

_WITH_PHASES = {
    "ring": _ring,
    "halving_doubling": _halving_doubling,
    "binary_blocks": _binary_blocks,
    "circulant": _circulant,
    "double_binary_trees": _double_binary_trees,
    "direct": _direct,
    "tree": _tree,
}
SCATTER_REDUCE: dict[str, Callable[[int], Schedule]] = {n: m.scatter_reduce for n, m in _WITH_PHASES.items()}
ALL_GATHER: dict[str, Callable[[int], Schedule]] = {n: m.all_gather for n, m in _WITH_PHASES.items()}

ring = _ring.ring
halving_doubling = _halving_doubling.halving_doubling
binary_blocks = _binary_blocks.binary_blocks
circulant = _circulant.circulant
double_binary_trees = _double_binary_trees.double_binary_trees
recursive_doubling = _recursive_doubling.recursive_doubling
hierarchical = _hierarchical.hierarchical
layered = _hierarchical.layered
direct = _direct.direct
shared = _shared.shared
one_shot = _shared.one_shot
two_shot = _shared.two_shot
tree = _tree.tree
pairwise = _pairwise.pairwise

_FLAT: dict[str, Callable[[int], Schedule]] = {
    "ring": ring,
    "halving_doubling": halving_doubling,
    "binary_blocks": binary_blocks,
    "circulant": circulant,
    "recursive_doubling": recursive_doubling,
    "double_binary_trees": double_binary_trees,
    "direct": direct,
    "tree": tree,
}
_OTHERS: dict[str, Callable[[int], Schedule]] = {"hierarchical": hierarchical, "one_shot": one_shot}
ALLREDUCE = (*_FLAT, "hierarchical")
TWO_SHOT = "two_shot"  # this and one_shot run through bounce buffers, each in a fused kernel
SHARED = "shared"  # an all-reduce, too, but only of ranks that share memory

settled = _own.settled


def _choose(table: dict[str, Callable[[int], Schedule]], name: str, what: str) -> Callable[[int], Schedule]:
    if name not in table:
        raise ValueError(f"there is no {what} called {name!r}; choose from {', '.join(table)}.")
    return table[name]


def _blocks(text: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is no number of blocks; write for example double_binary_trees:16.")
    return int(text)


def allreduce(name: str, size: int, topology: Sequence[int] | None = None) -> Schedule:
    """The all-reduce called `name` for `size` ranks.

    Args:
        name: one of `ALLREDUCE`; "hierarchical:INNER+OUTER" names the algorithms inside and between nodes, such as
            "hierarchical:tree+ring"; "double_binary_trees:BLOCKS" cuts each half of the buffer in so many blocks;
            "shared", or "shared:OUTER" with the algorithm between nodes; "one_shot" or "two_shot:PIECES"; or one of
            yours: a name that was registered, or "FILE.py:FUNCTION".
        size: ranks.
        topology: the node of each rank; only hierarchical and shared look at it.

    Raises: ValueError for an unknown name, a number of blocks that cannot be, or a size below 1.
    """
    if size < 1:
        raise ValueError(f"an all-reduce needs at least 1 rank, not {size}.")
    if _own.is_own(name):
        return _own.make(name, size, topology)
    family, _, parts = name.partition(":")
    if family == SHARED:
        outer = _choose(_FLAT, parts or "halving_doubling", "all-reduce algorithm (between nodes)")
        return replace(shared(size, topology, outer), name=name)
    if family == "double_binary_trees" and parts:
        return replace(double_binary_trees(size, _blocks(parts)), name=name)
    if family == TWO_SHOT:
        return two_shot(size, _blocks(parts or "1"))
    if family != "hierarchical":
        return _choose(_FLAT | _OTHERS, name, "all-reduce algorithm")(size)
    inner, _, outer_name = (parts or "ring+halving_doubling").partition("+")
    schedule = hierarchical(
        size,
        topology,
        _choose(SCATTER_REDUCE, inner, "algorithm with a scatter-reduce (for the inside of nodes)"),
        _choose(_FLAT, outer_name, "all-reduce algorithm (between nodes)"),
    )
    return schedule if not parts else replace(schedule, name=name)


def check(name: str) -> str:
    """The name of an all-reduce, as it is.

    Raises: ValueError if nothing is called so.
    """
    if _own.is_own(name):
        _own.function_of(name.partition("@")[0])
    else:
        allreduce(name, 1)
    return name


def register(name: str, function: _own.Maker) -> None:
    """Let a name mean an all-reduce of yours, wherever algorithms are named in this process; on all ranks alike.

    Args:
        name: of letters, digits and _; not that of an algorithm that is here already.
        function: from a number of ranks, or from that and the node of each rank, to a `Schedule`. Its schedules are
            proven before they run.

    Raises: ValueError for a name that is taken or cannot be one; TypeError for what is no function.
    """
    if name in (*ALLREDUCE, *_OTHERS, TWO_SHOT, SHARED, "auto"):
        raise ValueError(f"{name} is an algorithm of hpcdist; give yours another name")
    _own.add(name, function)


def reduce_scatter(name: str, size: int) -> Schedule:
    """The reduce-scatter called `name`, with chunk c at rank c as MPI has it.

    Raises: ValueError for an unknown name, or a size at which the algorithm does not leave one chunk at every rank.
    """
    return owned_in_order(_choose(SCATTER_REDUCE, name, "reduce-scatter")(size))


def allgather(name: str, size: int) -> Schedule:
    """The all-gather called `name`, with chunk c at rank c as MPI has it.

    Raises: ValueError for an unknown name, or a size at which the algorithm does not find one chunk at every rank.
    """
    return owned_in_order(_choose(ALL_GATHER, name, "all-gather")(size))


def reduce(size: int, root: int) -> Schedule:
    """The binomial reduce to `root`."""
    return replace(_tree.scatter_reduce(size, root), name="tree reduce")


def bcast(size: int, root: int) -> Schedule:
    """The binomial broadcast from `root`."""
    return replace(_tree.all_gather(size, root), name="tree bcast")
