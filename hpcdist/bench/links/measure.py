"""Samples on links behind token buckets: emptied before each sample, so that it is limited from its first byte.

A bucket that was idle lets its depth through at once, and an all-reduce of a few hundred KiB would then seem faster
than its link. So before each sample every rank sends twice that to its right neighbour, which empties the buckets of
both ends of all links, and then meets the others in a barrier. All buckets have the time to fill up before that, or
links that had been in use would be emptied later than others, which would fill up again meanwhile.

During the barrier the buckets fill at the rate of the link: `Record.refill` says how far. That, not nothing, is what
a sample has to spare.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from time import monotonic, perf_counter, sleep
from typing import Any

import numpy as np
import psutil
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.bench.links.options import LEAST, Settings
from hpcdist.bench.links.raw import Neighbours
from hpcdist.bench.links.record import RAW, WHOLE, Record, link_bytes, paired, share
from hpcdist.simulate import cost
from hpcdist.sweep.measure import Bench, Case, Point, sample
from hpcdist.sweep.record import LIBRARY, bandwidths

SLOW = 2.0  # a case that is predicted to take so many times as long as its link would, and a second, has no more


@dataclass(frozen=True)
class Link:
    """The rate [bit/s] of each host's link, each way, and how deep its token buckets are [bytes]; 0: it has none."""

    rate: int
    bucket: int = 0


class LinkBench(Bench):
    """Cases in place on one point, ready to be checked; `add_raw` adds raw TCP, which has no result to check.

    Args:
        comm: the communicator, with one rank per host.
        point: size, type and operation.
        settings: which algorithms of ours, in which segments.
        neighbours: raw TCP.
        link: with its token buckets.
    """

    def __init__(self, comm: MPI.Intracomm, point: Point, settings: Settings, neighbours: Neighbours, link: Link):
        names = [LIBRARY, *settings.algorithms]
        super().__init__(comm, point, names, (settings.segment_bytes,), placements=("in_place",))
        if "ring" in names:
            whole = self.case("ring", "in_place", 0)
            whole.algorithm = WHOLE
            self.cases.insert(names.index("ring") + 1, whole)
        self.neighbours, self.link = neighbours, link
        self.idle: list[float] = []  # seconds from the end of the drain to the start of the sample
        self.cores: dict[str, Cores] = {}

    def add_raw(self) -> None:
        """Put raw TCP before the others."""
        nbytes = round(link_bytes(self.comm.size, self.point.nbytes))
        self.cases.insert(0, Case(RAW, "in_place", partial(self.neighbours.exchange, nbytes)))

    def sample(self, case: Case) -> float:
        """One operation [s] on this rank, after the buckets have been emptied."""
        self.comm.Barrier()  # nobody is still busy with the sample before
        sleep(self.link.bucket * 8 / self.link.rate)  # until an empty bucket is full
        self.comm.Barrier()
        self.neighbours.exchange(2 * self.link.bucket)
        emptied = perf_counter()
        with self.cores.setdefault(case.algorithm, Cores()):
            seconds = sample(self.comm, case.call, 1)
            self.idle.append(perf_counter() - seconds - emptied)
        return seconds

    def refill(self) -> float:
        """Bytes that a bucket holds again at the start of a sample: those of the first to be empty; collective."""
        idle = np.array(self.idle)
        self.comm.Allreduce(MPI.IN_PLACE, idle, MPI.MAX)
        return min(float(np.median(idle)) * self.link.rate / 8, self.link.bucket)


class Cores:
    """How busy the cores of this machine were while in the context, all times together."""

    def __init__(self) -> None:
        self.total = self.waiting = 0.0

    def __enter__(self) -> None:
        self.before = psutil.cpu_times()

    def __exit__(self, *exception: object) -> None:
        spent = [after - before for after, before in zip(psutil.cpu_times(), self.before, strict=True)]
        self.total += sum(spent[:8])  # what follows, time of guests, is counted in them already
        self.waiting += spent[3] + spent[4]  # idle, and idle while a disk works

    @property
    def busy(self) -> float:
        """The part of all cores' time; 0 if the samples were too short to tell."""
        return 1 - self.waiting / self.total if self.total else 0.0


def rounds(bench: LinkBench, settings: Settings, model: cost.Model, seconds: float) -> Iterator[int]:
    """Rounds for about so many seconds by rank 0's clock; some always, and of slow cases only these."""
    least = min(LEAST, settings.rounds)
    for case in bench.cases:
        case.samples = least if slow(bench, case, model) else settings.rounds
        case.iterations = 1
    end = monotonic() + seconds
    for number in bench.rounds():
        yield number
        if bench.comm.bcast(number + 1 >= least and monotonic() > end):
            return


def slow(bench: LinkBench, case: Case, model: cost.Model) -> bool:
    """Whether a case would take time from the others for nothing."""
    if case.plan is None:
        return False
    least = model.beta * link_bytes(bench.comm.size, bench.point.nbytes)
    return predicted(bench, case, model) > max(1.0, SLOW * least)


def predicted(bench: LinkBench, case: Case, model: cost.Model) -> float:
    """Seconds by the price model, for an algorithm of ours."""
    return cost.predict(case.plan.schedule, bench.point.nbytes, model)


def records(bench: LinkBench, model: cost.Model) -> list[Record]:
    """The results of all cases; collective."""
    times = {case.algorithm: bench.seconds(case) for case in bench.cases}
    rate, refill = bench.link.rate, bench.refill()
    return [
        Record(
            rate=rate,
            ranks=bench.comm.size,
            nbytes=bench.point.nbytes,
            case=case.algorithm,
            **_timing(times[case.algorithm], bench),
            to_raw=paired(times[case.algorithm], times[RAW]),
            to_library=paired(times[case.algorithm], times[LIBRARY]),
            **_plan(bench, case, model),
            cores_busy=bench.cores[case.algorithm].busy,
            refill=refill,
            wrong=None if case.algorithm == RAW else case.bad.wrong if case.bad else 0,
        )
        for case in bench.cases
    ]


def _timing(seconds: NDArray[np.float64], bench: LinkBench) -> dict[str, Any]:
    p10, median, p90 = np.percentile(seconds, (10, 50, 90)).tolist()
    ranks, nbytes = bench.comm.size, bench.point.nbytes
    return {
        "samples": len(seconds),
        "time_us_p50": median * 1e6,
        "time_us_p10": p10 * 1e6,
        "time_us_p90": p90 * 1e6,
        "busbw": bandwidths(nbytes, median, ranks)[1],
        "share": share(ranks, nbytes, median, bench.link.rate),
    }


def _plan(bench: LinkBench, case: Case, model: cost.Model) -> dict[str, Any]:
    """What is known of algorithms of ours only."""
    if case.plan is None:
        return {"segment_nbytes": None, "predicted_us": None}
    segment = 0 if case.algorithm == WHOLE else case.plan.segment_nbytes
    return {"segment_nbytes": segment, "predicted_us": predicted(bench, case, model) * 1e6}
