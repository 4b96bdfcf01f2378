"""What a message, a byte and a reduced byte cost here and now: the prices of `cost.Model`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter, sleep

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
LONGEST_IDLE = 0.2  # seconds in which a link may become ready for a burst


def fit(comm: MPI.Intracomm, topology: Sequence[int]) -> Model:
    """Fit the price model by exchanges and a local sum, in a second; collective.

    All ranks of a node exchange at the same time, as they do in a step of an all-reduce, so that shared
    cores have their price. Between nodes one rank of each exchanges, since the model itself shares out a
    node's link: first with both neighbours, then in pairs; of two nodes the neighbours are a pair. Then
    one message travels alone, and links are left idle before a large one. What exchanges is a program
    like that of a plan. The slowest rank counts.

    Args:
        comm: the communicator.
        topology: node number of each rank.
    """
    nodes = len(set(topology))
    node = MPI.Intracomm(comm.Split(topology[comm.rank], comm.rank))
    heads = MPI.Intracomm(comm.Split(min(node.rank, 1), comm.rank))
    node_alpha, node_beta = _exchange(node, _neighbours(node.size))
    found = _between(heads) if node.rank == 0 and nodes > 1 else Model(0.0, 0.0, 0.0, burst=math.inf)
    gamma = _seconds(comm, _addition()) / LARGE
    node.Free()
    heads.Free()
    prices = [node_alpha, node_beta, gamma, found.alpha, found.beta, found.pair_beta or 0.0, found.lone_alpha or 0.0]
    node_alpha, node_beta, gamma, alpha, beta, pair_beta, lone_alpha = np.max(comm.allgather(prices), axis=0).tolist()
    burst = comm.allreduce(found.burst, MPI.MIN)
    if nodes == 1:
        return Model(node_alpha, node_beta, gamma)
    between = Model(alpha, beta, gamma, pair_beta=pair_beta or None, lone_alpha=lone_alpha, burst=burst)
    return between if nodes == comm.size else replace(between, node_alpha=node_alpha, node_beta=node_beta)


def _between(heads: MPI.Intracomm) -> Model:
    """The prices between nodes, of which one rank each calls this; those of a pair are None if there is but one."""
    alpha, beta = _exchange(heads, _neighbours(heads.size))
    pair_beta = max(beta, _exchange(heads, _partners(heads.size))[1]) if heads.size > 2 else None
    lone_alpha = min(alpha, _seconds_of(heads, STEPS // 2 * _to_and_fro(heads.size), SMALL) / STEPS)
    burst = _burst(heads, alpha, beta) if beta else 0.0
    return Model(alpha, beta, 0.0, pair_beta=pair_beta, lone_alpha=lone_alpha, burst=burst)


def _burst(heads: MPI.Intracomm, alpha: float, beta: float) -> float:
    """Bytes that links let through at once after they were idle; 0 if it is a small part of what is sent."""
    program, seconds = _passing_on(heads, [_neighbours(heads.size)], LARGE), []
    for _ in range(BATCHES):
        sleep(min(LONGEST_IDLE, 2 * LARGE * beta))
        seconds.append(_batch(heads, program, 1))
    program.free()
    saved = LARGE - (float(np.median(seconds)) - alpha) / beta
    return saved if saved > LARGE / 16 else 0.0


def _neighbours(size: int) -> Ints:
    """To whom each rank sends: around the circle."""
    return (np.arange(size) + 1) % size


def _partners(size: int) -> Ints:
    """To whom each rank sends: to each other in pairs; a last one alone sends to nobody, -1."""
    partner = np.arange(size) ^ 1
    return np.where(partner < size, partner, -1)


def _to_and_fro(size: int) -> list[Ints]:
    """To whom each rank sends in two steps: rank 0 to rank 1, then rank 1 to rank 0; the others to nobody."""
    nobody = np.full(size - 1, -1)
    return [np.insert(nobody, 0, 1), np.insert(nobody, 1, 0)]


def _exchange(comm: MPI.Intracomm, receivers: Ints) -> tuple[float, float]:
    """(alpha, beta) of sending to one rank while receiving from one."""
    small = _seconds_of(comm, STEPS * [receivers], SMALL) / STEPS
    large = _seconds_of(comm, [receivers], LARGE)
    return small, max(0.0, large - small) / (LARGE - SMALL)


def _seconds_of(comm: MPI.Intracomm, receivers: Sequence[Ints], nbytes: int) -> float:
    """Seconds in which messages are passed on."""
    program = _passing_on(comm, receivers, nbytes)
    seconds = _seconds(comm, program)
    program.free()
    return seconds


def _passing_on(comm: MPI.Intracomm, receivers: Sequence[Ints], nbytes: int) -> BoundProgram:
    """Send what came in the step before, and nothing else, as plans do it; `receivers` are to whom in each step."""
    transport = transport_of(comm)
    steps = []
    for number, to in enumerate(receivers):
        senders, old = np.flatnonzero(to >= 0), number % 2
        steps.append(Step.of(Rows.of(senders, to[senders], old, dst_chunk=1 - old, reduce=False)))
    schedule = Schedule("passing on", comm.size, 2, steps)
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
