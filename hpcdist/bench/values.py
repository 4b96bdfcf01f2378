"""What the buffers hold: numbers whose sum is exact, and small ones that many sums in place do not make infinite."""

from __future__ import annotations

from functools import cache

import numpy as np

from hpcdist.bench.alone import harness
from hpcdist.bench.alone.harness import TILE, Numbers, sums_in_place
from hpcdist.kernels.reduce import DTYPES
from hpcdist.sweep.inputs import SUM_BITS, expected, inputs

# Small numbers are those to check with, times 2 to such a power that all stay normal; sums end below 2 to the other.
SMALL = {"float32": harness.SMALL, "float16": -14, "bfloat16": -100}
LARGEST = {"float32": harness.LARGEST, "float16": 15, "bfloat16": 127}


@cache
def numbers_of(rank: int, size: int, name: str) -> Numbers:
    """A rank's numbers of one type."""
    dtype = np.dtype(DTYPES[name])
    own = inputs(rank, size, TILE, dtype, "sum")
    small = np.ldexp(own.astype(np.float64), SMALL[name]).astype(dtype)
    calls = sums_in_place(size, LARGEST[name] - SMALL[name] - SUM_BITS[name])
    return Numbers(own, expected(size, TILE, dtype, "sum"), small, calls)
