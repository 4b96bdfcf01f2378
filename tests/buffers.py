"""Buffers for tests, and what a collective must make of them, computed without any collective.

Every (rank, index) holds a value of its own: a result with a chunk in the wrong place, or a contribution left out or
taken twice, differs from the right one.
"""

import math
from fractions import Fraction
from functools import reduce

import numpy as np

from hpcdist.kernels.reduce import DTYPES, average, binary

ROUNDING = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def bits(array):
    """The array as unsigned integers: NaNs and zeros have payloads and signs."""
    return array.view(f"u{array.itemsize}")


def bits_of_numbers(array):
    """The same, with all NaNs as one: which of two NaNs an addition gives back is up to NumPy's compiler."""
    found = bits(array).copy()
    with np.errstate(invalid="ignore"):
        found[array != array] = np.iinfo(found.dtype).max
    return found


def in_order(values, op):
    """What one rank computes for all: the rows one after the other, 16-bit types in float32, rounded once."""
    wide = np.dtype(np.float32) if values.itemsize == 2 else values.dtype
    with np.errstate(all="ignore"):
        total = values[0].astype(wide)
        for row in values[1:]:
            total = binary(op)(total, row.astype(wide))
        if op == "avg":
            average(total, len(values))
        return total.astype(values.dtype)


def distinct(size, count, dtype, op="sum", seed=0):
    """Values [size, count] that all differ, in an order that has nothing to do with rank and index.

    Integers are odd for "prod", so that no product is a multiple of 2**32, and of both signs otherwise. Floats are
    neighbours of 1 or spread around it, of both signs, so that their sums and products depend on the order.
    """
    dtype = DTYPES[dtype]
    number = np.random.default_rng(seed).permutation(size * count).reshape(size, count)
    if dtype.kind == "i":
        return (2 * number + 1 if op == "prod" else number - size * count // 2).astype(dtype)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    one = int(bits(np.ones(1, dtype))[0])
    octave = int(bits(np.full(1, 2, dtype))[0]) - one
    stride = max(1, 2 * octave // max(1, size * count))  # over [0.5, 2) if there are enough floats in it
    pattern = one - stride * (size * count // 2) + stride * number
    values = pattern.astype(unsigned).view(dtype)
    return np.where(number % 3 == 0, -values, values)


def special(size, count, dtype, seed=0):
    """Values [size, count] of which many are +0, -0, an infinity or a NaN, with 31 payloads of each sign."""
    dtype = DTYPES[dtype]
    kind = np.random.default_rng(seed).integers(0, 8, (size, count))
    values = np.select(
        [kind == k for k in range(4)], [0.0, -0.0, math.inf, -math.inf], distinct(size, count, dtype.name)
    ).astype(dtype)
    nan = bits(np.full((size, count), np.nan, dtype))
    nan |= (np.arange(size * count) % 31 + 1).reshape(size, count).astype(nan.dtype)  # what bfloat16 has room for
    nans = nan.view(dtype)
    return np.select([kind == 6, kind == 7], [nans, -nans], values)


def check(result, values, op):
    """That `result` [count] is `values` [size, count] combined: exactly, or for floats within the rounding errors."""
    dtype, size = result.dtype, len(values)
    if op in ("max", "min"):
        wanted = reduce({"max": np.maximum, "min": np.minimum}[op], values)
        np.testing.assert_array_equal(result, wanted)
    elif dtype.kind == "i":
        np.testing.assert_array_equal(result, _integers(values, op))
    else:
        exact, scale = _floats(values, op)
        error = np.abs(result.astype(np.float64) - exact)
        assert (error <= 1.01 * size * ROUNDING[dtype.name] * scale).all(), (result, exact)


def _integers(values, op):
    """In Python's own integers, wrapped at the end."""
    columns = values.T.tolist()
    if op == "avg":
        return np.array([math.trunc(Fraction(sum(column), len(values))) for column in columns], values.dtype)
    wide = [math.prod(column) if op == "prod" else sum(column) for column in columns]
    unsigned = np.array([number % 2 ** (8 * values.itemsize) for number in wide], f"u{values.itemsize}")
    return unsigned.view(values.dtype)


def _floats(values, op):
    """(the exact results, what rounding errors are relative to), each [count] and in float64."""
    columns = values.T.astype(np.float64).tolist()
    if op == "prod":
        exact = np.array([float(math.prod(map(Fraction, column))) for column in columns])
        return exact, np.abs(exact)
    share = len(values) if op == "avg" else 1
    exact = np.array([math.fsum(column) / share for column in columns])
    return exact, np.array([math.fsum(map(abs, column)) / share for column in columns])
