"""The mean of a sum over ranks, cast to another type on the way out.

Floats are divided in their own type, half types in float32, and the quotient is rounded once to the type wanted; from
float64 to a half type it goes by way of float32. Integers stay in their type and are rounded toward zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.device import CUDA, Device, addresses, blocks_for, element
from hpcdist.kernels.reduce import DTYPES
from hpcdist.kernels.reduce import average as divide

FLOATS = tuple(name for name, dtype in DTYPES.items() if dtype.kind != "i")
INTEGERS = tuple(name for name in DTYPES if name not in FLOATS)
PAIRS = (*((of, to) for of in FLOATS for to in FLOATS), *((name, name) for name in INTEGERS))

KERNELS = tuple(f"average_{of}_{to}" for of, to in PAIRS)


def averaged(total: NDArray, size: int, dtype: np.dtype) -> NDArray:
    """What `average` puts into its result, computed by NumPy."""
    wide = total.astype(np.float32) if total.dtype.itemsize == 2 else total.copy()
    with np.errstate(all="ignore"):
        divide(wide, size)
        return (wide.astype(np.float32) if dtype.itemsize == 2 else wide).astype(dtype)


def average(out: Any, total: Any, size: int, *, on: Device = CUDA) -> None:
    """Put `total` / `size` into `out`; both [n] in device memory, and the same array if their types are one.

    Floor: the bytes of an element of `total` and of one of `out`, over the memory's bandwidth.

    Raises:
        TypeError: if an array is not in device memory, or there is no kernel between the two types.
        ValueError: if `size` is not positive, or counts or memory do not fit.
    """
    of, to = element(total), element(out)
    if (of, to) not in PAIRS:
        raise TypeError(f"there is no average of {of} as {to}; floats go to floats, and integers to their own type")
    if size < 1:
        raise ValueError(f"a mean over {size} ranks is none")
    at = addresses(
        on,
        {"out": out},
        {"total": total},
        counts={"out": total.size, "total": total.size},
        types={"out": to, "total": of},
        in_place=of == to,
    )
    if total.size:
        blocks = blocks_for(max(total.nbytes, out.nbytes) // 16)
        divisor = np.float64(size) if of in FLOATS else np.int64(size)
        on.launch("average", f"average_{of}_{to}", blocks, (at["out"], at["total"], divisor, total.size))
