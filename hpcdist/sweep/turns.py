"""In which order cases take turns, so that none always has the same one before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def order(items: Sequence[T], number: int) -> list[T]:
    """Of a round: each comes first in its turn; odd rounds reverse the one before, or each had the same before it."""
    first = number // 2 % len(items) if items else 0
    rotated = [*items[first:], *items[:first]]
    return rotated[::-1] if number % 2 else rotated
