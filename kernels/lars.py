"""LARS: layer-wise adaptive rate scaling.

Y. You, I. Gitman, B. Ginsburg, "Large Batch Training of Convolutional Networks", 2017, algorithm 1, for a layer w with
gradient g:

    local    = trust * |w| / (|g| + decay * |w|)
    velocity = momentum * velocity + rate * local * (g + decay * w)
    w        = w - velocity

The paper leaves open what happens where a norm is zero; here `local` is 1 then. Norms are summed in float64 in an order
that depends on the sizes alone, so that every rank, GPU and alignment comes to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.device import CUDA, THREADS, Device, addresses
from hpcdist.kernels.segments import Segments, tiles_of

KERNELS = ("lars_squares", "lars_rates", "lars_update")


def ordered_sum(numbers: NDArray[np.float64]) -> np.float64:
    """The sum of [n] as one block finds it: thread j adds numbers j, j + THREADS, ...; a tree adds the threads."""
    rows = np.zeros((-(-len(numbers) // THREADS), THREADS))
    rows.reshape(-1)[: len(numbers)] = numbers
    part = np.zeros(THREADS)
    for row in rows:
        part += row
    while len(part) > 1:
        half = len(part) // 2
        part = part[:half] + part[half:]
    return np.float64(part[0])


def local_rates(
    parameters: NDArray[np.float32],
    gradient: NDArray[np.float32],
    sizes: Sequence[int],
    rate: float,
    trust: float,
    decay: float,
) -> NDArray[np.float32]:
    """Learning rate of each segment, computed by NumPy."""
    table, first, _ = tiles_of(sizes)
    squares = [
        np.array([ordered_sum(array[begin:end].astype(np.float64) ** 2) for begin, end, _ in table])
        for array in (parameters, gradient)
    ]
    rates = np.empty(len(sizes), np.float32)
    for s, (begin, end) in enumerate(pairwise(first)):
        w, g = (np.sqrt(ordered_sum(each[begin:end])) for each in squares)
        rates[s] = rate * (trust * w / (g + decay * w) if w > 0 and g > 0 else 1.0)
    return rates


def updated(
    parameters: NDArray[np.float32],
    velocity: NDArray[np.float32],
    gradient: NDArray[np.float32],
    sizes: Sequence[int],
    *,
    rate: float,
    trust: float,
    momentum: float,
    decay: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Parameters and velocity after `update`, computed by NumPy; the arguments stay as they are."""
    of_segment = local_rates(parameters, gradient, sizes, rate, trust, decay)
    rates = np.repeat(of_segment, sizes)
    slope = gradient + parameters * np.float32(decay)
    faster = (velocity * np.float32(momentum) + slope * rates).astype(np.float32, copy=False)
    return parameters - faster, faster


def update(
    parameters: Any,
    velocity: Any,
    gradient: Any,
    segments: Segments,
    *,
    rate: float,
    trust: float,
    momentum: float,
    decay: float,
    on: Device = CUDA,
) -> None:
    """Change `parameters` and `velocity` by one step along `gradient`: float32 [segments.count] in device memory.

    Floor: 28 bytes per element (parameters and gradient twice, velocity once; two written), over the memory's
    bandwidth. Biases and normalisation are best updated by `sgd`, which knows no trust ratio.

    Raises:
        TypeError: if an array is not in device memory or not float32.
        ValueError: if counts do not fit, or arrays share memory.
    """
    names = ("parameters", "velocity", "gradient")
    at = addresses(
        on,
        {"parameters": parameters, "velocity": velocity},
        {"gradient": gradient},
        counts=dict.fromkeys(names, segments.count),
        types=dict.fromkeys(names, "float32"),
    )
    if segments.count == 0:
        return
    each = len(segments.sizes)
    squares, rates = on.empty(2 * segments.tiles, np.float64), on.empty(each, np.float32)
    sums, scaled = (np.uint64(on.address("workspace", array)) for array in (squares, rates))
    tiles = segments.table, segments.tiles
    on.launch("lars", "lars_squares", segments.blocks, (sums, at["parameters"], at["gradient"], *tiles))
    scalars = float(rate), float(trust), float(decay)
    on.launch("lars", "lars_rates", each, (scaled, sums, segments.first, each, segments.tiles, *scalars))
    buffers = at["parameters"], at["velocity"], at["gradient"]
    on.launch(
        "lars", "lars_update", segments.blocks, (*buffers, *tiles, scaled, np.float32(momentum), np.float32(decay))
    )
