"""NCCL's all-reduce, called as ours are: after the caller's own work, and until the result is there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from mpi4py import MPI

from hpcdist.mpi.collective_errors import on_all

NAME = "NCCL"


class Nccl:
    """A communicator of NCCL, one GPU per rank. Collective.

    Args:
        comm: the ranks.
        nccl: CuPy's module of that name.

    Raises:
        AgreedError: on all ranks, if NCCL refuses on any.
    """

    def __init__(self, comm: MPI.Intracomm, nccl: Any) -> None:
        self.nccl = nccl
        token = comm.bcast(nccl.get_unique_id() if comm.rank == 0 else None)
        self.communicator = on_all(comm, lambda: nccl.NcclCommunicator(comm.size, token, comm.rank))

    def allreduce(self, array: Any) -> Callable[[], None]:
        """A call that sums a float32 array over all ranks, in place."""
        address, reduce, nccl = array.data.ptr, self.communicator.allReduce, self.nccl
        current = sys.modules["cupy"].cuda.get_current_stream

        def call() -> None:
            stream = current()
            reduce(address, address, array.size, nccl.NCCL_FLOAT32, nccl.NCCL_SUM, stream.ptr)
            stream.synchronize()

        return call


def find(comm: MPI.Intracomm, ranks_per_device: Sequence[int]) -> tuple[Nccl | None, str]:
    """(NCCL for these ranks, why there is none); collective.

    Args:
        comm: the ranks.
        ranks_per_device: for each GPU in use; NCCL takes one rank on each.
    """
    module = _module()
    reasons = comm.allgather(_hindrance(comm.size, ranks_per_device, module))
    why = next(filter(None, reasons), "")
    return (None if why else Nccl(comm, module)), why


def _module() -> Any:
    """CuPy's way to NCCL; None without CuPy, or if that finds no NCCL."""
    if "cupy" not in sys.modules:  # whoever has made device memory with it has loaded it
        return None
    with suppress(ImportError, AttributeError):
        found = __import__("cupy.cuda", fromlist=["nccl"]).nccl  # a module, or an attribute, as the version pleases
        return found if getattr(found, "available", False) else None
    return None


def _hindrance(ranks: int, ranks_per_device: Sequence[int], module: Any) -> str:
    if ranks == 1:
        return "a lone rank has nobody to reduce with"
    if max(ranks_per_device) > 1:
        return f"it takes one GPU per rank, and {ranks} ranks are on {len(ranks_per_device)}"
    if module is None:
        return "CuPy finds no NCCL here; pip install nvidia-nccl-cu12"
    return ""
