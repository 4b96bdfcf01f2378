"""The cases of one size on all ranks, checked and timed in turn, with nothing but NumPy."""

from __future__ import annotations

import gc
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

TILE = 65521  # elements, a prime number: a chunk that comes to a wrong place does not look right there
SMALL, LARGEST = -100, 127  # powers of 2: of the float32 that are timed, times those to check with, and of the largest
SUM_BITS = 24  # of sums that are exact


class Numbers(NamedTuple):
    """A rank's numbers of one type; buffers hold them again and again.

    Attributes:
        own: Integers to check with.
        sum: Of all ranks' integers.
        small: Numbers to time with, neither zero nor ever infinite.
        calls: How many sums in place they bear.
    """

    own: NDArray
    sum: NDArray
    small: NDArray
    calls: int


def float32s(rank: int, size: int) -> Numbers:
    """Those of float32."""
    every = [np.random.default_rng(each).integers(1, (1 << SUM_BITS) // size, TILE) for each in range(size)]
    own, total = (numbers.astype(np.float32) for numbers in (every[rank], np.sum(every, axis=0)))
    return Numbers(own, total, np.ldexp(own, SMALL), sums_in_place(size, LARGEST - SMALL - SUM_BITS))


def sums_in_place(size: int, powers: int) -> int:
    """How many numbers bear that may become 2**powers times as large; each makes them `size` times as large."""
    return int(powers / math.log2(size)) if size > 1 else 1 << 20


def fill(buffer: NDArray, tile: NDArray) -> None:
    """Write the tile into the buffer, again and again."""
    whole = buffer.size // tile.size * tile.size
    buffer[:whole].reshape(-1, tile.size)[:] = tile
    buffer[whole:] = tile[: buffer.size - whole]


def wrong(buffer: NDArray, tile: NDArray) -> int:
    """Elements of the buffer that are not those which `fill` would have written."""
    whole = buffer.size // tile.size * tile.size
    head = np.count_nonzero(buffer[:whole].reshape(-1, tile.size) != tile)
    return int(head + np.count_nonzero(buffer[whole:] != tile[: buffer.size - whole]))


class Ranks(Protocol):
    """All ranks; every method is collective."""

    @property
    def barrier(self) -> Callable[[], object]:
        """Wait for all."""

    @property
    def gather(self) -> Callable[[Any], list[Any]]:
        """What all ranks have."""

    @property
    def exchange(self) -> Callable[[int], None]:
        """Send so many bytes to the right neighbour while as many come from the left one."""


class OfMpi:
    """Those of a communicator of mpi4py; messages to neighbours go by MPI, unless another way is given."""

    def __init__(self, comm: Any, exchange: Callable[[int], None] | None = None) -> None:
        self.comm, self.barrier, self.gather = comm, comm.Barrier, comm.allgather
        self.exchange = exchange or self._exchange

    def _exchange(self, nbytes: int) -> None:
        right, left = ((self.comm.rank + step) % self.comm.size for step in (1, -1))
        self.comm.Sendrecv(np.ones(nbytes, np.uint8), right, recvbuf=np.empty(nbytes, np.uint8), source=left)


class Cores:
    """How busy the cores of this machine were while in the context, all times together."""

    def __init__(self) -> None:
        self.total = self.waiting = 0

    def __enter__(self) -> None:
        self.before = self._ticks()

    def __exit__(self, *exception: object) -> None:
        spent = [after - before for after, before in zip(self._ticks(), self.before, strict=True)]
        self.total += sum(spent)
        self.waiting += spent[3] + spent[4]  # idle, and idle while a disk works

    @staticmethod
    def _ticks() -> list[int]:
        with open("/proc/stat") as file:
            return [int(word) for word in file.readline().split()[1:9]]  # what follows is counted in them already


@dataclass
class Case:
    """Something to call, the buffer that it works on, and where which result appears; raw TCP has neither."""

    name: str
    call: Callable[[], object]
    numbers: Numbers
    buffer: NDArray | None = None
    result: NDArray | None = None
    copies: bool = False  # the buffer, instead of the sum
    plan: Any = None
    wrong: int = 0
    seconds: float = 0.0  # of one call
    times: list[float] = field(default_factory=list)
    idle: list[float] = field(default_factory=list)  # seconds that links had before each sample
    cores: Cores = field(default_factory=Cores)


class Turns:
    """The cases of one size. All methods are collective.

    Args:
        ranks: All.
        nbytes: Of a buffer.
        task: See `task.Task`.
    """

    def __init__(self, ranks: Ranks, nbytes: int, task: Any) -> None:
        self.ranks, self.nbytes, self.task = ranks, nbytes, task
        self.cases: list[Case] = []
        self.began, self.iterations = time.monotonic(), 1

    def check(self) -> None:
        """Call every case once on numbers whose sum is exact, and count the wrong elements of all ranks."""
        for case in self.cases:
            if case.buffer is not None:
                fill(case.buffer, case.numbers.own)
            if case.result is not None and case.result is not case.buffer:
                case.result.fill(0)
            case.seconds = self.sample(case, 1)
            found = 0
            if case.result is not None:
                found = wrong(case.result, case.numbers.own if case.copies else case.numbers.sum)
            case.wrong = sum(self.ranks.gather(found))

    def measure(self) -> int:
        """Take the samples; returns how many there are of each case."""
        samples = self._share_out()
        for number in range(self.task.turn, self.task.turn + samples):
            with collector_paused():
                for case in order(self.cases, number):
                    self._sample(case)
        for case in self.cases:
            case.times = self.largest(case.times)
        return samples

    def _share_out(self) -> int:
        """Warm up, and choose how many samples of how many calls there is time for, the same for all.

        With more calls a sample has less of the barrier before, which would make a difference in ratios.
        """
        task, numbers, counts = self.task, [], []
        for case in self.cases:
            self._fill(case)
            warm = [self.sample(case, 1) for _ in range(task.warmup)]
            (seconds,) = self.largest([max(min(warm, default=case.seconds), 1e-7)])
            fitting = int(task.seconds / seconds)
            numbers.append(min(task.most, max(1, fitting)))
            counts.append(max(1, min(task.iterations, case.numbers.calls, fitting // numbers[-1])))
        self.iterations = min(counts)
        return max(task.least, min(numbers))

    def _sample(self, case: Case) -> None:
        """Add a sample, on small numbers, through links that are not idle."""
        self._fill(case)
        if self.task.link is None:
            case.times.append(self.sample(case, self.iterations))
            return
        self.drain()
        emptied = time.perf_counter()
        with case.cores:
            seconds = self.sample(case, self.iterations)
            case.idle.append(time.perf_counter() - seconds * self.iterations - emptied)
        case.times.append(seconds)

    def sample(self, case: Case, iterations: int) -> float:
        """Seconds per call on this rank, for calls back to back after a barrier."""
        self.ranks.barrier()
        began = time.perf_counter()
        for _ in range(iterations):
            case.call()
        return (time.perf_counter() - began) / iterations

    def _fill(self, case: Case) -> None:
        if case.buffer is not None:
            fill(case.buffer, case.numbers.small)

    def drain(self) -> None:
        """Wait until all token buckets are full, then empty them all at the same time."""
        link = self.task.link
        self.ranks.barrier()  # nobody is still busy with the sample before
        time.sleep(link.bucket * 8 / link.rate)
        self.ranks.barrier()
        self.ranks.exchange(2 * link.bucket)

    def refill(self, idle: list[float]) -> float:
        """Bytes that a bucket holds again so many seconds later, the median: that of the first to be empty."""
        link = self.task.link
        return min(float(np.median(self.largest(idle))) * link.rate / 8, link.bucket)

    def largest(self, values: list[float]) -> list[float]:
        """Of all ranks, one by one."""
        return np.max(self.ranks.gather(values), axis=0).tolist()

    def found(self, samples: int, **more: Any) -> dict[str, Any]:
        """The results, as JSON holds them."""
        on_links = [case for case in self.cases if self.task.link]
        return {
            "nbytes": self.nbytes,
            "samples": samples,
            "times": {case.name: case.times for case in self.cases},
            "wrong": {case.name: case.wrong for case in self.cases},
            "cores": {c.name: 1 - c.cores.waiting / c.cores.total for c in on_links if c.cores.total},
            "refill": {case.name: self.refill(case.idle) for case in on_links},
            "predicted": {},
            "chosen": "",
            **more,
            "seconds": time.monotonic() - self.began,
        }


def order(items: list[Any], number: int) -> list[Any]:
    """As `hpcdist.util.sampling.order`."""
    first = number // 2 % len(items)
    rotated = items[first:] + items[:first]
    return rotated[::-1] if number % 2 else rotated


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


def task_of(path: str) -> Any:
    """What the file says that `task.Task.write` wrote."""
    with open(path) as file:
        return json.load(file, object_hook=lambda fields: SimpleNamespace(**fields))


def write(task: Any, rank: int, found: Iterable[dict[str, Any]]) -> None:
    """Rank 0 writes what is found anew after each size."""
    rows: list[dict[str, Any]] = []
    for each in found:
        rows.append(each)
        if rank == 0:
            with open(f"{task.out}.new", "w") as file:
                json.dump({"machine": {}, "rows": rows, "missing": []}, file)
            os.replace(f"{task.out}.new", task.out)
