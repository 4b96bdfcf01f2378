"""A flat buffer of several segments (layers, tensors), cut into tiles that blocks of a GPU take in turn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.device import CUDA, MOST_BLOCKS, Device

TILE = 4096  # elements at most: 16 KiB of float32, enough to hide what a block costs to start


def tiles_of(sizes: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut segments of these sizes into tiles; each tile lies in one segment, in order.

    Returns: the table of tiles [tiles, 3] (begin, end, segment), the first tile of every segment [segments + 1], the
        first element of every segment [segments + 1].
    """
    offsets = np.concatenate(([0], np.cumsum(np.asarray(sizes, np.int64)))).astype(np.int64)
    numbers = -(-np.diff(offsets) // TILE)
    first = np.concatenate(([0], np.cumsum(numbers))).astype(np.int64)
    segment = np.repeat(np.arange(len(sizes)), numbers)
    begin = offsets[segment] + TILE * (np.arange(first[-1]) - first[segment])
    end = np.minimum(begin + TILE, offsets[segment + 1])
    return np.stack([begin, end, segment], axis=1).astype(np.int64), first, offsets


class Segments:
    """The tables of a flat buffer in device memory; made once, used by every step."""

    def __init__(self, sizes: Sequence[int], *, on: Device = CUDA) -> None:
        """Cut segments of `sizes` elements; ValueError for a negative size."""
        if any(size < 0 for size in sizes):
            raise ValueError(f"segments have sizes {list(sizes)}; none can be negative")
        self.sizes, self.on = tuple(sizes), on
        table, first, offsets = tiles_of(sizes)
        self.count, self.tiles = int(offsets[-1]), len(table)
        self._arrays = on.put(table.reshape(-1)), on.put(first), on.put(offsets)
        self.table, self.first, self.offsets = (np.uint64(on.address("a table", array)) for array in self._arrays)

    @property
    def blocks(self) -> int:
        """Blocks of a launch that takes the tiles."""
        return max(1, min(self.tiles, MOST_BLOCKS))
