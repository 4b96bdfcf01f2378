"""Top-k compression: the elements of largest magnitude, with their indices, and their sum into a dense buffer.

The threshold is found by a radix search over the 31 bits of the magnitudes, which have the order of the numbers: each
pass counts one digit and keeps the one in which the k-th largest lies. One pass is an estimate, at most 1/8 below the
k-th largest magnitude; three passes give it exactly. A NaN counts as the largest, so that it travels and is seen; a
zero is never selected. Everything stays on the device: no pass waits for the host.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.device import CUDA, Device, addresses, blocks_for

DIGITS = ((20, 11), (10, 10), (0, 10))  # (shift, width) in bits of each pass, from the top
BINS = 2048  # of the widest digit, as in sparse.cu
SPAN = 4096  # elements of a block in the selection, as in sparse.cu
MOST_ELEMENTS = 2**31 - 1  # that indices of 4 bytes can tell apart

SEARCH = np.dtype([("threshold", np.uint32), ("wanted", np.int64)], align=True)

KERNELS = ("count_digits", "pick_digit", "count_selected", "scan_counts", "write_selected", "scatter_add")


def _magnitudes(x: NDArray[np.float32]) -> NDArray[np.uint32]:
    return x.view(np.uint32) & np.uint32(0x7FFFFFFF)


def threshold_of(x: NDArray[np.float32], k: int, passes: int = 1) -> int:
    """The magnitude, as bits, that at least `k` elements of `x` reach, computed by NumPy."""
    shift, _ = DIGITS[passes - 1]
    kth = np.sort(_magnitudes(x))[len(x) - k]
    return int(kth) >> shift << shift


def selected(
    x: NDArray[np.float32], k: int, capacity: int, passes: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.float32], int]:
    """Indices, which rise, and values of at most `capacity` elements, and how many there are, computed by NumPy."""
    sizes = _magnitudes(x)
    indices = np.flatnonzero((sizes >= threshold_of(x, k, passes)) & (sizes > 0)).astype(np.int32)
    return indices[:capacity], x[indices[:capacity]], len(indices)


def scattered(out: NDArray[np.float32], indices: NDArray[np.int32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """`out` with `values` added at `indices`, which differ, computed by NumPy."""
    result = out.copy()
    result[indices] += values
    return result


def select(indices: Any, values: Any, x: Any, k: int, *, passes: int = 1, on: Device = CUDA) -> Any:
    """Write the indices and values of the about `k` elements of largest magnitude, in the order of their indices.

    At least `k` are selected, fewer only if fewer are not zero; more if several share the threshold. Those beyond the
    length of `indices` are not written, so give it room, and look at the count.

    Floor: 4 * (passes + 2) bytes per element of `x`, and 8 per selected one, over the memory's bandwidth.

    Args:
        indices: int32 [capacity].
        values: float32 [capacity].
        x: float32 [n].
        k: How many elements are wanted, 1 .. n.
        passes: 1 for an estimated threshold, 2 for one within 2**-13, 3 for the exact one.
        on: The device.

    Returns: int64 [1] in device memory: how many elements were selected, whether they had room or not.

    Raises:
        TypeError: if an array is not in device memory or of another type.
        ValueError: if `k`, `passes`, counts or memory do not fit.
    """
    if not 1 <= k <= x.size:
        raise ValueError(f"{k} of {x.size} elements cannot be selected; k must be from 1 to {x.size}")
    if not 1 <= passes <= len(DIGITS):
        raise ValueError(f"there is no search of {passes} passes; choose from 1 to {len(DIGITS)}")
    if x.size > MOST_ELEMENTS:
        raise ValueError(f"x has {x.size} elements; indices of 4 bytes reach {MOST_ELEMENTS}. Select from parts of it")
    at = addresses(
        on,
        {"indices": indices, "values": values},
        {"x": x},
        counts={"indices": values.size, "values": values.size, "x": x.size},
        types={"indices": "int32", "values": "float32", "x": "float32"},
    )
    search = _search(at["x"], x.size, k, passes, on)
    spans = -(-x.size // SPAN)
    counts = on.empty(spans + 1, np.int64)
    found, table = (np.uint64(on.address("workspace", array)) for array in (search, counts))
    blocks = blocks_for(256 * spans)
    on.launch("sparse", "count_selected", blocks, (table, at["x"], x.size, found))
    on.launch("sparse", "scan_counts", 1, (table, spans))
    into = at["indices"], at["values"], values.size
    on.launch("sparse", "write_selected", blocks, (*into, at["x"], x.size, found, table))
    return counts[spans:]


def _search(x: np.uint64, count: int, k: int, passes: int, on: Device) -> Any:
    """A `Search` of sparse.cu in device memory, whose threshold is found."""
    search, counts = on.put(np.array([(0, k)], SEARCH).view(np.uint8)), on.zeros(BINS, np.uint64)
    found, bins = (np.uint64(on.address("workspace", array)) for array in (search, counts))
    for shift, width in DIGITS[:passes]:
        digit = np.int32(shift), np.int32(width)
        on.launch("sparse", "count_digits", blocks_for(count // 16), (bins, x, count, found, *digit))
        on.launch("sparse", "pick_digit", 1, (found, bins, digit[0]))
    return search


def scatter_add(out: Any, indices: Any, values: Any, outside: Any, *, on: Device = CUDA) -> None:
    """Add `values` [m] to `out` [n] at `indices` [m], which must differ from each other.

    Sources are added by one call each, in the order of their ranks, so that no sum depends on what was faster. An index
    that is not in `out` is left out, and sets `outside[0]` to 1.

    Floor: 16 bytes per value, if indices are dense; up to 72, where each meets a sector of 32 bytes of its own.

    Args:
        out: float32 [n].
        indices: int32 [m].
        values: float32 [m].
        outside: int32 [1].
        on: The device.

    Raises:
        TypeError: if an array is not in device memory or of another type.
        ValueError: if counts do not fit, or arrays share memory.
    """
    at = addresses(
        on,
        {"out": out, "outside": outside},
        {"indices": indices, "values": values},
        counts={"out": out.size, "outside": 1, "indices": values.size, "values": values.size},
        types={"out": "float32", "outside": "int32", "indices": "int32", "values": "float32"},
    )
    if values.size:
        arguments = at["out"], out.size, at["indices"], at["values"], values.size, at["outside"]
        on.launch("sparse", "scatter_add", blocks_for(values.size), arguments)
