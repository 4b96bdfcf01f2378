"""Momentum SGD over a flat float32 buffer, each segment (layer) with a learning rate and a weight decay of its own.

The arithmetic is that of `hpcdist.optim.sgd`, one rounding after the other:

    velocity   = momentum * velocity + gradient [+ decay * parameters, if decay is not 0]
    parameters = parameters - rate * velocity
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.device import CUDA, Device, addresses
from hpcdist.kernels.segments import Segments, tiles_of

KERNELS = ("sgd",)


def updated(
    parameters: NDArray[np.float32],
    velocity: NDArray[np.float32],
    gradient: NDArray[np.float32],
    sizes: Sequence[int],
    rates: NDArray[np.float32],
    decays: NDArray[np.float32],
    momentum: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Parameters and velocity after `update`, computed by NumPy; the arguments stay as they are."""
    _, _, offsets = tiles_of(sizes)
    parameters, velocity = parameters.copy(), velocity.copy()
    for (begin, end), rate, decay in zip(pairwise(offsets), rates, decays, strict=True):
        w, v = parameters[begin:end], velocity[begin:end]
        v *= np.float32(momentum)
        v += gradient[begin:end]
        if decay:
            v += w * decay
        w -= v * rate
    return parameters, velocity


def update(
    parameters: Any,
    velocity: Any,
    gradient: Any,
    segments: Segments,
    rates: Any,
    decays: Any,
    momentum: float,
    *,
    on: Device = CUDA,
) -> None:
    """Change `parameters` and `velocity` by one step along `gradient`.

    Floor: 20 bytes per element (three arrays read, two written), over the memory's bandwidth.

    Args:
        parameters: float32 [n], n = segments.count.
        velocity: float32 [n].
        gradient: float32 [n].
        segments: The layers, in the order of the buffer.
        rates: float32 [segments], in device memory: the learning rate of each.
        decays: float32 [segments], in device memory: the weight decay of each.
        momentum: What stays of the velocity.
        on: The device.

    Raises:
        TypeError: if an array is not in device memory or not float32.
        ValueError: if counts do not fit, or arrays share memory.
    """
    whole, each = segments.count, len(segments.sizes)
    names = ("parameters", "velocity", "gradient", "rates", "decays")
    at = addresses(
        on,
        {"parameters": parameters, "velocity": velocity},
        {"gradient": gradient, "rates": rates, "decays": decays},
        counts=dict(zip(names, (whole, whole, whole, each, each), strict=True)),
        types=dict.fromkeys(names, "float32"),
    )
    if whole:
        buffers = at["parameters"], at["velocity"], at["gradient"]
        tables = segments.table, segments.tiles, at["rates"], at["decays"]
        on.launch("sgd", "sgd", segments.blocks, (*buffers, *tables, np.float32(momentum)))
