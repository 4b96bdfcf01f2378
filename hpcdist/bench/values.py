"""What the buffers hold: numbers whose sum is exact, and small ones that many sums in place do not make infinite."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.reduce import DTYPES
from hpcdist.sweep.inputs import SUM_BITS, expected, inputs

TILE = 65521  # elements, a prime number: a chunk that comes to a wrong place does not look right there

# Small numbers are those to check with, times 2 to such a power that all stay normal; sums end below 2 to the other.
SMALL = {"float32": -100, "float16": -14, "bfloat16": -100}
LARGEST = {"float32": 127, "float16": 15, "bfloat16": 127}


class Numbers:
    """A rank's numbers of one type; buffers hold them again and again.

    Attributes:
        own: Integers to check with.
        sum: Of all ranks' integers.
        small: Numbers to time with.
        calls: How many sums in place they bear.
    """

    def __init__(self, rank: int, size: int, name: str) -> None:
        dtype = np.dtype(DTYPES[name])
        self.own = inputs(rank, size, TILE, dtype, "sum")
        self.sum = expected(size, TILE, dtype, "sum")
        self.small = np.ldexp(self.own.astype(np.float64), SMALL[name]).astype(dtype)
        # Each sum in place makes them `size` times as large.
        self.calls = int((LARGEST[name] - SMALL[name] - SUM_BITS[name]) / math.log2(size)) if size > 1 else 1 << 20


numbers_of = cache(Numbers)


def fill(buffer: NDArray, tile: NDArray) -> None:
    """Write the tile into the buffer, again and again."""
    whole = buffer.size // tile.size * tile.size
    buffer[:whole].reshape(-1, tile.size)[:] = tile
    buffer[whole:] = tile[: buffer.size - whole]


def wrong(buffer: NDArray, tile: NDArray) -> int:
    """Elements of the buffer that are not those which `fill` would have written."""
    whole = buffer.size // tile.size * tile.size
    head = np.count_nonzero(buffer[:whole].reshape(-1, tile.size) != tile)
    return int(head + np.count_nonzero(buffer[whole:] != tile[: buffer.size - whole]))
