"""Reductions of two buffers, element by element, and what "avg" does at the end.

A half-precision sum is computed in float32 and rounded once per addition, which is what NumPy's and ml_dtypes'
float16 and bfloat16 loops do. Compiled code has faster loops for them, with the same bits, in `half_loops`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
}

_UFUNCS: dict[str, np.ufunc] = {
    "sum": np.add,
    "avg": np.add,
    "max": np.maximum,
    "min": np.minimum,
    "prod": np.multiply,
}

OPS = tuple(_UFUNCS)
PAGE, LINE = 4096, 64  # bytes
SLOW = range(1 << 11, 1 << 19)  # bytes of a copy whose time depends on where it begins and ends
PIECE = 1 << 15  # bytes combined at a time, which stay in cache


def binary(op: str) -> np.ufunc:
    """The function of two operands behind an operation; "avg" sums, and `average` finishes it.

    Raises: ValueError for an unknown operation.
    """
    if op not in _UFUNCS:
        raise ValueError(f"there is no operation {op!r}; choose from {', '.join(OPS)}.")
    return _UFUNCS[op]


def combination(op: str, left: NDArray, right: NDArray, out: NDArray) -> Callable[[], object]:
    """A call without arguments that puts `left` op `right` into `out`, which may be one of the two.

    It computes the same bits whichever that is. NumPy does not for a single element: with `out` on the left
    it runs its loop for reductions over an axis, which keeps the other one of two NaNs.
    """
    combine = binary(op)
    if out.size != 1 and combine in (np.add, np.multiply):
        return partial(combine, left, right, out)  # saves the 0.15 us that a name takes; the others ask for it
    if out.size != 1:
        return partial(combine, left, right, out=out)
    result = np.empty_like(out)

    def combine_one() -> None:
        combine(left, right, out=result)
        out[...] = result

    return combine_one


def copy(target: NDArray, source: NDArray) -> None:
    """Copy between arrays of one size and dtype that do not overlap, wherever they begin; see `copy_loops`."""
    further = (target.ctypes.data - source.ctypes.data) % PAGE
    if 0 < further < LINE and SLOW.start <= source.nbytes < SLOW.stop:
        number = f"u{source.itemsize}"
        np.positive(source.view(number), out=target.view(number))  # a loop over vectors
    else:
        np.copyto(target, source)


def average(total: NDArray, size: int) -> None:
    """Divide a sum over `size` ranks in place; integers are rounded toward zero."""
    if total.dtype.kind == "i":
        np.subtract(total, np.fmod(total, size), out=total)
        np.floor_divide(total, size, out=total)
    else:
        np.divide(
            total,
            np.asarray(size, total.dtype) if total.dtype.itemsize > 2 else np.float32(size),
            out=total,
            casting="unsafe",
        )


def combine_in_order(op: str, sources: Sequence[NDArray], targets: Sequence[NDArray], divisor: int = 1) -> None:
    """Combine sources of one dtype and size in their order, divide the result, and put it into all targets.

    A 16-bit type is combined in float32 and rounded once. A target may be one of the sources.
    """
    dtype, count = sources[0].dtype, sources[0].size
    wide = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    length = PIECE // wide.itemsize
    with np.errstate(all="ignore"):
        for first in range(0, count, length):
            piece = slice(first, first + length)
            total = _combined(binary(op or "sum"), [source[piece].astype(wide, copy=False) for source in sources])
            if divisor > 1:
                average(total, divisor)
            for target in targets:
                target[piece] = total


def _combined(combine: np.ufunc, pieces: Sequence[NDArray]) -> NDArray:
    """A new array: into an old one, NumPy would keep the other one of two NaNs of a single element."""
    if len(pieces) == 1:
        return pieces[0].copy()
    total = combine(pieces[0], pieces[1])
    for other in pieces[2:]:
        total = combine(total, other, out=total) if len(total) > 1 else combine(total, other)
    return total
