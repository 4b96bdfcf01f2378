"""Check and time all algorithms for one size, type and operation.

All cases of a point work on the same two buffers. First each one is warmed up and checked on fresh numbers;
then they are timed in rounds, one sample of each case per round, so that a drift of the machine hits all
alike.

Buffers lie in host memory or in that of a device. There the cases are algorithms on paths, and the MPI library's
all-reduce stands beside them with the copies that it needs; all times are those of the host's clock, from the call
until the result is there.

A sample is, after a barrier, a number of operations back to back ("pipelined", as in nccl-tests) or a
single one ("barrier", as in the OSU benchmarks). Its time is that of the slowest rank, per operation.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, Self

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.collectives import calls
from hpcdist.device import Accelerator
from hpcdist.device.paths import AUTO, AWARE, HOST
from hpcdist.errors import AgreedError
from hpcdist.mpi.collective_errors import on_all
from hpcdist.simulate.cost import Model
from hpcdist.sweep import inputs as numbers
from hpcdist.sweep.buffers import Buffers, OnDevice, Staged
from hpcdist.sweep.library import Forced, Library
from hpcdist.sweep.paths import ON_HOST, Paths
from hpcdist.sweep.record import FIXED, LIBRARY, PLACEMENTS, of_library
from hpcdist.util.sampling import order
from hpcdist.util.sizes import format_bytes

MPI_OPS = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN, "prod": MPI.PROD}
MPI_DTYPES = ("float64", "float32", "int64", "int32")
LEAST_SAMPLES = 3
MESSAGES = 2  # in whose time the bytes of a buffer pass a link: from there on it does not save up what it sends
BURSTS = 8  # that a link could let through in the time of a sample, of which one may be left from before
POISON = 0xA5  # fills every byte of an output before a check: an element that is never written is wrong


@dataclass(frozen=True)
class Point:
    """What all cases of one point have in common."""

    count: int
    dtype: np.dtype
    op: str

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return self.count * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{format_bytes(self.nbytes)} {self.dtype.name} {self.op}"


@dataclass(frozen=True)
class Effort:
    """How much to measure: at most `samples` of `iterations` operations, in about `seconds` per case.

    Samples of operations back to back last `least` seconds, however many operations that takes, and are fewer then: a
    link that lets a burst through would hide what a short one costs.
    """

    timing: str = "pipelined"
    samples: int = 20
    iterations: int = 20
    seconds: float = 0.1
    warmup: int = 3
    least: float = 0.0

    def divide(self, operation: float) -> tuple[int, int]:
        """(samples, iterations) for an operation that takes so many seconds."""
        most = self.samples * self.iterations
        number = min(most, max(LEAST_SAMPLES, int(self.seconds / operation)))
        if self.timing == "barrier":
            return number, 1
        samples = min(self.samples, number)
        iterations = max(number // samples, math.ceil(self.least / operation))
        return max(1, min(samples, max(LEAST_SAMPLES, number // iterations))), iterations

    def beyond_bursts(self, nbytes: int, model: Model) -> Effort:
        """The same, but, where bytes cost twice what messages do, in samples so long that bursts do not hide it.

        Below, links save up as much between messages as these use, and a long sample flatters who sends many: ranks
        that share cores take hundreds of calls to fall into step.
        """
        beyond = nbytes * model.beta > MESSAGES * model.alpha
        return replace(self, least=BURSTS * model.burst * model.beta * beyond)


@dataclass(frozen=True)
class Bad:
    """The first wrong element that a rank saw, and how many there are on all ranks."""

    wrong: int
    rank: int
    what: str
    index: int
    got: Any
    want: Any

    def __str__(self) -> str:
        return (
            f"{self.wrong} wrong elements, the first on rank {self.rank}: "
            f"{self.what}[{self.index}] is {self.got} and should be {self.want}"
        )


@dataclass
class Case:
    """One algorithm in one placement on one path at one point, ready to be called.

    `plan` is None for the MPI library, and `chosen` makes a context in which a call is that algorithm of it.
    """

    algorithm: str
    placement: str
    call: Callable[[], object]
    plan: Any = None
    segment_nbytes: int | None = None
    chosen: Callable[[], AbstractContextManager[object]] = nullcontext
    bad: Bad | None = None
    samples: int = 0
    iterations: int = 0
    times: list[float] = field(default_factory=list)
    path: str = HOST

    @property
    def in_place(self) -> bool:
        """Whether the result replaces the input."""
        return self.placement == "in_place"

    @property
    def kind(self) -> tuple[str, int | None, str]:
        """What it has in common with the same in another placement."""
        return self.algorithm, self.segment_nbytes, self.path


class Bench:
    """The buffers of one point and the cases on them; a context that closes their plans. All is collective.

    Args:
        comm: the communicator.
        point: size, type and operation.
        algorithms: names, our own, `record.LIBRARY` and those of `library`.
        segments: bytes of a segment, passed on to the plans; one case for each that makes a difference.
        seed: of the numbers to check with.
        placements: of `record.PLACEMENTS`, those to measure.
        library: the MPI library's own algorithms.
        accelerator: the device in whose memory the buffers are to lie; None for host memory.
        paths: over which they travel; one case for each path that a plan really takes.

    Raises:
        AgreedError: on all ranks, if one has no room for its buffers.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        point: Point,
        algorithms: Sequence[str],
        segments: Sequence[int | None] = (None,),
        seed: int = 0,
        placements: Sequence[str] = PLACEMENTS,
        library: Library | None = None,
        accelerator: Accelerator | None = None,
        paths: Paths = ON_HOST,
    ):
        self.comm, self.point, self.seed = comm, point, seed
        self.accelerator, self.buffers = accelerator, OnDevice(accelerator) if accelerator else Buffers()
        self.source, self.target = on_all(
            comm, lambda: [self.buffers.empty(point.count, point.dtype) for _ in range(2)]
        )
        self.library = library
        self.cases: list[Case] = []
        try:
            for name in algorithms:
                for segment in distinct(self._segments(name, segments), point.nbytes):
                    for path in paths.of(name):
                        for place in placements:
                            self._add(self.case(name, place, segment, path))
        except AgreedError:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the plans."""
        for case in self.cases:
            if case.plan:
                case.plan.close()

    def _segments(self, algorithm: str, asked: Sequence[int | None]) -> Sequence[int | None]:
        if self.library and algorithm.startswith(FIXED):
            return self.library.segments(algorithm, asked)
        return (None,) if of_library(algorithm) else asked

    def _add(self, case: Case) -> None:
        """Keep a case, unless it is one that is there already: "auto" took a path that was asked for by name."""
        keys = [(each.algorithm, each.segment_nbytes, each.path, each.placement) for each in (*self.cases, case)]
        if case.plan and keys.count(keys[-1]) > 1:
            case.plan.close()
        else:
            self.cases.append(case)

    def case(self, algorithm: str, placement: str, segment_nbytes: int | None, path: str = AUTO) -> Case:
        """A case on the buffers of this bench; who adds it to `cases` has it checked, timed and closed."""
        in_place = placement == "in_place"
        if of_library(algorithm):
            return self._library_case(algorithm, placement, segment_nbytes, path)
        buffer, out = (self.target, None) if in_place else (self.source, self.target)
        plan = calls.plan(
            self.comm, buffer, out, algorithm=algorithm, op=self.point.op, segment_nbytes=segment_nbytes, path=path
        )
        return Case(algorithm, placement, plan, plan, plan.segment_nbytes, path=plan.path)

    def _library_case(self, algorithm: str, placement: str, segment_nbytes: int | None, path: str) -> Case:
        forced = Forced(self.comm)
        if self.library and algorithm != LIBRARY:
            forced = self.library.forced(algorithm, segment_nbytes)
        case = Case(algorithm, placement, self._library_call(forced.comm, placement, path))
        case.segment_nbytes, case.chosen = forced.segment_nbytes, forced.chosen
        case.path = path if self.accelerator else HOST
        return case

    def _library_call(self, comm: MPI.Intracomm, placement: str, path: str) -> Callable[[], object]:
        """The MPI library's all-reduce of the buffers; of a device's with what must come before and after."""
        in_place, target, op = placement == "in_place", self.target, MPI_OPS[self.point.op]
        accelerator = self.accelerator
        if accelerator and path != AWARE:
            return Staged(comm, accelerator, target if in_place else self.source, target, op, self.point.dtype)
        source: Any = MPI.IN_PLACE if in_place else self.source

        def call() -> None:
            if accelerator:  # MPI does not wait for the work that makes what it is handed
                accelerator.current().record().wait()
            comm.Allreduce(source, target, op)

        return call

    # --- right? ---

    def check(self) -> None:
        """Run every case once on fresh numbers and note the wrong elements."""
        comm, point = self.comm, self.point
        own = numbers.inputs(comm.rank, comm.size, point.count, point.dtype, point.op, self.seed)
        want = numbers.expected(comm.size, point.count, point.dtype, point.op, self.seed)
        kept = self.buffers.put(own)
        for case in self.cases:
            self.buffers.copy(self.source, kept)
            self.buffers.copy(self.target, kept)
            if not case.in_place:
                self.buffers.fill(self.target, POISON)
            with case.chosen():
                case.call()
            found = self._compare("result", self.target, want)
            if not (found or case.in_place):
                found = self._compare("untouched input", self.source, own)
            case.bad = summed(comm, found)

    def _compare(self, what: str, buffer: Any, want: NDArray) -> Bad | None:
        """The elements of this rank that differ in any bit; so all ranks have the same bits where none does."""
        got = self.buffers.get(buffer, self.point.dtype)
        at = np.flatnonzero(_bits(got) != _bits(want))
        if not at.size:
            return None
        return Bad(at.size, self.comm.rank, what, at[0].item(), got[at[0]], want[at[0]])

    # --- how fast? ---

    def warm_up(self, effort: Effort) -> None:
        """Call every case a few times on zeros, and share out the effort by the fastest of the calls."""
        self._clear()
        for case in self.cases:
            with case.chosen():
                seconds = [sample(self.comm, case.call, 1) for _ in range(effort.warmup)]
            case.samples, case.iterations = effort.divide(self.comm.allreduce(min(seconds), MPI.MAX))

    def rounds(self, cases: Sequence[Case] | None = None, times: int = 1) -> Iterator[int]:
        """Time cases, or else all, in turn, on zeros, which never overflow; yields after each round.

        Args:
            cases: which.
            times: how often the effort that was made out for each.
        """
        cases = self.cases if cases is None else cases
        self._clear()
        for number in range(times * max((case.samples for case in cases), default=0)):
            with collector_paused():
                for case in order(cases, number):
                    if number < times * case.samples:
                        case.times.append(self.sample(case))
            yield number

    def leaders(self, within: float) -> list[Case]:
        """Of our algorithms that were never wrong, those at most so many times as slow as the fastest in any placement.

        Collective.

        Returns: their cases, in all placements.
        """
        wrong = {case.algorithm for case in self.cases if case.bad}
        ours = [case for case in self.cases if not of_library(case.algorithm) and case.algorithm not in wrong]
        medians = [float(np.median(self.seconds(case))) for case in ours]
        fastest: dict[tuple[str, str], float] = {}
        for case, median in zip(ours, medians, strict=True):
            against = case.placement, case.path
            fastest[against] = min(median, fastest.get(against, math.inf))
        ahead = {
            case.kind
            for case, median in zip(ours, medians, strict=True)
            if median <= within * fastest[case.placement, case.path]
        }
        return [case for case in ours if case.kind in ahead]

    def _clear(self) -> None:
        self.buffers.fill(self.source, 0)
        self.buffers.fill(self.target, 0)

    def sample(self, case: Case) -> float:
        """One sample of a case: seconds per operation on this rank."""
        with case.chosen():
            return sample(self.comm, case.call, case.iterations)

    def seconds(self, case: Case) -> NDArray[np.float64]:
        """The samples of a case, per operation, each the maximum over ranks."""
        times = np.array(case.times)
        self.comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
        return times


def _bits(array: NDArray) -> NDArray:
    return array.view(f"u{array.itemsize}")


def distinct(segments: Sequence[int | None], nbytes: int) -> list[int | None]:
    """The segments that differ for a buffer of `nbytes`: those that cut nothing, or 0, are all alike."""
    found: dict[int | None, int | None] = {}
    for segment in segments:
        found.setdefault(0 if segment is not None and segment >= nbytes else segment, segment)
    return list(found.values())


def sample(comm: MPI.Intracomm, call: Callable[[], object], iterations: int) -> float:
    """Seconds per call on this rank, for calls back to back after a barrier."""
    comm.Barrier()
    start = perf_counter()
    for _ in range(iterations):
        call()
    return (perf_counter() - start) / iterations


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's garbage collector out of the samples."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def summed(comm: MPI.Intracomm, bad: Bad | None) -> Bad | None:
    """The wrong elements of all ranks, with the first of the lowest rank as the example; collective."""
    found = [each for each in comm.allgather(bad) if each]
    return replace(found[0], wrong=sum(each.wrong for each in found)) if found else None


def refused(algorithm: str, point: Point) -> str | None:
    """Why this algorithm cannot be measured at this point, or None if it can."""
    if not of_library(algorithm):
        return None
    if point.op not in MPI_OPS:
        return f"the operation is {point.op}: MPI has none of that name"
    if point.dtype.name not in MPI_DTYPES:
        return f"the type is {point.dtype.name}: no 16-bit type is handed to an MPI reduction"
    return None
