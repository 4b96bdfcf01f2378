"""What a message, a byte and a reduced byte cost here and now: the prices of `cost.Model`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from mpi4py import MPI

from hpcdist.executor.bind import BoundProgram
from hpcdist.schedule.ir import Ints, Rows, Schedule, Step
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.simulate.cost import Model
from hpcdist.sweep.measure import sample
from hpcdist.transport.mpi import transport_of
from hpcdist.util.sampling import order

SMALL, LARGE = 8, 1 << 20  # bytes: the first is all latency, the second nearly all bandwidth
SEVERAL = 8  # messages of a rank in one step, at most
STEPS = 8  # of small messages, one after the other, so that the start of a plan weighs little
BATCHES = 9
SECONDS = 0.02  # how long a batch shall run
WARM_UP = 1.0  # seconds
AFTER_LULL = tuple(LARGE >> shift for shift in (4, 3, 2, 1, 0))  # bytes of messages after a lull
LONGEST_LULL = 0.2  # seconds in which a link may become ready for a burst

Steps = Sequence[Sequence[Ints]]  # to whom each rank sends, for each message of each step


def fit(comm: MPI.Intracomm, topology: Sequence[int]) -> Model:
    """Fit the price model by exchanges and a local sum, in a few seconds; collective.

    All ranks of a node exchange at the same time, as they do in a step of an all-reduce, so that shared
    cores have their price. Between nodes one rank of each exchanges, since the model itself shares out a
    node's link: with both neighbours, in pairs (of two nodes the neighbours are one), several messages
    at once, and one message alone; last large messages after a lull. What exchanges is a program like
    that of a plan. The slowest rank counts.

    Args:
        comm: the communicator.
        topology: node number of each rank.
    """
    nodes = len(set(topology))
    node = MPI.Intracomm(comm.Split(topology[comm.rank], comm.rank))
    heads = MPI.Intracomm(comm.Split(min(node.rank, 1), comm.rank))
    node_alpha, node_beta = _exchange(node, _neighbours(node.size))
    found = _between(heads) if node.rank == 0 and nodes > 1 else Model(0.0, 0.0, 0.0, burst=math.inf)
    ours, theirs = (np.zeros(LARGE // 4, np.float32) for _ in range(2))
    gamma = _seconds(comm, [lambda: np.add(ours, theirs, out=ours)])[0] / LARGE
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
    around, several = _neighbours(size), min(SEVERAL, size - 1)
    together = [_neighbours(size, distance) for distance in range(1, several + 1)]
    steps = [STEPS * [[around]], [[to] for to in STEPS // 2 * _to_and_fro(size)], STEPS * [together]]
    _warm_up(heads, steps[0])
    alpha, lone_alpha, of_several = (each / STEPS for each in _seconds_of(heads, steps, SMALL))
    large = _seconds_of(heads, [[[around]], [[_partners(size)]]], LARGE)
    beta, pair_beta = (max(0.0, each - alpha) / (LARGE - SMALL) for each in large)
    burst, burst_beta = _burst(heads, alpha, beta) if beta else (0.0, 0.0)
    return Model(
        alpha,
        beta,
        0.0,
        pair_beta=max(beta, pair_beta) if size > 2 else None,
        lone_alpha=min(alpha, lone_alpha),
        burst=burst,
        burst_beta=burst_beta,
        gap=min(alpha, max(0.0, of_several - alpha) / (several - 1)) if several > 1 else None,
    )


def _warm_up(comm: MPI.Intracomm, steps: Steps) -> None:
    """Pass small messages on for a while: the first ones are slower, where ranks share cores for a second."""
    program = _passing_on(comm, steps, SMALL)
    sample(comm, program, _calls(comm, program, WARM_UP))
    program.free()


def _burst(heads: MPI.Intracomm, alpha: float, beta: float) -> tuple[float, float]:
    """(burst, burst_beta): bytes that links have saved up after a while of small messages, and the price of one then.

    Both are 0 if no size takes less than half as long as in a row.
    """
    around = [[_neighbours(heads.size)]]
    small, seconds = _passing_on(heads, around, SMALL), {}
    for nbytes in AFTER_LULL:
        program, batches = _passing_on(heads, around, nbytes), []
        for _ in range(BATCHES):
            sample(heads, small, math.ceil(min(LONGEST_LULL, 2 * nbytes * beta) / alpha))
            batches.append(sample(heads, program, 1))
        program.free()
        seconds[nbytes] = max(0.0, heads.allreduce(float(np.median(batches)), MPI.MAX) - alpha)
    small.free()
    burst_beta = min(seconds[nbytes] / nbytes for nbytes in AFTER_LULL)
    if burst_beta > beta / 2:
        return 0.0, 0.0
    return max(nbytes - seconds[nbytes] / beta for nbytes in AFTER_LULL), burst_beta


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
    small = _seconds_of(comm, [STEPS * [[receivers]]], SMALL)[0] / STEPS
    large = _seconds_of(comm, [[[receivers]]], LARGE)[0]
    return small, max(0.0, large - small) / (LARGE - SMALL)


def _seconds_of(comm: MPI.Intracomm, ways: Sequence[Steps], nbytes: int) -> list[float]:
    """Seconds in which messages are passed on in each of several ways, which take turns."""
    programs = [_passing_on(comm, steps, nbytes) for steps in ways]
    seconds = _seconds(comm, programs)
    for program in programs:
        program.free()
    return seconds


def _passing_on(comm: MPI.Intracomm, steps: Steps, nbytes: int) -> BoundProgram:
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


def _seconds(comm: MPI.Intracomm, calls: Sequence[Callable[[], object]]) -> list[float]:
    """Seconds that each of several calls takes within a batch: the median over batches in turn, on the slowest rank."""
    numbers = [_calls(comm, call, SECONDS) for call in calls]
    batches: list[list[float]] = [[] for _ in calls]
    for turn in range(BATCHES):
        for at in order(range(len(calls)), turn):
            batches[at].append(sample(comm, calls[at], numbers[at]))
    return [comm.allreduce(float(np.median(each)), MPI.MAX) for each in batches]


def _calls(comm: MPI.Intracomm, call: Callable[[], object], seconds: float) -> int:
    """How many take so long, the same on all ranks."""
    return max(3, int(seconds / comm.allreduce(sample(comm, call, 3), MPI.MAX)))
