"""What the slowest rank took."""

from __future__ import annotations

import numpy as np
from mpi4py import MPI

from hpcdist.checkpoint.meeting import meet


def slowest(comm: MPI.Intracomm, *seconds: float) -> list[float]:
    """Times of the slowest rank; collective."""
    meet(comm)
    times = np.array(seconds)
    comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
    return times.tolist()
