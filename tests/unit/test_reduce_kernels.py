"""The arithmetic on two buffers: the same bits whichever of them takes the result, and each half type rounded once."""

import math
from fractions import Fraction

import numpy as np
import pytest
from buffers import bits, distinct, special

from hpcdist.kernels.reduce import DTYPES, OPS, average, binary, combination

FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind != "i"]
HALVES = ["float16", "bfloat16"]


def combined(op, left, right, into):
    """`left` op `right`, computed in copies, the result put over one of them."""
    left, right = left.copy(), right.copy()
    out = left if into == "left" else right
    with np.errstate(all="ignore"):
        combination(op, left, right, out)()
    return out


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_bits_do_not_depend_on_which_operand_takes_the_result(dtype, op):
    """Two partners each put the sum over their own: they must come to the same, NaNs included."""
    left, right = special(2, 67, dtype)
    for count in (1, 2, 3, 16, 17, 67):
        for start in range(0, 67 - count + 1, count):
            part = slice(start, start + count)
            over_left = combined(op, left[part], right[part], "left")
            over_right = combined(op, left[part], right[part], "right")
            np.testing.assert_array_equal(bits(over_left), bits(over_right))


@pytest.mark.parametrize("dtype", HALVES)
def test_halves_are_combined_in_float32_and_rounded_once(dtype):
    left, right = distinct(2, 100, dtype)
    for op in ("sum", "prod"):
        exact = binary(op)(left.astype(np.float32), right.astype(np.float32))
        np.testing.assert_array_equal(bits(combined(op, left, right, "left")), bits(exact.astype(left.dtype)))


def test_a_nan_wins_every_maximum_and_minimum():
    left, right = np.array([1.0, np.nan]), np.array([np.nan, 1.0])
    for op in ("max", "min"):
        assert np.isnan(combined(op, left, right, "left")).all()


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_integers_wrap_as_in_c(dtype):
    info = np.iinfo(dtype)
    assert combined("sum", np.full(3, info.max, dtype), np.ones(3, dtype), "left").tolist() == [info.min] * 3


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_an_average_of_integers_is_rounded_toward_zero(dtype):
    info = np.iinfo(dtype)
    totals = [*range(-12, 13), info.min, info.min + 1, info.max - 1, info.max]
    for size in (1, 2, 3, 5, 8):
        array = np.array(totals, dtype)
        average(array, size)
        assert array.tolist() == [math.trunc(Fraction(total, size)) for total in totals]


@pytest.mark.parametrize("dtype", FLOATS)
def test_an_average_of_floats_is_the_nearest_to_the_quotient(dtype):
    array = distinct(1, 200, dtype)[0]
    wide = np.float32 if dtype in HALVES else array.dtype
    quotient = (array.astype(wide) / np.asarray(3, wide)).astype(array.dtype)
    average(array, 3)
    np.testing.assert_array_equal(bits(array), bits(quotient))


@pytest.mark.parametrize("dtype", HALVES)
def test_an_average_over_more_ranks_than_a_half_can_count_is_right(dtype):
    """4097 is no float16 or bfloat16 number, and 70000 is beyond float16."""
    for size in (4097, 70_000):
        array = np.full(4, 1000.0, DTYPES[dtype])
        average(array, size)
        assert array.astype(float) == pytest.approx(1000 / size, rel=2**-8)


def test_a_type_is_found_under_its_own_name():
    assert [dtype.name for dtype in DTYPES.values()] == list(DTYPES)


def test_an_unknown_operation_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match="no operation 'mean'; choose from sum, avg, max, min, prod"):
        binary("mean")
