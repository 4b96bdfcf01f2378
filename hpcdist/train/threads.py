"""How many BLAS threads a rank may use, so that the ranks of a node do not fight for its cores."""

from __future__ import annotations

import os
from collections import Counter

from mpi4py import MPI
from threadpoolctl import threadpool_info


def share(comm: MPI.Intracomm) -> int:
    """Threads per rank: this rank's share of the cores, at most what BLAS would use by itself. Collective.

    A core that k ranks of the node may run on counts 1 / k for each of them; so ranks that are bound to cores
    and ranks that are not both get what is theirs. The smallest share of all ranks is everybody's.
    """
    mine = os.sched_getaffinity(0)
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    users = Counter(core for cores in node.allgather(mine) for core in cores)
    node.Free()
    cores = sum(1 / users[core] for core in mine)
    unlimited = max((pool["num_threads"] for pool in threadpool_info()), default=1)
    return comm.allreduce(max(1, min(int(cores + 1e-9), unlimited)), MPI.MIN)
