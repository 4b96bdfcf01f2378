"""Ratios over rounds: ours over theirs, paired within a job where both ran in it, and within a round where not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from hpcdist.bench.record import Row, Spread

TIE = 1.05  # a ratio of times up to which two are called equally fast

T = TypeVar("T")


class Side(NamedTuple):
    """A case of a library's jobs."""

    peer: str
    case: str


def rotated(items: Sequence[T], number: int) -> list[T]:
    """The order of a round: each comes first in its turn."""
    first = number % len(items) if items else 0
    return [*items[first:], *items[:first]]


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


def medians(rows: Iterable[Row], cases: Iterable[str]) -> dict[Side, float]:
    """Microseconds of each library's cases, the median over rounds."""
    found: dict[Side, list[float]] = defaultdict(list)
    wanted = set(cases)
    for row in rows:
        for case in wanted & row.us.keys():
            found[Side(row.peer, case)].append(row.us[case])
    return {side: float(np.median(times)) for side, times in found.items()}


def best(rows: Iterable[Row], case: str) -> Side | None:
    """The library whose jobs were fastest in a case; chosen by all rounds together, not by the luck of each."""
    times = medians(rows, [case])
    return min(times, key=times.__getitem__) if times else None


def ratio(rows: Iterable[Row], ours: Side, theirs: Side) -> Spread | None:
    """Over the rounds that both took part in; None if there is none.

    Args:
        rows: Of one part, place, number of ranks and size.
        ours: What is asked about.
        theirs: What it is set against.
    """
    rounds: dict[int, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        rounds[row.round][row.peer] = row
    values = [value for found in rounds.values() if (value := _in_a_round(found, ours, theirs)) is not None]
    return Spread.of(values) if values else None


def _in_a_round(found: dict[str, Row], ours: Side, theirs: Side) -> float | None:
    if ours.peer not in found or theirs.peer not in found:
        return None
    own, other = found[ours.peer], found[theirs.peer]
    name = name_of(ours.case, theirs.case)
    if ours.peer == theirs.peer and name in own.ratios:
        return own.ratios[name]
    if ours.case not in own.us or theirs.case not in other.us:
        return None
    return own.us[ours.case] / other.us[theirs.case]
