"""The MPI library's all-reduce on device buffers, with what it needs before and after; both may be called again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcdist.device import Accelerator
from hpcdist.mpi.collective_errors import on_all


class Staged:
    """A copy to page-locked host memory, the all-reduce there, and a copy back: what a program does by hand.

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


class Ready:
    """A call of MPI on device memory that waits first for the work that makes it, as MPI itself never does."""

    def __init__(self, accelerator: Accelerator, call: Callable[[], object]) -> None:
        self.accelerator, self.call = accelerator, call

    def __call__(self) -> None:
        """Wait and call."""
        self.accelerator.current().record().wait()
        self.call()
