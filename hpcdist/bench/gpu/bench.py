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
from hpcdist.bench.gpu.options import LEAST, Settings
from hpcdist.bench.gpu.record import Limit, Record
from hpcdist.device import Accelerator
from hpcdist.device.paths import STAGED
from hpcdist.mpi.collective_errors import on_all
from hpcdist.sweep.measure import Bench, Case, Effort, Point
from hpcdist.sweep.paths import Paths
from hpcdist.sweep.record import LIBRARY, bandwidths

ONE, ALL = "copy by one rank", "copy by all ranks"
ROW = 10  # copies in a row of large buffers
LARGE = 1 << 20  # bytes from which buffers are
TURN = 256 << 20  # bytes read and written before a buffer's turn comes again, several times what a cache holds

Times = dict[tuple[str, str], NDArray[np.float64]]  # (algorithm, path) -> seconds of each round


class DeviceBench(Bench):
    """Sums of float32 in place, in the memory of a device; `check` comes before `add_copies`, which have no result.

    Args:
        comm: ranks of one machine.
        accelerator: this rank's device.
        nbytes: of the buffer.
        asked: what to measure.
        paths: those of our algorithms.
        nccl: NCCL, where there is one.
        sharers: ranks on the GPU that most share.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        accelerator: Accelerator,
        nbytes: int,
        asked: Settings,
        paths: Paths,
        nccl: Nccl | None = None,
        sharers: int = 1,
    ) -> None:
        point = Point(nbytes // 4, np.dtype(np.float32), "sum")
        names = [LIBRARY, *asked.algorithms]
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

    def measure(self, asked: Settings) -> Iterator[int]:
        """As many rounds of all cases as the slowest has time for; yields after each."""
        self.warm_up(Effort(samples=asked.rounds, iterations=20, seconds=asked.seconds))
        rounds = max(LEAST, min(case.samples for case in self.cases))
        for case in self.cases:
            case.samples = rounds
        yield from self.rounds()

    def results(self) -> tuple[Limit, list[Record]]:
        """The limit and the records of all other cases; collective."""
        times = {(case.algorithm, case.path): self.seconds(case) for case in self.cases}
        one, every = times[ONE, ""] / self.row, times[ALL, ""] / self.row
        floor = np.minimum(self.sharers * one, every)
        found = [self._record(case, floor, times) for case in self.cases[len(self.copies) :]]
        return Limit.of(self.comm.size, self.point.nbytes, one, every, floor), found

    def _record(self, case: Case, floor: NDArray[np.float64], times: Times) -> Record:
        ours = times[case.algorithm, case.path]
        p10, p50, p90 = np.percentile(ours, (10, 50, 90)).tolist()
        low, share, high = np.percentile(floor / ours, (10, 50, 90)).tolist() if self.comm.size > 1 else [None] * 3
        return Record(
            ranks=self.comm.size,
            nbytes=self.point.nbytes,
            algorithm=case.algorithm,
            path=case.path,
            segment_nbytes=case.segment_nbytes,
            rounds=len(ours),
            time_us_p50=p50 * 1e6,
            time_us_p10=p10 * 1e6,
            time_us_p90=p90 * 1e6,
            busbw=bandwidths(self.point.nbytes, p50, self.comm.size)[1],
            share=share,
            share_p10=low,
            share_p90=high,
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
