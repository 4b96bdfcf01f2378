"""What "auto" means: the algorithm that a table names, or else that of the lowest predicted time."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

from hpcdist.algorithms import ALLREDUCE, SHARED, allreduce, layered
from hpcdist.device.paths import HOST, PEER
from hpcdist.schedule.ir import Schedule
from hpcdist.simulate import cost
from hpcdist.tuning.table import Choice, Selection, memory_in_words, nodes_in_words
from hpcdist.util.sizes import format_bytes

ENVIRONMENT = "HPCDIST_SELECTION"

# The model would take these for many large buffers. Measured over TCP, circulant was slower than a ring at some
# megabytes; trees are untried on the hundreds of ranks that they are for. A table may name them.
NOT_BY_PRICE = frozenset({"circulant", "double_binary_trees"})


def loaded(table: Selection | str | os.PathLike[str] | None) -> Selection | None:
    """A table, or the one of a path; for None the one that HPCDIST_SELECTION names, and None if it names none.

    Raises:
        OSError, ValueError: if the table cannot be read; see `Selection.load`.
        TypeError: if it is neither a table nor a path.
    """
    if not isinstance(table, Selection | str | os.PathLike | None):
        raise TypeError(f"a selection is a Selection, the path of its file, or None; {table!r:.60} is none of these")
    if isinstance(table, Selection):
        return table
    path = table or os.environ.get(ENVIRONMENT)
    return Selection.load(path) if path else None


def resolve(
    selection: Selection | None,
    size: int,
    topology: Sequence[int],
    dtype: str,
    nbytes: int,
    memory: str = HOST,
    path: str = HOST,
    bounced: bool = False,
) -> Choice:
    """What "auto" means in one case; the same on all ranks that have the same table.

    Args:
        selection: the table; None for the default prices.
        size: number of ranks.
        topology: node number of each rank.
        dtype: name of the elements' type.
        nbytes: bytes of the buffer.
        memory: where it lies, "host" or the kind of device.
        path: how it travels, of `PATHS`.
        bounced: whether it could pass through bounce buffers in shared memory (algorithm "shared").
    """
    if selection is None:
        return _without_rule(size, topology, nbytes, cost.DEFAULT, bounced)
    nodes = len(set(topology))
    choice = selection.choose(size, nodes, dtype, nbytes, memory, path)
    if choice and (choice.algorithm.partition(":")[0] != SHARED or bounced or path == PEER):
        return choice
    other = _without_rule(size, topology, nbytes, selection.model or cost.DEFAULT, bounced)
    case = f"{size} ranks on {nodes_in_words(nodes)} and {dtype}{memory_in_words(memory, path)}"
    missing = f"{selection.path} has no rule for {case}"
    if choice:
        missing = f"{selection.path} says {choice.algorithm}, but there are no bounce buffers here"
    return Choice(other.algorithm, other.segment_nbytes, f"{missing}; {other.why}")


def _without_rule(size: int, topology: Sequence[int], nbytes: int, model: cost.Model, bounced: bool) -> Choice:
    if bounced:
        return Choice(SHARED, None, "all ranks are on one node, and the buffers pass through memory that they share")
    return choose_by_price(size, topology, nbytes, model)


def choose_by_price(size: int, topology: Sequence[int] | None, nbytes: int, model: cost.Model) -> Choice:
    """The algorithm of the lowest predicted time.

    Args:
        size: number of ranks.
        topology: node number of each rank, or None for one rank per node.
        nbytes: bytes of the buffer.
        model: alpha, beta and gamma, fitted by a sweep, or `cost.DEFAULT`.

    Returns:
        The choice, whose `why` lists the three lowest prices.
    """
    places = None if topology is None else tuple(topology)
    names = set(ALLREDUCE) - NOT_BY_PRICE - (set() if layered(places or ()) else {"hierarchical"})
    prices = []
    for name in sorted(names):
        with suppress(ValueError):  # an algorithm with too many transfers to price makes no sense at this size
            prices.append((cost.predict(_schedule(name, size, places), nbytes, model, places), name))
    prices.sort()
    best = ", ".join(f"{name} {seconds * 1e6:.4g} us" for seconds, name in prices[:3])
    why = f"lowest predicted time for {format_bytes(nbytes)} over {size} ranks: {best}"
    return Choice(prices[0][1], None, why)


@lru_cache(maxsize=256)
def _schedule(name: str, size: int, topology: tuple[int, ...] | None) -> Schedule:
    return allreduce(name, size, topology)
