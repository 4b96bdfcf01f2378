"""Sum, product, maximum or minimum of two arrays, or of up to 16 in the order of their rows.

Two sources: a half type is combined in float32 and rounded once, as `reduce.binary` does. More sources: ((row 0 op
row 1) op row 2) ..., held in float32 for half types and rounded once, at the end, so that the result is not that of
combining two by two; it never depends on which source was there first.

Bits are those of NumPy on x86, but for one rule that NumPy keeps only most of the time: of two NaNs the left one stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.device import CUDA, Device, addresses, blocks_for, element
from hpcdist.kernels.reduce import DTYPES, binary

OPS = ("sum", "prod", "max", "min")
MOST_SOURCES = 16

KERNELS = tuple(f"{op}_{form}_{dtype}" for dtype in DTYPES for op in OPS for form in ("two", "rows"))


def combined(op: str, sources: Sequence[NDArray]) -> NDArray:
    """What `combine` puts into its result, computed by NumPy."""
    first = sources[0]
    wide = np.float32 if first.dtype.itemsize == 2 and op in ("sum", "prod") else first.dtype
    with np.errstate(all="ignore"):
        result = reduce(partial(_pair, op), [source.astype(wide) for source in sources])
        return result.astype(first.dtype)


def _pair(op: str, left: NDArray, right: NDArray) -> NDArray:
    result = binary(op)(left, right)
    both = np.isnan(left) & np.isnan(right)
    result[both] = binary(op)(left[both], np.ones_like(left[both]))
    return result


def combine(op: str, out: Any, sources: Sequence[Any], *, on: Device = CUDA) -> None:
    """Put `sources` combined into `out`, which may be one of them; arrays [n] of one type in device memory.

    Floor: (k + 1) * itemsize bytes per element of k sources, over the memory's bandwidth.

    Raises:
        TypeError: if an array is not in device memory, or not of the type of the others.
        ValueError: for an unknown operation or type, no source or more than 16, and counts or memory that do not fit.
    """
    kind = element(out)
    if op not in OPS:
        raise ValueError(f"there is no kernel for {op!r}; choose from {', '.join(OPS)}")
    if kind not in DTYPES:
        raise ValueError(f"out has {kind} elements; supported are {', '.join(DTYPES)}")
    if not 1 <= len(sources) <= MOST_SOURCES:
        raise ValueError(f"there are {len(sources)} sources; a kernel takes from 1 to {MOST_SOURCES}")
    rows = {f"sources[{row}]": source for row, source in enumerate(sources)}
    names = ["out", *rows]
    at = addresses(
        on,
        {"out": out},
        rows,
        counts=dict.fromkeys(names, out.size),
        types=dict.fromkeys(names, kind),
        in_place=True,
    )
    if out.size == 0:
        return
    blocks = blocks_for(out.nbytes // 16)
    if len(sources) == 2:
        left, right = (at[name] for name in rows)
        on.launch("combine", f"{op}_two_{kind}", blocks, (at["out"], left, right, out.size))
    else:
        table = on.put(np.array([at[name] for name in rows], np.uint64))
        pointers = np.uint64(on.address("the table of sources", table))
        on.launch("combine", f"{op}_rows_{kind}", blocks, (at["out"], pointers, np.int32(len(rows)), out.size))
