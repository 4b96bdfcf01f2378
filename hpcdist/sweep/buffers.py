"""Where the buffers of a sweep lie, and how they are filled and looked at: host memory, or that of a device.

What fills a device buffer again and again is in its memory already: numbers go there once, pieces of equal bytes too.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcdist.device import Accelerator
from hpcdist.device.paths import HOST

PIECE = 1 << 20  # bytes


class Buffers(Protocol):
    """Makes, fills and reads buffers; each call is complete when it returns.

    Attributes:
        memory: "host", or the kind of device.
    """

    memory: str

    @property
    def accelerator(self) -> Accelerator | None:
        """The device; None for host memory."""

    def empty(self, count: int, dtype: np.dtype) -> Any:
        """A new flat buffer. Raises MemoryError if there is no room."""

    def put(self, values: NDArray) -> Any:
        """Numbers in a form that `copy` takes."""

    def copy(self, target: Any, source: Any) -> None:
        """Fill a buffer with numbers that were `put`."""

    def fill(self, target: Any, byte: int) -> None:
        """Set every byte of a buffer."""

    def get(self, buffer: Any, dtype: np.dtype) -> NDArray:
        """What is in a buffer, in host memory."""


class OnHost:
    """NumPy arrays."""

    memory = HOST
    accelerator = None

    def empty(self, count: int, dtype: np.dtype) -> NDArray:
        """A new flat array."""
        return np.zeros(count, dtype)

    def put(self, values: NDArray) -> NDArray:
        """The numbers as they are."""
        return values

    def copy(self, target: NDArray, source: NDArray) -> None:
        """Fill an array."""
        target[:] = source

    def fill(self, target: NDArray, byte: int) -> None:
        """Set every byte of an array."""
        target.view(np.uint8).fill(byte)

    def get(self, buffer: NDArray, dtype: np.dtype) -> NDArray:
        """The array itself."""
        return buffer


class OnDevice:
    """Arrays in the memory of a device."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.memory, self.accelerator = accelerator.kind, accelerator
        self.stream = accelerator.stream()
        self._piece = cache(lambda byte: accelerator.put(np.full(PIECE, byte, np.uint8)))

    def empty(self, count: int, dtype: np.dtype) -> Any:
        """New flat device memory."""
        return self.accelerator.empty(count, _carried(dtype))

    def put(self, values: NDArray) -> Any:
        """The numbers in device memory."""
        return self.accelerator.put(values.view(_carried(values.dtype)))

    def copy(self, target: Any, source: Any) -> None:
        """Fill a buffer within the device."""
        self.stream.follow(self.accelerator.current().record())
        self.stream.copy(target, source)
        self.stream.record().wait()

    def fill(self, target: Any, byte: int) -> None:
        """Set every byte of a buffer, piece by piece within the device."""
        flat, piece = target.view(np.uint8), self._piece(byte)
        self.stream.follow(self.accelerator.current().record())
        for low in range(0, flat.size, PIECE):
            part = flat[low : low + PIECE]
            self.stream.copy(part, piece[: part.size])
        self.stream.record().wait()

    def get(self, buffer: Any, dtype: np.dtype) -> NDArray:
        """A copy in host memory."""
        return self.accelerator.get(buffer).view(dtype)


def _carried(dtype: np.dtype) -> np.dtype:
    """The type of device arrays: there, uint16 stands for bfloat16."""
    return np.dtype(np.uint16) if dtype.name == "bfloat16" else dtype
