"""The inner loops of reductions of float16 and bfloat16: each pair is combined in float32 and rounded once.

They have the form of NumPy's own (see `loops`) and give the same bits. Numbers are handled as their bits: uint16 stands
for float16, int16 for bfloat16, for numba knows neither.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import carray, njit, types

from hpcdist.kernels.native import bfloat16s_at, float16s_at, intrinsic, loop, words_at

SUM, PROD, MAX, MIN = range(4)  # what the loops take as `data`
TILE = 512  # elements, which are still in the first-level cache when they are read again

_I16, _I32, _HALF, _FLOAT = ir.IntType(16), ir.IntType(32), ir.HalfType(), ir.FloatType()


@intrinsic
def widen(_context: Any, bits: Any) -> Any:
    """The number as float32."""

    def float16(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.fpext(builder.bitcast(values[0], _HALF), _FLOAT)

    def bfloat16(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.bitcast(builder.shl(builder.zext(values[0], _I32), _I32(16)), _FLOAT)

    return types.float32(bits), float16 if bits is types.uint16 else bfloat16


@intrinsic
def narrow(_context: Any, number: Any, like: Any) -> Any:
    """The bits of a float32 rounded to nearest, ties to even; of a NaN, bfloat16 keeps the sign only."""

    def float16(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.bitcast(builder.fptrunc(values[0], _HALF), _I16)

    def bfloat16(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        bits = builder.bitcast(values[0], _I32)
        high = builder.lshr(bits, _I32(16))
        odd = builder.and_(high, _I32(1))
        rounded = builder.lshr(builder.add(builder.add(bits, _I32(0x7FFF)), odd), _I32(16))
        nan = builder.or_(builder.and_(high, _I32(0x8000)), _I32(0x7FC0))
        is_nan = builder.fcmp_unordered("uno", values[0], values[0])
        return builder.trunc(builder.select(is_nan, nan, rounded), _I16)

    return like(types.float32, like), float16 if like is types.uint16 else bfloat16


@intrinsic
def _wins_ties(_context: Any, bits: Any) -> Any:
    """Whether the left of two equal numbers is the maximum: +0 and -0 are told apart by that."""
    left_wins = bits is types.uint16
    return types.boolean(bits), lambda _context, _builder, _signature, _values: ir.IntType(1)(left_wins)


@intrinsic
def _quiet(_context: Any, bits: Any) -> Any:
    """The NaN that comes of a sum with this NaN: float16 keeps all but the signalling, bfloat16 the sign only."""

    def float16(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.or_(values[0], _I16(0x0200))

    def bfloat16(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return builder.or_(builder.and_(values[0], _I16(0x8000)), _I16(0x7FC0))

    return bits(bits), float16 if bits is types.uint16 else bfloat16


@njit
def _rounded(result: float, left: Any, right: Any) -> Any:
    """The result's bits, unless an operand is a NaN: then that one, of two the right one."""
    x, y = widen(left), widen(right)
    return _quiet(right) if y != y else _quiet(left) if x != x else narrow(result, left)


@njit
def _over(mine: Any, other: Any, operation: int, other_first: bool) -> None:
    """Put the combination over `mine`: a loop that writes where it has read can be vectorised."""
    if operation == SUM:
        for i in range(len(mine)):
            left, right = (other[i], mine[i]) if other_first else (mine[i], other[i])
            mine[i] = _rounded(widen(left) + widen(right), left, right)
    elif operation == PROD:
        for i in range(len(mine)):
            left, right = (other[i], mine[i]) if other_first else (mine[i], other[i])
            mine[i] = _rounded(widen(left) * widen(right), left, right)
    elif operation == MAX:
        for i in range(len(mine)):
            left, right = (other[i], mine[i]) if other_first else (mine[i], other[i])
            x, y = widen(left), widen(right)
            mine[i] = left if x > y or x != x or (x == y and _wins_ties(left)) else right
    else:
        for i in range(len(mine)):
            left, right = (other[i], mine[i]) if other_first else (mine[i], other[i])
            x, y = widen(left), widen(right)
            mine[i] = left if x < y or x != x or (x == y and _wins_ties(left)) else right


@njit
def _combine(left: Any, right: Any, out: Any, operation: int, others: tuple[bool, bool]) -> None:
    """Put the combination into `out`, over one of the two or elsewhere: then `left` is put there first, bit by bit."""
    over_left, over_right = others
    if over_left or over_right:
        _over(out, right if over_left else left, operation, over_right)
        return
    for begin in range(0, len(out), TILE):
        tile = slice(begin, begin + TILE)
        out[tile] = left[tile]
        _over(out[tile], right[tile], operation, False)


@loop
def float16(arrays: int, count: int, _steps: int, operation: int) -> None:
    """The loop of float16."""
    left, right, out = carray(words_at(arrays), 3)
    n = carray(words_at(count), 1)[0]
    left_, right_, out_ = carray(float16s_at(left), n), carray(float16s_at(right), n), carray(float16s_at(out), n)
    _combine(left_, right_, out_, operation, (out == left, out == right))


@loop
def bfloat16(arrays: int, count: int, _steps: int, operation: int) -> None:
    """The loop of bfloat16."""
    left, right, out = carray(words_at(arrays), 3)
    n = carray(words_at(count), 1)[0]
    left_, right_, out_ = carray(bfloat16s_at(left), n), carray(bfloat16s_at(right), n), carray(bfloat16s_at(out), n)
    _combine(left_, right_, out_, operation, (out == left, out == right))
