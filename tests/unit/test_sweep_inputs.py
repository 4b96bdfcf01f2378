"""Inputs of the check: exact for every order of the operands, all different, the same on every machine."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from hpcdist.sweep.inputs import BLOCK, PROD_BITS, SUM_BITS, blocks, expected, inputs

DTYPES = [np.dtype(name) for name in ("float64", "float32", "float16", "int32", "int64")]
DTYPES.append(np.dtype(ml_dtypes.bfloat16))
COMBINE = {"sum": np.add, "avg": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
every_op = pytest.mark.parametrize("op", list(COMBINE))


def random_tree(parts, combine, rng):
    """Reduce `parts` two at a time, in a random order and a random shape of tree, in their own type."""
    parts = list(parts)
    while len(parts) > 1:
        left = parts.pop(rng.integers(len(parts)))
        right = parts.pop(rng.integers(len(parts)))
        parts.append(combine(left, right))
    return parts[0]


@pytest.mark.paired(times=4)
@every_dtype
@every_op
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 61, 300])
def test_any_order_in_the_type_itself_gives_the_expected_result(dtype, op, size):
    rng = np.random.default_rng(size)
    count = 40
    parts = [inputs(rank, size, count, dtype, op) for rank in range(size)]
    want = expected(size, count, dtype, op)
    for _ in range(3):
        got = random_tree(parts, COMBINE[op], rng)
        if op == "avg":
            got = np.array([average(value, size, dtype) for value in got], dtype)
        np.testing.assert_array_equal(got, want)


def average(total, size, dtype):
    """The average by exact rational arithmetic: toward zero for integers, else rounded once."""
    exact = Fraction(int(total), size)
    return int(exact) if dtype.kind == "i" else float(exact)


@every_dtype
@pytest.mark.parametrize("op", ["sum", "prod"])
@pytest.mark.parametrize("size", [2, 7, 300])
def test_a_part_that_is_missing_or_counted_twice_shows(dtype, op, size):
    count = 600
    want = expected(size, count, dtype, op)
    part = inputs(size - 1, size, count, dtype, op).astype(np.float64)
    neutral = 0 if op == "sum" else 1
    shows = part != neutral
    limit = 1 << SUM_BITS[dtype.name] if op == "sum" else PROD_BITS[dtype.name]
    assert shows.all() if size <= limit else shows.any()
    assert not np.isnan(want.astype(np.float64)).any()


@every_dtype
def test_values_differ_between_ranks_and_indices_and_seeds(dtype):
    first = inputs(0, 2, 1000, dtype, "sum")
    assert len(np.unique(first)) > 200, "bfloat16 holds 256 such numbers for two ranks, the others many more"
    assert np.mean(first == inputs(1, 2, 1000, dtype, "sum")) < 0.05
    assert np.mean(first == inputs(0, 2, 1000, dtype, "sum", seed=1)) < 0.05
    assert np.mean(first[1:] == first[:-1]) < 0.05


@every_op
def test_a_buffer_made_in_blocks_is_the_same_buffer(op):
    dtype, count = np.dtype("float32"), BLOCK + 17
    whole = inputs(3, 5, count, dtype, op)
    parts = [inputs(3, 5, high - low, dtype, op, start=low) for low, high in blocks(count)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(expected(5, 9, dtype, op, start=BLOCK), expected(5, count, dtype, op)[BLOCK:][:9])


def test_the_numbers_never_change():
    """Two versions, or two machines, must mean the same numbers by one seed."""
    np.testing.assert_array_equal(
        inputs(1, 4, 4, np.dtype("int32"), "sum", seed=2), [-217239050, 248513076, -220016851, -35032736]
    )


def test_no_elements_are_no_special_case():
    assert inputs(0, 3, 0, np.dtype("float32"), "prod").shape == (0,)
    assert expected(3, 0, np.dtype("float32"), "sum").shape == (0,)
