"""What measurements have in common: in which order cases take turns, what their samples come to, and when it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import accumulate
from math import comb, inf
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


def order(items: Sequence[T], number: int) -> list[T]:
    """Of a round: each comes first in its turn; odd rounds reverse the one before, or each had the same before it."""
    first = number // 2 % len(items) if items else 0
    rotated = [*items[first:], *items[:first]]
    return rotated[::-1] if number % 2 else rotated


@dataclass(frozen=True)
class Spread:
    """A median, the range around it, and of how many."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64]) -> Spread:
        """Of samples, at least one: from the 10th to the 90th percentile."""
        low, median, high = np.percentile(values, (10, 50, 90)).tolist()
        return cls(median, low, high, len(values))

    @classmethod
    def paired(cls, limit: Sequence[float], ours: Sequence[float]) -> Spread:
        """Of the rounds' ratios limit / ours: 1 is as fast as the limit, 0.5 takes twice its time."""
        return cls.of([a / b for a, b in zip(limit, ours, strict=True)])

    @classmethod
    def bounded(cls, values: Sequence[float]) -> Spread:
        """Of ratios: between the 95 % confidence bounds of the median, each one-sided and an order statistic.

        Less than five have no bounds: then the range is from 0 to infinity.
        """
        ordered, count = sorted(values), len(values)
        tails = accumulate(comb(count, below) / 2**count for below in range(count))
        rank = sum(tail <= 0.05 for tail in tails)
        low, high = (ordered[rank - 1], ordered[-rank]) if rank else (0.0, inf)
        return cls(float(np.median(values)), low, high, count)


def digits(value: float) -> str:
    """A number with as many digits as say something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def now() -> str:
    """The time of day, with its zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
