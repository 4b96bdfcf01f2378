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
    node's link: first with both neighbours, then in pairs; of two nodes the neighbours are a pair. The slowest rank
    counts.

    Args:
        comm: the communicator.
        topology: node number of each rank.
    """
    nodes = len(set(topology))
    node = comm.Split(topology[comm.rank], comm.rank)
    heads = comm.Split(min(node.rank, 1), comm.rank)
    among = node.rank == 0 and nodes > 1
    found = (
        *_exchange(node, _neighbours(node)),
        *(_exchange(heads, _neighbours(heads)) if among else (0.0, 0.0)),
        _exchange(heads, _partners(heads))[1] if among and nodes > 2 else 0.0,
        _seconds(comm, _addition()) / LARGE,
    )
    node.Free()
    heads.Free()
    node_alpha, node_beta, alpha, beta, pair_beta, gamma = np.max(comm.allgather(found), axis=0).tolist()
    if nodes == 1:
        return Model(node_alpha, node_beta, gamma)
    for_a_pair = max(beta, pair_beta) if nodes > 2 else None
    if nodes == comm.size:
        return Model(alpha, beta, gamma, pair_beta=for_a_pair)
    return Model(alpha, beta, gamma, node_alpha, node_beta, for_a_pair)


Peers = tuple[int, int]  # to whom, from whom


def _neighbours(comm: MPI.Comm) -> Peers:
    return (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size


def _partners(comm: MPI.Comm) -> Peers:
    """Pairs; a last one alone exchanges with nobody."""
    partner = comm.rank ^ 1
    return (partner, partner) if partner < comm.size else (MPI.PROC_NULL, MPI.PROC_NULL)


def _exchange(comm: MPI.Comm, peers: Peers) -> tuple[float, float]:
    """(alpha, beta) of sending to one rank while receiving from one."""
    small, large = (_seconds(comm, _messages(comm, peers, nbytes)) for nbytes in (SMALL, LARGE))
    return small, max(0.0, large - small) / (LARGE - SMALL)


def _messages(comm: MPI.Comm, peers: Peers, nbytes: int) -> Callable[[], object]:
    out, into = np.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8)
    after, before = peers
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
