"""The cases of the report at one size: our algorithms on all paths, and what they are compared with.

Two copies within the device's memory, by one rank alone and by all at once, run in the same rounds. An all-reduce must
read and write the buffer of every rank once, as many bytes as one copy by each; so the faster of the two is the floor
of the GPU that most ranks share: the time below which nobody gets. Large buffers are copied several times in a row,
each time others, so that the limit is the memory's, not the launches' nor the cache's; small ones once, as an
all-reduce of one waits for one launch, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.bench.gpu.nccl import NAME, Nccl
from hpcdist.bench.gpu.report import LARGE, LEAST, ROW, TURN, Limit, Record
from hpcdist.device import Accelerator
from hpcdist.device.paths import STAGED
from hpcdist.mpi.collective_errors import on_all
from hpcdist.sweep.measure import Bench, Case, Effort, Point
from hpcdist.sweep.paths import Paths
from hpcdist.sweep.record import LIBRARY, bandwidths
from hpcdist.util.sampling import Spread

ONE, ALL = "copy by one rank", "copy by all ranks"

Times = dict[tuple[str, str], NDArray[np.float64]]  # (algorithm, path) -> seconds of each round


class DeviceBench(Bench):
    """Sums of float32 in place, in the memory of a device; `check` comes before `add_copies`, which have no result.

    Args:
        comm: ranks of one machine.
        accelerator: this rank's device.
        nbytes: of the buffer.
        algorithms: ours.
        paths: those of our algorithms.
        nccl: NCCL, where there is one.
        sharers: ranks on the GPU that most share.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        accelerator: Accelerator,
        nbytes: int,
        algorithms: Sequence[str],
        paths: Paths,
        nccl: Nccl | None = None,
        sharers: int = 1,
    ) -> None:
        point = Point(nbytes // 4, np.dtype(np.float32), "sum")
        names = [LIBRARY, *algorithms]
        self.row = ROW if nbytes >= LARGE else 1  # copies in a row
        more = math.ceil(TURN / (2 * nbytes)) - 1 if nbytes >= LARGE else 0
        self._more = on_all(
            comm, lambda: [[accelerator.empty(point.count, point.dtype) for _ in range(2)] for _ in range(more)]
        )
        super().__init__(comm, point, names, placements=("in_place",), accelerator=accelerator, paths=paths)
        self.sharers = sharers
        if nccl:
            self.cases.insert(0, Case(NAME, "in_place", nccl.allreduce(self.target), path=NAME))
        self.copies: list[Case] = []

    def add_copies(self, accelerator: Accelerator) -> None:
        """Put the two copies before the others."""
        copy = _copies(accelerator, [(self.target, self.source), *self._more], self.row)
        alone = copy if self.comm.rank == 0 else lambda: None
        self.copies = [Case(ONE, "in_place", alone, path=""), Case(ALL, "in_place", copy, path="")]
        self.cases[:0] = self.copies

    def measure(self, rounds: int, seconds: float) -> None:
        """As many rounds of all cases as the slowest has time for, about so many seconds for each."""
        self.warm_up(Effort(samples=rounds, iterations=20, seconds=seconds))
        number = max(LEAST, min(case.samples for case in self.cases))
        for case in self.cases:
            case.samples = number
        for _ in self.rounds():
            pass

    def results(self) -> Iterator[Limit | Record]:
        """The limit and the records of all other cases; collective."""
        times = {(case.algorithm, case.path): self.seconds(case) for case in self.cases}
        one, every = times[ONE, ""] / self.row, times[ALL, ""] / self.row
        floor = np.minimum(self.sharers * one, every)
        moved = 2e-9 * self.point.nbytes
        alone, together = float(np.median(moved / one)), self.comm.size * float(np.median(moved / every))
        yield Limit(self.comm.size, self.point.nbytes, alone, together, 1e6 * float(np.median(floor)))
        yield from (self._record(case, floor, times) for case in self.cases[len(self.copies) :])

    def _record(self, case: Case, floor: NDArray[np.float64], times: Times) -> Record:
        ours = times[case.algorithm, case.path]
        us = Spread.of(1e6 * ours)
        return Record(
            ranks=self.comm.size,
            nbytes=self.point.nbytes,
            algorithm=case.algorithm,
            path=case.path,
            segment_nbytes=case.segment_nbytes,
            us=us,
            busbw=bandwidths(self.point.nbytes, 1e-6 * us.median, self.comm.size)[1],
            share=Spread.of(floor / ours) if self.comm.size > 1 else None,
            to_staged=_ratio(times, (case.algorithm, STAGED), (case.algorithm, case.path)),
            to_library=_ratio(times, (LIBRARY, STAGED), (case.algorithm, case.path)),
            wrong=case.bad.wrong if case.bad else 0,
        )


def _ratio(times: Times, theirs: tuple[str, str], ours: tuple[str, str]) -> float | None:
    """How many times as fast ours is, the median over rounds; None for itself, or where theirs was not measured."""
    if ours == theirs or theirs not in times:
        return None
    return float(np.median(times[theirs] / times[ours]))


def _copies(accelerator: Accelerator, pairs: Sequence[Sequence[Any]], row: int) -> Callable[[], None]:
    """A call that copies the second of the next `row` pairs to the first, and waits for the last."""
    stream, turns = accelerator.stream(), cycle(pairs)

    def call() -> None:
        for target, source in islice(turns, row):
            stream.copy(target, source)
        stream.record().wait()

    return call
