"""From measurements to a selection table: the fastest algorithm for each range of sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hpcdist.selection import Bracket, Rule
from hpcdist.sweep.record import LIBRARY, Record

MARGIN = 1.05  # a neighbour's algorithm is kept until another is this much faster: less is noise


def rules(records: Sequence[Record]) -> tuple[Rule, ...]:
    """One rule for each number of ranks and nodes and type, without algorithms that were ever wrong."""
    wrong = {record.algorithm for record in records if record.wrong}
    ours = [record for record in records if record.algorithm not in wrong | {LIBRARY}]
    keys = dict.fromkeys((record.ranks, record.nodes, record.dtype) for record in ours)
    return tuple(Rule(*key, brackets([r for r in ours if (r.ranks, r.nodes, r.dtype) == key])) for key in sorted(keys))


def brackets(records: Sequence[Record]) -> tuple[Bracket, ...]:
    """Neighbouring sizes with the same winner become one bracket; the last one has no bound.

    Two winners meet halfway between their sizes on a logarithmic scale, since sizes grow by factors.
    """
    best = _winners(records)
    sizes = list(best)
    found: list[Bracket] = []
    for size, larger in zip(sizes, [*sizes[1:], None], strict=True):
        if larger is None or best[larger].algorithm != best[size].algorithm:
            bound = None if larger is None else math.isqrt(size * larger)
            found.append(Bracket(bound, best[size].algorithm, best[size].segment_nbytes))
    return tuple(found)


def _winners(records: Sequence[Record]) -> dict[int, Record]:
    """The winner at each size, ascending; the winner at the size before has the benefit of the doubt."""
    winners: dict[int, Record] = {}
    before = ""
    for nbytes in sorted({record.nbytes for record in records}):
        here = [record for record in records if record.nbytes == nbytes]
        times = {name: _time(here, name) for name in dict.fromkeys(record.algorithm for record in here)}
        fastest = min(times, key=times.__getitem__)
        before = before if times.get(before, math.inf) <= MARGIN * times[fastest] else fastest
        winners[nbytes] = next(record for record in here if record.algorithm == before)
    return winners


def _time(records: Sequence[Record], algorithm: str) -> float:
    """Median times, multiplied over placements and operations so that each counts alike."""
    return math.prod(record.times.time_us_p50 for record in records if record.algorithm == algorithm)
