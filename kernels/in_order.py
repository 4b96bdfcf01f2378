"""Compiled by Numba: what several arrays hold, combined in their order, into one array or several.

All are given by their addresses, in a row of 64-bit integers: the fields below, then the sources, then the
destinations. A piece is combined aside before it is written, so that a destination may be a source. 16-bit types are
combined in float32 and rounded once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import overload
from numpy.typing import NDArray

from hpcdist.kernels.half_loops import narrow, widen
from hpcdist.kernels.native import entry, intrinsic, words_at

# fields of a row
ASIDE = 0  # the address of PIECE numbers
SOURCES = 1  # how many
DESTINATIONS = 2  # how many
COUNT = 3  # elements of each
OP = 4  # a place in OPS
DIVISOR = 5  # of the result; 1 leaves it
ADDRESSES = 6  # they begin here

OPS = ("sum", "max", "min", "prod")
MAX, MIN, PROD = 1, 2, 3
PIECE = 512  # elements combined at a time: k sources and the result stay in the nearest cache


@intrinsic
def _at(_context: Any, address: Any, like: Any) -> Any:
    """The address as a pointer to elements like this one."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(like)(types.int64, like), generate


def _wide(element: Any) -> Any:
    """An element as the number that is computed with."""


def _stored(number: Any, like: Any) -> Any:
    """A number as it is stored in an array of elements like this one."""


def _quotient(number: Any, size: Any) -> Any:
    """A number divided; integers are rounded toward zero."""


@overload(_wide)
def _wide_of(element: Any) -> Callable:
    def half(element: Any) -> Any:
        return widen(element)

    def other(element: Any) -> Any:
        return element

    return half if element in _HALVES else other


@overload(_stored)
def _stored_as(number: Any, like: Any) -> Callable:
    def half(number: Any, like: Any) -> Any:
        return narrow(number, like)

    def other(number: Any, like: Any) -> Any:
        return number

    return half if like in _HALVES else other


@overload(_quotient)
def _quotient_of(number: Any, size: Any) -> Callable:
    def of_float64(number: Any, size: Any) -> Any:
        return number / size

    def of_float32(number: Any, size: Any) -> Any:
        return number / np.float32(size)

    def of_integer(number: Any, size: Any) -> Any:
        floor = number // size
        return floor + 1 if floor < 0 and floor * size != number else floor

    return {types.float64: of_float64, types.float32: of_float32}.get(number, of_integer)


_HALVES = (types.uint16, types.int16)  # float16, bfloat16: see `half_loops`


@njit(inline="always")  # so that the compiler sees where `total` is `left`
def _combine(op: int, total: NDArray, left: NDArray, right: NDArray) -> None:
    """Put `left` op `right` into `total`, element by element as NumPy does; of two NaNs the left one stays."""
    if op == MAX:
        for i in range(len(total)):
            one, other = _wide(left[i]), _wide(right[i])
            total[i] = one if one >= other or one != one else other
    elif op == MIN:
        for i in range(len(total)):
            one, other = _wide(left[i]), _wide(right[i])
            total[i] = one if one <= other or one != one else other
    elif op == PROD:
        for i in range(len(total)):
            one, other = _wide(left[i]), _wide(right[i])
            total[i] = one * other if one == one else one
    else:
        for i in range(len(total)):
            one, other = _wide(left[i]), _wide(right[i])
            total[i] = one + other if one == one else one


@njit
def _in_order(address: int, like: Any, itemsize: int) -> None:
    """Do what the row at an address says, of elements like this one.

    The first two sources are read at once, and destinations written two at a time, for each pass costs.
    """
    fields = carray(words_at(address), ADDRESSES)
    op, sources, destinations, count = fields[OP], fields[SOURCES], fields[DESTINATIONS], fields[COUNT]
    divisor = fields[DIVISOR]
    places = carray(words_at(address + 8 * ADDRESSES), sources + destinations)
    for first in range(0, count, PIECE):
        length, skip = min(PIECE, count - first), first * itemsize
        total = carray(_at(fields[ASIDE], _wide(like)), length)
        one = carray(_at(places[0] + skip, like), length)
        if sources == 1:
            for i in range(length):
                total[i] = _wide(one[i])
        else:
            _combine(op, total, one, carray(_at(places[1] + skip, like), length))
        for source in range(2, sources):
            _combine(op, total, total, carray(_at(places[source] + skip, like), length))
        if divisor > 1:
            for i in range(length):
                total[i] = _quotient(total[i], divisor)
        for destination in range(sources, sources + destinations - 1, 2):
            out = carray(_at(places[destination] + skip, like), length)
            other = carray(_at(places[destination + 1] + skip, like), length)
            for i in range(length):
                out[i] = other[i] = _stored(total[i], like)
        if destinations % 2:
            out = carray(_at(places[sources + destinations - 1] + skip, like), length)
            for i in range(length):
                out[i] = _stored(total[i], like)


@entry
def float64(row: int) -> int:
    """Do what the row at an address says, of float64; 0."""
    _in_order(row, np.float64(0), 8)
    return 0


@entry
def float32(row: int) -> int:
    """The same of float32."""
    _in_order(row, np.float32(0), 4)
    return 0


@entry
def float16(row: int) -> int:
    """The same of float16."""
    _in_order(row, np.uint16(0), 2)
    return 0


@entry
def bfloat16(row: int) -> int:
    """The same of bfloat16."""
    _in_order(row, np.int16(0), 2)
    return 0


@entry
def int64(row: int) -> int:
    """The same of int64."""
    _in_order(row, np.int64(0), 8)
    return 0


@entry
def int32(row: int) -> int:
    """The same of int32."""
    _in_order(row, np.int32(0), 4)
    return 0


_ENTRIES = {each.__name__: each for each in (float64, float32, float16, bfloat16, int64, int32)}


class Reduction:
    """A row, and what does it.

    Attributes:
        row: where the row is.
        code: where the function is that does rows of this type.
    """

    def __init__(
        self,
        dtype: np.dtype,
        sources: Sequence[int],
        destinations: Sequence[int],
        count: int,
        op: str,
        divisor: int = 1,
    ) -> None:
        """Of `count` elements of `dtype` at each of these addresses; "avg" is a sum with a divisor."""
        self._aside = np.empty(PIECE)
        place = OPS.index("sum" if op in ("avg", "") else op)
        fields = [self._aside.ctypes.data, len(sources), len(destinations), count, place, divisor]
        self._row = np.array([*fields, *sources, *destinations], np.int64)
        self.row, self.code = self._row.ctypes.data, _ENTRIES[dtype.name].address
        self._do = _ENTRIES[dtype.name].ctypes

    def __call__(self) -> None:
        """Do what the row says."""
        self._do(self.row)
