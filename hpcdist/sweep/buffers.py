"""Where the buffers of a sweep lie, and how they are filled and looked at: host memory, or that of a device.

What fills a device buffer again and again is in its memory already: numbers go there once, pieces of equal bytes too.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.device import Accelerator
from hpcdist.mpi.collective_errors import on_all

PIECE = 1 << 20  # bytes


class Buffers:
    """Makes, fills and reads buffers, here NumPy's arrays; each call is complete when it returns."""

    def empty(self, count: int, dtype: np.dtype) -> Any:
        """A new flat buffer. Raises MemoryError if there is no room."""
        return np.zeros(count, dtype)

    def put(self, values: NDArray) -> Any:
        """Numbers in a form that `copy` takes."""
        return values

    def copy(self, target: Any, source: Any) -> None:
        """Fill a buffer with numbers that were `put`."""
        target[:] = source

    def fill(self, target: Any, byte: int) -> None:
        """Set every byte of a buffer."""
        target.view(np.uint8).fill(byte)

    def get(self, buffer: Any, dtype: np.dtype) -> NDArray:
        """What is in a buffer, in host memory."""
        return buffer


class OnDevice(Buffers):
    """Arrays in the memory of a device."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
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


class Staged:
    """A copy to page-locked host memory, the all-reduce there, and a copy back: what a program does by hand.

    May be called again and again.

    Args:
        comm: on which the library reduces.
        accelerator: the device.
        source: the device buffer whose numbers go in.
        target: the device buffer for the result; may be `source`.
        op: of MPI.
        dtype: of the elements, one that MPI can reduce.

    Raises:
        AgreedError: on all ranks, if one cannot have the host memory.
    """

    def __init__(
        self, comm: MPI.Intracomm, accelerator: Accelerator, source: Any, target: Any, op: MPI.Op, dtype: np.dtype
    ) -> None:
        self.comm, self.accelerator, self.source, self.target, self.op = comm, accelerator, source, target, op
        self.staging = on_all(comm, lambda: accelerator.pinned(source.size, dtype))
        self.stream = accelerator.stream()

    def __call__(self) -> None:
        """Run and block until the result is in the device's memory."""
        stream = self.stream
        stream.follow(self.accelerator.current().record())
        stream.copy(self.staging, self.source)
        stream.record().wait()
        self.comm.Allreduce(MPI.IN_PLACE, self.staging, self.op)
        stream.copy(self.target, self.staging)
        stream.record().wait()
