"""From measurements to a selection table: the fastest algorithm, in its best segments, for each range of sizes.

The table speaks of what was measured: beyond the largest size its winner goes on, and for a number of ranks or nodes
that nobody measured `selection` asks the model that the sweep has fitted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpcdist.device.paths import HOST
from hpcdist.selection import Bracket, Rule
from hpcdist.sweep.record import Record, of_library

MARGIN = 1.05  # a neighbour's algorithm is kept until another is this much faster: less is noise

Case = tuple[str, int | None]  # an algorithm and its segment in bytes


def rules(records: Sequence[Record]) -> tuple[Rule, ...]:
    """One rule for each number of ranks and nodes, type, memory and path, without algorithms that were ever wrong."""
    ours = [record for record in right(records) if not of_library(record.algorithm)]
    groups: dict[tuple, list[Record]] = {}
    for record in ours:
        groups.setdefault((record.ranks, record.nodes, record.dtype, record.memory, record.path), []).append(record)
    keys = sorted(groups, key=lambda key: (key[3] != HOST, key))  # host memory first
    return tuple(
        Rule(size, nodes, dtype, brackets(groups[size, nodes, dtype, memory, path]), memory, path)
        for size, nodes, dtype, memory, path in keys
    )


def right(records: Sequence[Record]) -> list[Record]:
    """The records of algorithms that were never wrong."""
    wrong = {record.algorithm for record in records if record.wrong}
    return [record for record in records if record.algorithm not in wrong]


def brackets(records: Sequence[Record], before: Case = ("", None)) -> tuple[Bracket, ...]:
    """Neighbouring sizes with the same winner become one bracket; the last one has no bound.

    Two winners meet halfway between their sizes on a logarithmic scale, since sizes grow by factors. `before` has the
    benefit of the doubt at the smallest size.
    """
    best = _winners(records, before)
    sizes = list(best)
    found: list[Bracket] = []
    for size, larger in zip(sizes, [*sizes[1:], None], strict=True):
        if larger is None or best[larger] != best[size]:
            bound = None if larger is None else math.isqrt(size * larger)
            found.append(Bracket(bound, *best[size]))
    return tuple(found)


def _winners(records: Sequence[Record], before: Case) -> dict[int, Case]:
    """The winner at each size, ascending; the winner at the size before has the benefit of the doubt."""
    winners: dict[int, Case] = {}
    for nbytes in sorted({record.nbytes for record in records}):
        times = times_of([record for record in records if record.nbytes == nbytes])
        fastest = min(times, key=times.__getitem__)
        before = before if times.get(before, math.inf) <= MARGIN * times[fastest] else fastest
        winners[nbytes] = before
    return winners


def times_of(records: Sequence[Record]) -> dict[Case, float]:
    """For each case of one size its median times, multiplied over all else so that each counts alike."""
    times: dict[Case, float] = {}
    for record in records:
        case = record.algorithm, record.segment_nbytes
        times[case] = times.get(case, 1.0) * record.times.time_us_p50
    return times
