"""Ratios over rounds: ours over theirs, paired within a job where both ran in it, and within a round where not.

Cases whose results were wrong do not count. Of links: how much of their rate an all-reduce makes use of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from hpcdist.bench.record import Row
from hpcdist.util.sampling import Spread

TIE = 1.05  # a ratio of times up to which two are called equally fast, and so is one over it


def link_bytes(ranks: int, nbytes: int) -> float:
    """What each link must carry each way in an all-reduce that wastes nothing: 2(p-1)/p of the buffer."""
    return 2 * (ranks - 1) / ranks * nbytes


def share(ranks: int, nbytes: int, seconds: float, rate: float) -> float:
    """The part of a link's rate [bit/s] that an all-reduce in so many seconds makes use of; 1 is all of it."""
    return link_bytes(ranks, nbytes) * 8 / (seconds * rate)


class Side(NamedTuple):
    """A case of a library's jobs."""

    peer: str
    case: str


def name_of(case: str, other: str) -> str:
    """What the ratio of two cases of a job is called."""
    return f"{case} / {other}"


def paired(times: dict[str, Sequence[float]], pairs: Iterable[tuple[str, str]]) -> dict[str, float]:
    """The median of the samples' ratios, for each pair of cases that were both measured."""
    return {
        name_of(case, other): float(np.median(np.divide(times[case], times[other])))
        for case, other in pairs
        if case in times and other in times
    }


def counts(row: Row, case: str) -> bool:
    """Whether a case was measured in a job, and right."""
    return case in row.us and not row.wrong.get(case)


def medians(rows: Sequence[Row], cases: Iterable[str]) -> dict[Side, float]:
    """Microseconds of each library's jobs in some cases, over rounds.

    Who took part in less than half of the rounds is not asked: it may have been lucky in them.
    """
    found: dict[Side, list[float]] = defaultdict(list)
    for case in cases:
        for row in rows:
            if counts(row, case):
                found[Side(row.peer, case)].append(row.us[case])
    rounds = len({row.round for row in rows})
    return {side: float(np.median(times)) for side, times in found.items() if 2 * len(times) >= rounds}


def best(rows: Sequence[Row], case: str) -> Side | None:
    """The library whose jobs were fastest in a case."""
    times = medians(rows, [case])
    return min(times, key=times.__getitem__, default=None)


def ratio(
    rows: Iterable[Row], ours: Side, theirs: Side, spread: Callable[[Sequence[float]], Spread] = Spread.of
) -> Spread | None:
    """Over the rounds that both took part in; None if there is none.

    Args:
        rows: Of one part, place, number of ranks and size.
        ours: What is asked about.
        theirs: What it is set against.
        spread: Which range to tell.
    """
    rounds: dict[int, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        rounds[row.round][row.peer] = row
    values = [value for found in rounds.values() if (value := _in_a_round(found, ours, theirs)) is not None]
    return spread(values) if values else None


def _in_a_round(found: dict[str, Row], ours: Side, theirs: Side) -> float | None:
    if ours.peer not in found or theirs.peer not in found:
        return None
    own, other = found[ours.peer], found[theirs.peer]
    if not (counts(own, ours.case) and counts(other, theirs.case)):
        return None
    name = name_of(ours.case, theirs.case)
    if ours.peer == theirs.peer and name in own.ratios:
        return own.ratios[name]
    return own.us[ours.case] / other.us[theirs.case]
