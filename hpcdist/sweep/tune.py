"""From measurements to a selection table: the fastest algorithm, in its best segments, for each range of sizes.

The table speaks of what was measured: beyond the largest size its winner goes on, and for a number of ranks or nodes
that nobody measured `selection` asks the model that the sweep has fitted.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import geometric_mean

from hpcdist.device.paths import HOST
from hpcdist.sweep.record import Record, grouped, of_library
from hpcdist.tuning.table import Bracket, Rule

MARGIN = 1.05  # a neighbour's algorithm is kept until another is this much faster: less is noise

Case = tuple[str, int | None]  # an algorithm and its segment in bytes


def rules(records: Sequence[Record]) -> tuple[Rule, ...]:
    """One rule for each number of ranks and nodes, type, memory and path, without algorithms that were ever wrong."""
    ours = [record for record in right(records) if not of_library(record.algorithm)]
    groups = grouped(ours, lambda r: (r.ranks, r.nodes, r.dtype, r.memory, r.path))
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

    Two winners meet where they cross. `before` has the benefit of the doubt at the smallest size.
    """
    times = {n: times_of([r for r in records if r.nbytes == n]) for n in sorted({r.nbytes for r in records})}
    best = _winners(times, before)
    sizes = list(best)
    found: list[Bracket] = []
    for size, larger in zip(sizes, [*sizes[1:], None], strict=True):
        if larger is None or best[larger] != best[size]:
            bound = None if larger is None else crossover(times, size, larger, best[size], best[larger])
            found.append(Bracket(bound, *best[size]))
    return tuple(found)


def _winners(times: Mapping[int, Mapping[Case, float]], before: Case) -> dict[int, Case]:
    """The winner at each size, ascending; the winner at the size before has the benefit of the doubt."""
    winners: dict[int, Case] = {}
    for nbytes, found in times.items():
        fastest = min(found, key=found.__getitem__)
        before = before if found.get(before, math.inf) <= MARGIN * found[fastest] else fastest
        winners[nbytes] = before
    return winners


def crossover(times: Mapping[int, Mapping[Case, float]], size: int, larger: int, first: Case, second: Case) -> int:
    """Where two winners are equally fast, between the size of one and that of the other.

    Their times are taken for straight lines between the two, on logarithmic scales, since sizes grow by factors. If
    one of them was measured at one of the sizes only, they meet halfway.
    """
    small, large = times[size], times[larger]
    if not {first, second} <= small.keys() & large.keys():
        return math.isqrt(size * larger)
    lead, lag = math.log(small[second] / small[first]), math.log(large[first] / large[second])
    share = max(0.0, lead) / (max(0.0, lead) + lag)
    return min(larger - 1, round(size * (larger / size) ** share))


def times_of(records: Sequence[Record]) -> dict[Case, float]:
    """For each case of one size the geometric mean of its median times [us], all over the same circumstances.

    These are the operation, whether it was in place, and how it was timed: those in which most cases were measured.
    A case that lacks one of them is left out, as its mean would be of other things.
    """
    found: dict[Case, dict[tuple, float]] = defaultdict(dict)
    for record in records:
        circumstance = record.op, record.placement, record.timing
        found[record.algorithm, record.segment_nbytes][circumstance] = record.times.time_us_p50
    counts = Counter(circumstance for times in found.values() for circumstance in times)
    least = min(len(found) // 2 + 1, max(counts.values(), default=0))
    common = [circumstance for circumstance, count in counts.items() if count >= least]
    return {
        case: geometric_mean(times[each] for each in common)
        for case, times in found.items()
        if all(each in times for each in common)
    }
