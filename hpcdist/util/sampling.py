"""What measurements have in common: in which order cases take turns, what their samples come to, and when it was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def order(items: Sequence[T], number: int) -> list[T]:
    """Of a round: each comes first in its turn; odd rounds reverse the one before, or each had the same before it."""
    first = number // 2 % len(items) if items else 0
    rotated = [*items[first:], *items[:first]]
    return rotated[::-1] if number % 2 else rotated


@dataclass(frozen=True)
class Spread:
    """Median, 10th and 90th percentile, and of how many."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of samples, at least one."""
        low, median, high = np.percentile(values, (10, 50, 90)).tolist()
        return cls(median, low, high, len(values))


def digits(value: float) -> str:
    """A number with as many digits as say something."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def now() -> str:
    """The time of day, with its zone."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
