"""Which rank writes which rows of which array: equal parts of the bytes, so that each byte is written once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from hpcdist.checkpoint.layout import STATE, Shapes, row_nbytes, rows, rows_of, shapes_of, shard_name

LEAST = 4 << 20  # bytes for a writer: below, another file costs more than it saves
PER_NODE = 4  # writers on a node: a few are enough to fill its link to the file system

Share = dict[str, tuple[int, int]]  # array -> [first row, row after the last)


@dataclass(frozen=True)
class Writer:
    """A rank that writes, the file it writes to, and the rows."""

    rank: int
    file: str
    share: Share


def writers_of(arrays: Mapping[str, NDArray], ranks: Sequence[int], count: int) -> list[Writer]:
    """Who writes what.

    Args:
        arrays: Arrays by name.
        ranks: Those that may write, the best first.
        count: How many shall; 0 for as many as there are `LEAST` bytes for each.
    """
    nbytes = sum(values.nbytes for values in arrays.values())
    number = min(len(ranks), count or max(1, nbytes // LEAST))
    parts = shares(shapes_of(arrays), number)
    names = [STATE] if number == 1 else [shard_name(k, number) for k in range(number)]
    return [Writer(*each) for each in zip(ranks, names, parts, strict=False)]


def spread(topology: Sequence[int], per_node: int) -> list[int]:
    """Up to `per_node` ranks of each node: first one of every node, then another of every node, and so on."""
    seen: dict[int, int] = {}
    places = []
    for rank, node in enumerate(topology):
        seen[node] = seen.get(node, 0) + 1
        places.append((seen[node], rank))
    return [rank for place, rank in sorted(places) if place <= per_node]


def shares(shapes: Shapes, count: int) -> list[Share]:
    """Cut the arrays, laid end to end, into `count` parts of equal bytes, at the ends of rows.

    Returns:
        The parts; arrays of which a part has no row are left out of it. An array without rows is the first's.
    """
    total = sum(rows(kind) * row_nbytes(kind) for kind in shapes.values())
    cuts = [total * i / count for i in range(count + 1)]
    found: list[Share] = [{} for _ in range(count)]
    begin = 0
    for name, kind in shapes.items():
        nbytes, height, first = row_nbytes(kind), rows(kind), 0
        ends = [_row(cut - begin, nbytes, height) for cut in cuts[1:-1]] + [height]
        for share, end in zip(found, ends, strict=True):
            if end > first:
                share[name] = (first, end)
                first = end
        if not height:
            found[0][name] = (0, 0)
        begin += height * nbytes
    return found


def _row(offset: float, nbytes: int, most: int) -> int:
    """The row at whose beginning to cut for an offset in bytes from the array's beginning."""
    return most if nbytes == 0 else min(most, max(0, math.floor(offset / nbytes)))


def own_rows(arrays: Mapping[str, NDArray], share: Share) -> dict[str, NDArray]:
    """The rows of a share, as views."""
    return {name: rows_of(arrays[name], first, end) for name, (first, end) in share.items()}
