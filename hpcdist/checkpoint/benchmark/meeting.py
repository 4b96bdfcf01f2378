"""Waiting for the slowest rank, without taking the cores from it."""

from __future__ import annotations

import time

import numpy as np
from mpi4py import MPI

PAUSE = 0.001  # seconds


def meet(comm: MPI.Intracomm) -> None:
    """Wait for all ranks as a barrier does, but leave the core to those that are still at work. Collective."""
    request = comm.Ibarrier()
    while not request.Test():
        time.sleep(PAUSE)


def slowest(comm: MPI.Intracomm, *seconds: float) -> list[float]:
    """Times of the slowest rank; collective."""
    meet(comm)
    times = np.array(seconds)
    comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
    return times.tolist()
