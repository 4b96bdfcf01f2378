"""Gradients in 8 bits: one scale for every 256 elements, and the rounding error carried into the next step.

    value = x + error;  scale = max |value| / 127;  code = round(value / scale);  error = value - code * scale

Error feedback is that of F. Seide et al., "1-bit stochastic gradient descent", Interspeech 2014. A group that holds an
infinity or a NaN gets the scale NaN, so that whoever dequantises it sees the trouble, and its error is dropped, so that
the trouble does not stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.device import CUDA, Device, addresses, blocks_for

GROUP = 256  # elements that share a scale, as in quantise.cu
WARP = 32  # threads that handle a group

KERNELS = ("quantise", "dequantise")


def groups(count: int) -> int:
    """Scales that `count` elements have."""
    return -(-count // GROUP)


def quantised(
    x: NDArray[np.float32], error: NDArray[np.float32]
) -> tuple[NDArray[np.int8], NDArray[np.float32], NDArray[np.float32]]:
    """Codes [n], scales [groups(n)] and the new error [n], computed by NumPy."""
    value = np.zeros((groups(len(x)), GROUP), np.float32)
    with np.errstate(all="ignore"):
        value.reshape(-1)[: len(x)] = x + error
        largest = np.abs(value).max(axis=1, initial=0)
        finite = np.isfinite(largest)
        scale = np.where(finite, largest / np.float32(127), np.float32(np.nan)).astype(np.float32)
        wide = scale[:, np.newaxis]
        code = np.where(wide > 0, np.clip(np.rint(value / wide), -127, 127), np.float32(0)).astype(np.int8)
        left = np.where(finite[:, np.newaxis], value - code.astype(np.float32) * wide, np.float32(0))
    return code.reshape(-1)[: len(x)], scale, left.reshape(-1)[: len(x)]


def dequantised(codes: NDArray[np.int8], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """What codes [n] stand for, float32 [n], computed by NumPy."""
    return codes.astype(np.float32) * np.repeat(scales, GROUP)[: len(codes)]


def quantise(codes: Any, scales: Any, error: Any, x: Any, *, on: Device = CUDA) -> None:
    """Write the codes and scales of `x` + `error`, and what they miss into `error`.

    Floor: 13 bytes per element (8 read, 4 + 1 written) and 4 per group, over the memory's bandwidth.

    Args:
        codes: int8 [n].
        scales: float32 [groups(n)].
        error: float32 [n]; all zero before the first step.
        x: float32 [n].
        on: The device.

    Raises:
        TypeError: if an array is not in device memory or of another type.
        ValueError: if counts do not fit, or arrays share memory.
    """
    at = addresses(
        on,
        {"codes": codes, "scales": scales, "error": error},
        {"x": x},
        counts={"codes": x.size, "scales": groups(x.size), "error": x.size, "x": x.size},
        types={"codes": "int8", "scales": "float32", "error": "float32", "x": "float32"},
    )
    if x.size:
        on.launch("quantise", "quantise", blocks_for(WARP * groups(x.size)), (*at.values(), x.size))


def dequantise(out: Any, codes: Any, scales: Any, *, on: Device = CUDA) -> None:
    """Write what `codes` [n] and `scales` [groups(n)] stand for into `out`, float32 [n].

    Floor: 5 bytes per element and 4 per group, over the memory's bandwidth.

    Raises:
        TypeError: if an array is not in device memory or of another type.
        ValueError: if counts do not fit, or arrays share memory.
    """
    at = addresses(
        on,
        {"out": out},
        {"codes": codes, "scales": scales},
        counts={"out": codes.size, "codes": codes.size, "scales": groups(codes.size)},
        types={"out": "float32", "codes": "int8", "scales": "float32"},
    )
    if codes.size:
        on.launch("quantise", "dequantise", blocks_for(codes.size // 4), (*at.values(), codes.size))
