"""What a message, a byte and a reduced byte cost here and now: the prices of `cost.Model`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np
from mpi4py import MPI

from hpcdist.cost import Model
from hpcdist.execute import BoundProgram
from hpcdist.program import lower
from hpcdist.schedule import Ints, Layout, Rows, Schedule, Step
from hpcdist.transport.mpi import transport_of

SMALL, LARGE = 8, 1 << 20  # bytes: the first is all latency, the second nearly all bandwidth
STEPS = 8  # of small messages, one after the other, so that the start of a plan weighs little
BATCHES = 5
SECONDS = 0.02  # how long a batch shall run


def fit(comm: MPI.Intracomm, topology: Sequence[int]) -> Model:
    """Fit the price model by exchanges between neighbours and a local sum, in half a second; collective.

    All ranks of a node exchange at the same time, as they do in a step of an all-reduce, so that shared
    cores have their price. Between nodes one rank of each exchanges, since the model itself shares out a
    node's link: first with both neighbours, then in pairs; of two nodes the neighbours are a pair. What
    exchanges is a program like that of a plan. The slowest rank counts.

    Args:
        comm: the communicator.
        topology: node number of each rank.
    """
    nodes = len(set(topology))
    node = MPI.Intracomm(comm.Split(topology[comm.rank], comm.rank))
    heads = MPI.Intracomm(comm.Split(min(node.rank, 1), comm.rank))
    among = node.rank == 0 and nodes > 1
    found = (
        *_exchange(node, _neighbours(node.size)),
        *(_exchange(heads, _neighbours(heads.size)) if among else (0.0, 0.0)),
        _exchange(heads, _partners(heads.size))[1] if among and nodes > 2 else 0.0,
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


def _neighbours(size: int) -> Ints:
    """To whom each rank sends: around the circle."""
    return (np.arange(size) + 1) % size


def _partners(size: int) -> Ints:
    """To whom each rank sends: to each other in pairs; a last one alone sends to nobody, -1."""
    partner = np.arange(size) ^ 1
    return np.where(partner < size, partner, -1)


def _exchange(comm: MPI.Intracomm, receivers: Ints) -> tuple[float, float]:
    """(alpha, beta) of sending to one rank while receiving from one."""
    small = _seconds(comm, _passing_on(comm, receivers, SMALL, STEPS)) / STEPS
    large = _seconds(comm, _passing_on(comm, receivers, LARGE, 1))
    return small, max(0.0, large - small) / (LARGE - SMALL)


def _passing_on(comm: MPI.Intracomm, receivers: Ints, nbytes: int, steps: int) -> Callable[[], object]:
    """Send what came in the step before, and nothing else, as plans do it."""
    transport = transport_of(comm)
    senders = np.flatnonzero(receivers >= 0)
    chunks = [(step % 2, 1 - step % 2) for step in range(steps)]
    rows = [Rows.of(senders, receivers[senders], old, dst_chunk=new, reduce=False) for old, new in chunks]
    schedule = Schedule("passing on", comm.size, 2, tuple(map(Step.of, rows)))
    buffer = np.zeros(2 * nbytes // 4, np.float32)
    segment = (transport.sent_at_once or LARGE) // 4
    program = lower(schedule, comm.rank, Layout.near_equal(schedule, buffer.size), segment)
    return BoundProgram(program, transport, buffer, tag=transport.take_tag())


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
