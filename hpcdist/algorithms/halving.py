"""What the power-of-two algorithms share: exchanges with partner i XOR d, and the fold of the ranks left over."""

from __future__ import annotations

import numpy as np

from hpcdist.schedule.ir import Ints, Rows, Step


def largest_power(size: int) -> int:
    """The largest power of two that is no larger than `size`."""
    return 1 << (size.bit_length() - 1)


def bit_reversed(bits: int) -> Ints:
    """The numbers below 2**bits, each with its bits in reverse order."""
    order = np.zeros(1, np.int64)
    for _ in range(bits):
        order = np.concatenate([2 * order, 2 * order + 1])
    return order


def halving_step(power: int, distance: int) -> Step:
    """Partners at `distance` exchange halves of what both still work on; the one with the bit set keeps the upper.

    Nearest partners come first, so the largest messages go to the nearest ranks, and rank i ends with chunk
    bit_reversed(i).
    """
    rank = np.arange(power)
    half = power // (2 * distance)
    first = np.zeros(power, np.int64)
    for k in range(distance.bit_length() - 1):  # what the earlier steps left to this rank
        first += np.where(rank & (1 << k), power >> (k + 1), 0)
    gives_lower = (rank & distance) != 0
    return Step.of(Rows.of(rank, rank ^ distance, np.where(gives_lower, first, first + half), count=half, reduce=True))


def halving_steps(power: int) -> tuple[Step, ...]:
    """Reduce-scatter of `power` = 2**k ranks and as many chunks, by recursive halving, nearest partner first."""
    return tuple(halving_step(power, 1 << k) for k in range(power.bit_length() - 1))


def fold(size: int, chunks: int) -> Step:
    """The first 2 (size - p) ranks pair up, p the largest power of two: the even one gives all it has to the odd."""
    even = np.arange(0, 2 * (size - largest_power(size)), 2)
    return Step.of(Rows.of(even, even + 1, 0, count=chunks, reduce=True))


def kept_by_fold(size: int) -> list[int]:
    """The ranks that still hold something after `fold`, in order."""
    extra = size - largest_power(size)
    return [*range(1, 2 * extra, 2), *range(2 * extra, size)]
