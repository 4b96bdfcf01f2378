"""Sum, product, maximum or minimum of two arrays, or of up to 64 in the order of their rows, into one array or several.

Two sources: a half type is combined in float32 and rounded once, as `reduce.binary` does. More sources: ((row 0 op
row 1) op row 2) ..., held in float32 for half types and rounded once, at the end, so that the result is not that of
combining two by two; it never depends on which source was there first.

Bits are those of NumPy on x86, but for one rule that NumPy keeps only most of the time: of two NaNs the left one stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.device import CUDA, Device, addresses, blocks_for, element
from hpcdist.kernels.reduce import DTYPES, binary

OPS = ("sum", "prod", "max", "min")
MOST = 64  # sources, and targets, as in combine.cu

KERNELS = tuple(f"{op}_{form}_{dtype}" for dtype in DTYPES for op in OPS for form in ("two", "rows"))


def combined(op: str, sources: Sequence[NDArray]) -> NDArray:
    """What `combine` puts into its result, and `combine_into_all` into each of its targets, computed by NumPy."""
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
        ValueError: for an unknown operation or type, no source or more than 64, and counts or memory that do not fit.
    """
    _combine(op, {"out": out}, sources, on)


def combine_into_all(op: str, targets: Sequence[Any], sources: Sequence[Any], *, on: Device = CUDA) -> None:
    """Put `sources` combined into all of `targets`, reading each source once; a target may be one of the sources.

    Floor: (k + m) * itemsize bytes per element of k sources and m targets, over the memory's bandwidth.

    Raises: as `combine`, and ValueError for no target or more than 64.
    """
    _combine(op, {f"targets[{row}]": target for row, target in enumerate(targets)}, sources, on)


def combine_at(
    op: str, kind: str, targets: Sequence[int], sources: Sequence[int], count: int, *, on: Device = CUDA
) -> None:
    """As `combine_into_all`, of arrays that are known to fit, by their addresses, wherever a kernel reaches them.

    Args:
        op: What to do.
        kind: The type of the elements.
        targets: Where to write, each apart from the others.
        sources: Where to read; each apart from the targets, or the very same as one of them.
        count: Elements of each.
        on: The device that does it.

    Raises: ValueError for an unknown operation or type, or none or more than 64 on either side.
    """
    _check_numbers(len(targets), len(sources))
    _check_kernel(op, kind)
    if count == 0:
        return
    blocks = blocks_for(count * DTYPES[kind].itemsize // 16)
    if len(targets) == 1 and len(sources) == 2:
        pair = (np.uint64(at) for at in (*targets, *sources))
        on.launch("combine", f"{op}_two_{kind}", blocks, (*pair, count))
    else:
        rows = _table(targets), np.int32(len(targets)), _table(sources), np.int32(len(sources))
        on.launch("combine", f"{op}_rows_{kind}", blocks, (*rows, count))


def _combine(op: str, targets: Mapping[str, Any], sources: Sequence[Any], on: Device) -> None:
    _check_numbers(len(targets), len(sources))
    rows = {f"sources[{row}]": source for row, source in enumerate(sources)}
    names, first = [*targets, *rows], next(iter(targets.values()))
    kind = element(first)
    _check_kernel(op, kind)
    at = addresses(
        on,
        targets,
        rows,
        counts=dict.fromkeys(names, first.size),
        types=dict.fromkeys(names, kind),
        in_place=True,
    )
    combine_at(op, kind, [int(at[name]) for name in targets], [int(at[name]) for name in rows], first.size, on=on)


def _check_numbers(targets: int, sources: int) -> None:
    for number, what in ((targets, "targets"), (sources, "sources")):
        if not 1 <= number <= MOST:
            raise ValueError(f"there are {number} {what}; a kernel takes from 1 to {MOST}")


def _check_kernel(op: str, kind: str) -> None:
    if op not in OPS:
        raise ValueError(f"there is no kernel for {op!r}; choose from {', '.join(OPS)}")
    if kind not in DTYPES:
        raise ValueError(f"arrays have {kind} elements; supported are {', '.join(DTYPES)}")


def _table(at: Sequence[int]) -> NDArray:
    """Addresses as one argument that goes to the kernel by value, so that no launch waits for a copy of them."""
    table = np.zeros(MOST, np.uint64)
    table[: len(at)] = at
    return table.view(np.dtype((np.void, table.nbytes)))
