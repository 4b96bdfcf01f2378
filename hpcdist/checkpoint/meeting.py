"""Waiting for the slowest rank, without taking the cores from it."""

from __future__ import annotations

import time

from mpi4py import MPI

PAUSE = 0.001  # seconds


def meet(comm: MPI.Intracomm) -> None:
    """Wait for all ranks as a barrier does, but leave the core to those that are still at work. Collective."""
    request = comm.Ibarrier()
    while not request.Test():  # not watched, as nobody can say how long a disk may take
        time.sleep(PAUSE)
