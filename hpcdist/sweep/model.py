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
SEVERAL = 4  # messages of a rank in one step, at most
STEPS = 8  # of small messages, one after the other, so that the start of a plan weighs little
BATCHES = 9
SECONDS = 0.02  # how long a batch shall run
LONGEST_IDLE = 0.2  # seconds in which a link may become ready for a burst


def fit(comm: MPI.Intracomm, topology: Sequence[int]) -> Model:
    """Fit the price model by exchanges and a local sum, in a few seconds; collective.

    All ranks of a node exchange at the same time, as they do in a step of an all-reduce, so that shared
    cores have their price. Between nodes one rank of each exchanges, since the model itself shares out a
    node's link: first with both neighbours, then in pairs; of two nodes the neighbours are a pair. Then
    each sends several messages at once, one message travels alone, and links are left idle before a
    large one. What exchanges is a program like that of a plan. The slowest rank counts.

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
    between = replace(comm.bcast(found), gamma=gamma)  # the heads agree, and rank 0 is one of them
    node_alpha, node_beta = np.max(comm.allgather([node_alpha, node_beta]), axis=0).tolist()
    if nodes == 1:
        return Model(node_alpha, node_beta, between.gamma)
    return between if nodes == comm.size else replace(between, node_alpha=node_alpha, node_beta=node_beta)


def _between(heads: MPI.Intracomm) -> Model:
    """The prices between nodes, of which one rank each calls this; those of a pair are None if there is but one."""
    size = heads.size
    alpha, beta = _exchange(heads, _neighbours(size))
    pair_beta = max(beta, _exchange(heads, _partners(size))[1]) if size > 2 else None
    lone_alpha = min(alpha, _seconds_of(heads, [[to] for to in STEPS // 2 * _to_and_fro(size)], SMALL) / STEPS)
    burst = _burst(heads, alpha, beta) if beta else 0.0
    return Model(alpha, beta, 0.0, pair_beta=pair_beta, lone_alpha=lone_alpha, burst=burst, gap=_gap(heads, alpha))


def _gap(heads: MPI.Intracomm, alpha: float) -> float | None:
    """Seconds for each further message of a rank in a step; None if there is but one rank to send to."""
    several = min(SEVERAL, heads.size - 1)
    if several < 2:
        return None
    to = [_neighbours(heads.size, distance) for distance in range(1, several + 1)]
    together = _seconds_of(heads, STEPS * [to], SMALL) / STEPS
    return min(alpha, max(0.0, together - alpha) / (several - 1))


def _burst(heads: MPI.Intracomm, alpha: float, beta: float) -> float:
    """Bytes that links let through at once after they were idle; 0 if it is a small part of what is sent."""
    program, seconds = _passing_on(heads, [[_neighbours(heads.size)]], LARGE), []
    for _ in range(BATCHES):
        sleep(min(LONGEST_IDLE, 2 * LARGE * beta))
        seconds.append(_batch(heads, program, 1))
    program.free()
    saved = heads.allreduce(LARGE - (float(np.median(seconds)) - alpha) / beta, MPI.MIN)
    return saved if saved > LARGE / 16 else 0.0


def _neighbours(size: int, distance: int = 1) -> Ints:
    """To whom each rank sends: around the circle."""
    return (np.arange(size) + distance) % size


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
    small = _seconds_of(comm, STEPS * [[receivers]], SMALL) / STEPS
    large = _seconds_of(comm, [[receivers]], LARGE)
    return small, max(0.0, large - small) / (LARGE - SMALL)


def _seconds_of(comm: MPI.Intracomm, steps: Sequence[Sequence[Ints]], nbytes: int) -> float:
    """Seconds in which messages are passed on."""
    program = _passing_on(comm, steps, nbytes)
    seconds = _seconds(comm, program)
    program.free()
    return seconds


def _passing_on(comm: MPI.Intracomm, steps: Sequence[Sequence[Ints]], nbytes: int) -> BoundProgram:
    """Send what came in the step before, and nothing else, as plans do it; steps say to whom, once for each message."""
    transport = transport_of(comm)
    chunks = 2 * max(map(len, steps))
    schedule = Schedule("passing on", comm.size, chunks, [_step(to, number % 2) for number, to in enumerate(steps)])
    buffer = np.zeros(chunks * nbytes // 4, np.float32)
    segment = (transport.sent_at_once or LARGE) // 4
    program = lower(schedule, comm.rank, Layout.near_equal(schedule, buffer.size), segment)
    return BoundProgram(program, transport, buffer, tag=transport.take_tag())


def _step(receivers: Sequence[Ints], old: int) -> Step:
    """Every message has two chunks, of which one is sent and the other one filled."""
    rows = []
    for first, to in zip(range(0, 2 * len(receivers), 2), receivers, strict=True):
        senders = np.flatnonzero(to >= 0)
        rows.append(Rows.of(senders, to[senders], first + old, dst_chunk=first + 1 - old, reduce=False))
    return Step.of(Rows.concatenate(rows))


def _addition() -> Callable[[], object]:
    """Add `LARGE` bytes of float32 to as many."""
    ours, theirs = (np.zeros(LARGE // 4, np.float32) for _ in range(2))
    return lambda: np.add(ours, theirs, out=ours)


def _seconds(comm: MPI.Comm, call: Callable[[], object]) -> float:
    """Seconds of one call within a batch, the median over batches, on the slowest rank."""
    calls = max(3, int(SECONDS / comm.allreduce(_batch(comm, call, 3), MPI.MAX)))
    return comm.allreduce(float(np.median([_batch(comm, call, calls) for _ in range(BATCHES)])), MPI.MAX)


def _batch(comm: MPI.Comm, call: Callable[[], object], calls: int) -> float:
    comm.Barrier()
    start = perf_counter()
    for _ in range(calls):
        call()
    return (perf_counter() - start) / calls
