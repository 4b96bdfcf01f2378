"""Inputs whose reduction is exact in their own type, whatever the order of the operands.

A check against a tolerance lets a lost low bit pass, and one of all-ones lets a permuted chunk pass. Here
every (rank, index) holds its own number, drawn by a counter-based hash, and the range of the numbers is
such that no partial result of any subset of the ranks is ever rounded. The result is then one exact number,
and an element is right or wrong.

==========  ==========================================  ===========================================
operation   an element                                  why no partial result is rounded
==========  ==========================================  ===========================================
sum, avg    a nonzero integer, at most L / ranks        partial sums are integers of at most L = 2**bits
prod        plus or minus a power of two, not 1         partial exponents stay within the type's range
max, min    as for sum                                  nothing is computed
==========  ==========================================  ===========================================

An average is the exact sum, divided by the number of ranks and rounded once (integers: toward zero).

With more ranks than L (bfloat16: 256; powers of two in float16: 14) not all can hold such a number. Then a
window of L neighbouring ranks does, at each index another window, and the rest hold the number that leaves
a result as it is: 0, or 1 in a product.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

# Bits of the largest integer L up to which all integers are representable; integers keep a bit for the sign.
SUM_BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8, "int64": 62, "int32": 30}
# Largest |exponent| e such that 2**e and 2**-e are normal numbers; integers hold no negative powers.
PROD_BITS = {"float64": 1022, "float32": 126, "float16": 14, "bfloat16": 126, "int64": 62, "int32": 30}

BLOCK = 1 << 16  # elements handled at once: the temporaries of a check stay in the cache, however long the buffer


def inputs(rank: int, size: int, count: int, dtype: np.dtype, op: str, seed: int = 0, start: int = 0) -> NDArray:
    """What `rank` of `size` contributes at indices start .. start + count - 1.

    Args:
        rank: the contributing rank.
        size: number of ranks that take part.
        count: number of elements.
        dtype: NumPy type of the elements, named in `SUM_BITS`.
        op: "sum", "avg", "max", "min" or "prod".
        seed: another seed gives other numbers.
        start: index of the first element, so that a long buffer can be made in blocks.

    Returns:
        An array of shape (count,) and type `dtype`.
    """
    index = np.arange(start, start + count, dtype=np.uint64)
    draw = _powers_of_two if op == "prod" else _integers
    return draw(rank, size, index, dtype, _hash(index, rank, seed))


def expected(size: int, count: int, dtype: np.dtype, op: str, seed: int = 0, start: int = 0) -> NDArray:
    """The exact reduction over all ranks at indices start .. start + count - 1; see `inputs`."""
    result = np.empty(count, dtype)
    for low, high in blocks(count):
        result[low:high] = _reduced(size, high - low, dtype, op, seed, start + low)
    return result


def blocks(count: int) -> Iterator[tuple[int, int]]:
    """Cut 0 .. count into consecutive (low, high) of at most `BLOCK` elements."""
    return ((low, min(low + BLOCK, count)) for low in range(0, count, BLOCK))


def _reduced(size: int, count: int, dtype: np.dtype, op: str, seed: int, start: int) -> NDArray:
    """Reduce one block in 64 bits, which hold every partial result exactly if the type itself does."""
    combine = {"sum": np.add, "avg": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[op]
    wide = np.int64 if dtype.kind == "i" else np.float64
    total = inputs(0, size, count, dtype, op, seed, start).astype(wide)
    for rank in range(1, size):
        combine(total, inputs(rank, size, count, dtype, op, seed, start).astype(wide), out=total)
    return _divided(total, size).astype(dtype) if op == "avg" else total.astype(dtype)


def _divided(total: NDArray, size: int) -> NDArray:
    """Sums over the number of ranks; integers toward zero.

    Rounding to float64 here and to a type of less than half the bits later equals rounding once.
    """
    return np.sign(total) * (np.abs(total) // size) if total.dtype.kind == "i" else total / size


def _integers(rank: int, size: int, index: NDArray, dtype: np.dtype, draw: NDArray) -> NDArray:
    """Integers from -m .. -1 and 1 .. m, with m * (ranks that hold one) <= 2**bits."""
    limit = 1 << SUM_BITS[dtype.name]
    window = min(size, limit)
    largest = limit // window
    value = (draw % np.uint64(2 * largest)).astype(np.int64) - largest
    value += value >= 0
    return _windowed(value, 0, rank, size, index, window).astype(dtype)


def _powers_of_two(rank: int, size: int, index: NDArray, dtype: np.dtype, draw: NDArray) -> NDArray:
    """Plus or minus 2**e, with |e| from 1 .. m and m * (ranks that hold one) <= bits; integers: e > 0."""
    limit = PROD_BITS[dtype.name]
    window = min(size, limit)
    exponent = (1 + (draw >> np.uint64(2)) % np.uint64(limit // window)).astype(np.int64)
    sign = np.where(draw & np.uint64(1), 1, -1)
    if dtype.kind == "i":
        value = sign << exponent
    else:
        value = np.ldexp(sign.astype(np.float64), np.where(draw & np.uint64(2), exponent, -exponent))
    return _windowed(value, 1, rank, size, index, window).astype(dtype)


def _windowed(value: NDArray, neutral: int, rank: int, size: int, index: NDArray, window: int) -> NDArray:
    """`value` where `rank` is one of the `window` ranks from rank index % size on, else `neutral`."""
    if window == size:
        return value
    distance = (np.uint64(rank + size) - index % np.uint64(size)) % np.uint64(size)
    return np.where(distance < np.uint64(window), value, neutral)


def _hash(index: NDArray, rank: int, seed: int) -> NDArray:
    """64 well-mixed bits for each index: the output function of SplitMix64 (Steele et al., 2014)."""
    origin = (rank * 0xD1B54A32D192ED03 + seed * 0x8CB92BA72F3D8DD7) & 0xFFFFFFFFFFFFFFFF
    z = (index + np.uint64(origin)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
