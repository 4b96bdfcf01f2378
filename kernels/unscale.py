"""Mixed precision: gradients of a scaled loss, back at their true size in float32, and whether all are finite."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.device import CUDA, Device, addresses, blocks_for, element

TYPES = ("float32", "float16", "bfloat16")

KERNELS = tuple(f"unscale_{name}" for name in TYPES)


def unscaled(gradient: NDArray, inverse: float) -> tuple[NDArray[np.float32], bool]:
    """What `unscale` puts into its result, computed by NumPy, and whether anything in it is infinite or NaN."""
    with np.errstate(all="ignore"):
        out = gradient.astype(np.float32) * np.float32(inverse)
    return out, not np.isfinite(out).all()


def unscale(out: Any, gradient: Any, inverse: float, overflow: Any, *, on: Device = CUDA) -> None:
    """Put `gradient` * `inverse` into `out`; set `overflow[0]` to 1 if anything is then infinite or NaN.

    The flag is never set to 0, so that one flag serves many calls; what is infinite is written, too.

    Floor: itemsize of `gradient` + 4 bytes per element, over the memory's bandwidth.

    Args:
        out: float32 [n]; for a float32 gradient it may be the same array.
        gradient: float32, float16 or bfloat16 [n].
        inverse: 1 / (loss scale).
        overflow: int32 [1].
        on: The device.

    Raises:
        TypeError: if an array is not in device memory or of another type.
        ValueError: if counts or memory do not fit.
    """
    kind = element(gradient)
    if kind not in TYPES:
        raise TypeError(f"gradient has {kind} elements; supported are {', '.join(TYPES)}")
    at = addresses(
        on,
        {"out": out, "overflow": overflow},
        {"gradient": gradient},
        counts={"out": gradient.size, "gradient": gradient.size, "overflow": 1},
        types={"out": "float32", "gradient": kind, "overflow": "int32"},
        in_place=kind == "float32",
    )
    if gradient.size:
        arguments = at["out"], at["gradient"], np.float32(inverse), at["overflow"], gradient.size
        on.launch("unscale", f"unscale_{kind}", blocks_for(gradient.size // 4), arguments)
