"""Waiting for the slowest rank, without taking the cores from it."""

from __future__ import annotations

import time

from mpi4py import MPI

from hpcdist import watch

PAUSE = 0.001  # seconds


def meet(comm: MPI.Intracomm) -> None:
    """Wait for all ranks as a barrier does, but leave the core to those that are still at work. Collective."""
    request = comm.Ibarrier()
    with watch.waiting(f"rank {comm.rank} of {comm.size} waits for all ranks to be done with their part"):
        while not request.Test():
            time.sleep(PAUSE)
