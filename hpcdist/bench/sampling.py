"""Samples on all ranks at once: cases take turns, in rounds; a sample is that of the slowest rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from time import monotonic, perf_counter
from typing import TypeVar

import numpy as np
from mpi4py import MPI

from hpcdist.mpi.world import sleeping_barrier
from hpcdist.sweep.measure import collector_paused
from hpcdist.util.sampling import order

R = TypeVar("R")


def rounds(cases: Mapping[str, Callable[[], R]], numbers: Iterable[int]) -> dict[str, list[R]]:
    """Case -> what its calls have returned, one in each round, in an order that is rotated and reversed."""
    found: dict[str, list[R]] = {name: [] for name in cases}
    for number in numbers:
        for name in order(list(cases), number):
            found[name].append(cases[name]())
    return found


def until(comm: MPI.Intracomm, least: int, most: int, seconds: float) -> Iterator[int]:
    """Numbers of rounds, for about so many seconds by rank 0's clock; `least` always. Collective."""
    end = monotonic() + seconds
    for number in range(most):
        yield number
        if comm.bcast(number + 1 >= least and monotonic() > end):
            return


def slowest(comm: MPI.Intracomm, *seconds: float) -> list[float]:
    """Times of the slowest rank; the others leave it their cores. Collective."""
    sleeping_barrier(comm)
    times = np.array(seconds)
    comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
    return times.tolist()


def timed(call: Callable[[], object]) -> float:
    """Seconds of a call on this rank."""
    with collector_paused():
        began = perf_counter()
        call()
        return perf_counter() - began


def together(comm: MPI.Intracomm, call: Callable[[], object]) -> float:
    """Seconds of a call that all ranks begin together, on the slowest. Collective."""
    comm.Barrier()
    return comm.allreduce(timed(call), MPI.MAX)
