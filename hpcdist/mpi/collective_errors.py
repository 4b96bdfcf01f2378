"""Actions that may fail on some ranks only, such as rank 0's on the disk; then all ranks must raise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from mpi4py import MPI

from hpcdist.transport.mpi import agree

T = TypeVar("T")


def on_all(comm: MPI.Intracomm, action: Callable[[], T]) -> T:
    """Call `action`, which must not communicate, on every rank; returns this rank's result. Collective.

    Raises:
        AgreedError: on all ranks, if `action` raised on any.
    """
    result, trouble = None, None
    try:
        result = action()
    except Exception as error:
        trouble = error
    try:
        agree(comm, trouble is None, f"{type(trouble).__name__}: {trouble}" if trouble else "")
    except RuntimeError as agreed:
        raise agreed from trouble
    return result  # type: ignore[return-value]  # it is None only if `action` returns None


def on_root(comm: MPI.Intracomm, action: Callable[[], T]) -> T:
    """Call `action` on rank 0 only and give its result to all ranks. Collective.

    Raises:
        AgreedError: on all ranks, if `action` raised.
    """
    result = on_all(comm, action if comm.rank == 0 else lambda: None)
    return comm.bcast(result)
