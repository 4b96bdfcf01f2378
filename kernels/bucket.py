"""Many small tensors in one flat buffer, so that they travel as one message, and back into their places."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels.device import CUDA, Device, addresses, element
from hpcdist.kernels.segments import Segments

KERNELS = tuple(f"{way}_{nbytes}" for way in ("pack", "unpack") for nbytes in (1, 2, 4, 8))


def packed(tensors: Sequence[NDArray]) -> NDArray:
    """The tensors behind each other, flat, computed by NumPy."""
    return np.concatenate([tensor.reshape(-1) for tensor in tensors])


def unpacked(flat: NDArray, shapes: Sequence[tuple[int, ...]]) -> list[NDArray]:
    """Tensors of these shapes out of a flat buffer, computed by NumPy."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]


class Bucket:
    """Tensors of any shapes and one type, whose addresses stay the same, and their places in a flat buffer."""

    def __init__(self, tensors: Sequence[Any], *, on: Device = CUDA) -> None:
        """Note where the tensors are; they are kept alive.

        Raises:
            TypeError: if a tensor is not in device memory, or not of the type of the others.
            ValueError: if there is none, one has gaps, or two share memory.
        """
        if not tensors:
            raise ValueError("a bucket of no tensors cannot be packed")
        self.tensors, self.on, self.kind = tuple(tensors), on, element(tensors[0])
        for number, tensor in enumerate(tensors):
            if element(tensor) != self.kind:
                raise TypeError(f"tensors[{number}] has {element(tensor)} elements, the first one {self.kind}")
        self._begin = np.array([on.address(f"tensors[{n}]", tensor) for n, tensor in enumerate(tensors)], np.uint64)
        self._end = self._begin + np.array([tensor.nbytes for tensor in tensors], np.uint64)
        self._refuse_common_memory()
        self.segments = Segments([tensor.size for tensor in tensors], on=on)
        self._pointers = on.put(self._begin)

    def _refuse_common_memory(self) -> None:
        order = np.argsort(self._begin, kind="stable")
        order = order[self._begin[order] < self._end[order]]
        for one, other in pairwise(order):
            if self._end[one] > self._begin[other]:
                raise ValueError(f"tensors[{one}] and tensors[{other}] share memory; a bucket needs them apart")

    def pack(self, flat: Any) -> None:
        """Copy all tensors into `flat` [segments.count].

        Floor: 2 * itemsize bytes per element, over the memory's bandwidth.

        Raises:
            TypeError: if `flat` is not in device memory or of another type than the tensors.
            ValueError: if it has another count than all tensors together, or shares memory with one of them.
        """
        self._launch("pack", flat)

    def unpack(self, flat: Any) -> None:
        """Copy `flat` [segments.count] back into the tensors; floor and errors as for `pack`."""
        self._launch("unpack", flat)

    def _launch(self, way: str, flat: Any) -> None:
        count = {"flat": self.segments.count}
        at = addresses(self.on, {"flat": flat}, {}, counts=count, types={"flat": self.kind})["flat"]
        common = np.flatnonzero((self._begin < at + np.uint64(flat.nbytes)) & (at < self._end))
        if flat.nbytes and common.size:
            raise ValueError(f"flat and tensors[{common[0]}] share memory; a bucket needs them apart")
        pointers = np.uint64(self.on.address("the table of tensors", self._pointers))
        ends = (at, pointers) if way == "pack" else (pointers, at)
        tables = self.segments.offsets, self.segments.table, self.segments.tiles
        if self.segments.count:
            self.on.launch("bucket", f"{way}_{flat.itemsize}", self.segments.blocks, (*ends, *tables))
