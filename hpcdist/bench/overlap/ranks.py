"""What the ranks do: work, and an all-reduce beside it, each way in turn.

Work is matrix products of one thread on each rank, in pieces, that take together about as long as the all-reduce. A
round takes one sample of ours and of the MPI library's alone, of the work alone, and of both at once in each way, in an
order that is rotated. What is hidden is the time by which both at once are shorter than one after the other, as a share
of the shorter of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hpcdist.bench import findings
from hpcdist.bench.findings import Findings
from hpcdist.bench.overlap.report import LIBRARY, OURS, WORK, Found, Part
from hpcdist.bench.sampling import rounds, timed, together
from hpcdist.collectives import calls
from hpcdist.collectives.plan import Plan
from hpcdist.executor.progress_thread import CALLS, THREAD
from hpcdist.util.sampling import Spread

SIDE = 64  # of the matrices: a product takes some ten microseconds
WARM_UP = 9  # calls


class Work:
    """Products of matrices."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        """Collective, since all ranks are to do as much."""
        self._left, self._right, self._out = (np.ones((SIDE, SIDE), np.float32) for _ in range(3))
        once = min(timed(partial(self.do, 1000, 1000)) for _ in range(WARM_UP)) / 1000
        self.seconds = comm.bcast(once)  # of a product

    def do(self, products: int, piece: int, look: Callable[[], object] | None = None) -> None:
        """So many products; `look` is called after each piece of some."""
        for done in range(1, products + 1):
            np.matmul(self._left, self._right, out=self._out)
            if look and done % piece == 0:
                look()


@dataclass(frozen=True)
class Way:
    """How an all-reduce is begun, gone on with between pieces of work if it is, and waited for; the same alone."""

    name: str
    alone: str
    start: Callable[[], object]
    wait: Callable[[], object]
    look: Callable[[], object] | None = None


class _OfLibrary:
    """The MPI library's non-blocking all-reduce."""

    def __init__(self, comm: MPI.Intracomm, buffer: NDArray) -> None:
        self._comm, self._buffer, self._request = comm, buffer, MPI.REQUEST_NULL

    def start(self) -> None:
        self._request = self._comm.Iallreduce(MPI.IN_PLACE, self._buffer, MPI.MAX)

    def test(self) -> None:
        self._request.Test()

    def wait(self) -> None:
        self._request.Wait()


def ways(comm: MPI.Intracomm, buffer: NDArray, plan: Plan) -> list[Way]:
    """All that are measured, ours first."""
    library = _OfLibrary(comm, buffer)
    return [
        Way("calls before and after the work", OURS, partial(plan.start, CALLS), plan.wait),
        Way("test() after each piece", OURS, partial(plan.start, CALLS), plan.wait, plan.test),
        Way("thread", OURS, partial(plan.start, THREAD), plan.wait),
        Way("MPI_Iallreduce", LIBRARY, library.start, library.wait),
        Way("MPI_Iallreduce, MPI_Test after each piece", LIBRARY, library.start, library.wait, library.test),
    ]


def hidden(alone: Sequence[float], work: Sequence[float], both: Sequence[float]) -> Spread:
    """The share of the shorter of the two that was hidden, by round; below 0 where both took longer together."""
    rows = zip(alone, work, both, strict=True)
    return Spread.of([(first + second - together) / min(first, second) for first, second, together in rows])


def measure(comm: MPI.Intracomm, nbytes: int, work: Work, looks: int, most: int, seconds: float, **how: Any) -> Found:
    """All ways at one size, float32 maxima in place, which stay the same run after run; collective.

    Args:
        comm: the ranks.
        nbytes: of the buffer.
        work: what is done meanwhile.
        looks: pieces of the work.
        most: rounds.
        seconds: for all rounds, about.
        how: of the plan.
    """
    count = max(1, nbytes // 4)
    buffer = np.arange(count, dtype=np.float32) + comm.rank
    plan = calls.plan(comm, buffer, op="max", **how)
    each = comm.bcast(float(np.median([together(comm, plan) for _ in range(WARM_UP)])))  # a link lets the first pass
    products = max(1, round(each / work.seconds))
    piece = -(-products // looks)
    found = ways(comm, buffer, plan)
    cases: dict[str, Callable[[], object]] = {
        OURS: plan,
        LIBRARY: partial(_alone, next(way for way in found if way.alone == LIBRARY)),
        WORK: partial(work.do, products, piece),
        **{way.name: partial(_both, work, products, piece, way) for way in found},
    }
    number = max(3, min(most, int(seconds / (2 * each * len(cases)))))
    samples = rounds({name: partial(together, comm, call) for name, call in cases.items()}, range(number + 1))
    times = {name: values[1:] for name, values in samples.items()}  # the first round is not counted
    wrong = comm.allreduce(int(np.count_nonzero(buffer != np.arange(count, dtype=np.float32) + (comm.size - 1))))
    plan.close()
    shares = {way.name: hidden(times[way.alone], times[WORK], times[way.name]) for way in found}
    return Found(nbytes, plan.algorithm, products, {name: Spread.of(t) for name, t in times.items()}, shares, wrong)


def _alone(way: Way) -> None:
    way.start()
    way.wait()


def _both(work: Work, products: int, piece: int, way: Way) -> None:
    way.start()
    work.do(products, piece, way.look)
    way.wait()


def work(
    found: Findings[Part],
    sizes: Sequence[int],
    algorithm: str,
    segment_bytes: int | None,
    looks: int,
    rounds: int,
    seconds: float,
) -> None:
    """All sizes."""
    comm, how = found.comm, {"algorithm": algorithm, "segment_nbytes": segment_bytes}
    with threadpool_limits(1, "blas"):
        meanwhile = Work(comm)
        found.sizes(sizes, lambda nbytes, _: [measure(comm, nbytes, meanwhile, looks, rounds, seconds, **how)])


if __name__ == "__main__":
    findings.main(work, Part)
