"""What a message, a byte and a reduced byte cost here and now: the prices of `cost.Model`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
from mpi4py import MPI

from hpcdist.cost import Model

SMALL, LARGE = 8, 1 << 20  # bytes: the first is all latency, the second nearly all bandwidth
BATCHES = 5
SECONDS = 0.02  # how long a batch shall run


def fit(comm: MPI.Intracomm, topology: Sequence[int]) -> Model:
    """Fit the price model by exchanges between neighbours and a local sum, in half a second; collective.

    All ranks of a node exchange at the same time, as they do in a step of an all-reduce, so that shared
    cores have their price. Between nodes one rank of each exchanges, since the model itself shares out a
    node's link. The slowest rank counts.

    Args:
        comm: the communicator.
        topology: node number of each rank.
    """
    nodes = len(set(topology))
    node = comm.Split(topology[comm.rank], comm.rank)
    heads = comm.Split(min(node.rank, 1), comm.rank)
    inside = _exchange(node)
    between = _exchange(heads) if node.rank == 0 else (0.0, 0.0)
    gamma = _seconds(comm, _addition()) / LARGE
    node.Free()
    heads.Free()
    (node_alpha, node_beta), (alpha, beta), (gamma, _) = (
        np.max(comm.allgather(prices), axis=0).tolist() for prices in (inside, between, (gamma, 0.0))
    )
    if nodes == 1:
        return Model(node_alpha, node_beta, gamma)
    if nodes == comm.size:
        return Model(alpha, beta, gamma)
    return Model(alpha, beta, gamma, node_alpha, node_beta)


def _exchange(comm: MPI.Comm) -> tuple[float, float]:
    """(alpha, beta) of sending to the next rank while receiving from the one before."""
    small, large = (_seconds(comm, _neighbours(comm, nbytes)) for nbytes in (SMALL, LARGE))
    return small, max(0.0, large - small) / (LARGE - SMALL)


def _neighbours(comm: MPI.Comm, nbytes: int) -> Callable[[], object]:
    out, into = np.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    return lambda: comm.Sendrecv(out, after, 0, into, before, 0)


def _addition() -> Callable[[], object]:
    """Add `LARGE` bytes of float32 to as many."""
    ours, theirs = (np.zeros(LARGE // 4, np.float32) for _ in range(2))
    return lambda: np.add(ours, theirs, out=ours)


def _seconds(comm: MPI.Comm, call: Callable[[], object]) -> float:
    """Seconds of one call within a batch, the median over batches."""
    calls = max(3, int(SECONDS / comm.allreduce(_batch(comm, call, 3), MPI.MAX)))
    return float(np.median([_batch(comm, call, calls) for _ in range(BATCHES)]))


def _batch(comm: MPI.Comm, call: Callable[[], object], calls: int) -> float:
    comm.Barrier()
    start = perf_counter()
    for _ in range(calls):
        call()
    return (perf_counter() - start) / calls
