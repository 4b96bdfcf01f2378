"""Streams of the simulated device: a thread that does what was submitted, in order, and late."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from guarded.memory import reach, write
from hpcdist.kernels.combine import MOST, combined
from hpcdist.kernels.reduce import average, binary

_RANK_NAMES = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID")


class DeviceFault(RuntimeError):
    """Device work has failed; its stream does nothing more, nor do streams that follow it."""


class _Worker:
    """What the thread of a stream needs; not the stream itself, so that the thread ends with it."""

    def __init__(self, seed: str) -> None:
        self.queue: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.fault: Exception | None = None
        self._random = random.Random(seed)

    def pause(self) -> None:
        """Half of the time nothing, else up to 200 us, and once in a while 5 ms."""
        luck = self._random.random()
        if luck > 0.5:
            time.sleep(0.005 if luck > 0.99 else (luck - 0.5) * 4e-4)

    def attempt(self, work: Callable[[], None]) -> None:
        """Do the work after a while; nothing once something has failed."""
        if self.fault is not None:
            return
        self.pause()
        try:
            work()
        except Exception as error:
            self.fault = error

    def serve(self) -> None:
        """Do what is in the queue until None is."""
        np.seterr(all="ignore")  # of this thread: devices know no warnings
        while (job := self.queue.get()) is not None:
            job()
            del job  # and the arrays that it keeps alive


class Event:
    """A point in a stream."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.fault: Exception | None = None

    def done(self) -> bool:
        """Whether it is reached; DeviceFault if work before it failed."""
        if not self.reached.is_set():
            time.sleep(0)  # who asks in a loop must let the threads of streams run
            return False
        self._raise_fault()
        return True

    def wait(self) -> None:
        """Block until it is reached; DeviceFault if work before it failed."""
        self.reached.wait()
        self._raise_fault()

    def _raise_fault(self) -> None:
        if self.fault is not None:
            raise DeviceFault(f"device work failed: {type(self.fault).__name__}: {self.fault}") from self.fault


class Stream:
    """Work in the order in which it was submitted."""

    _numbers = count()

    def __init__(self) -> None:
        rank = next((os.environ[name] for name in _RANK_NAMES if name in os.environ), "0")
        self._worker = _Worker(f"{os.environ.get('GUARDED_SEED', '0')}/{rank}/{next(self._numbers)}")
        threading.Thread(target=self._worker.serve, daemon=True).start()
        weakref.finalize(self, self._worker.queue.put, None).atexit = False

    def submit(self, work: Callable[[], None]) -> None:
        """Do something, later."""
        worker = self._worker
        worker.queue.put(lambda: worker.attempt(work))

    def write(self, target: NDArray, values: Callable[[], Any], keep: Any = None) -> None:
        """Put what `values` says, later, into memory that the device reaches; `keep` stays alive until then."""
        pause = self._worker.pause
        self.submit(lambda keep=keep: write(target, values(), pause))

    def record(self) -> Event:
        """An event after everything submitted so far."""
        event, worker = Event(), self._worker

        def reach_it() -> None:
            event.fault = worker.fault
            event.reached.set()

        worker.queue.put(reach_it)
        return event

    def follow(self, event: Event) -> None:
        """Let all that is submitted from now on wait for the event."""
        worker = self._worker

        def wait() -> None:
            event.reached.wait()
            worker.fault = worker.fault or event.fault

        worker.queue.put(wait)

    def copy(self, target: Any, source: Any) -> None:
        """Copy bytes between arrays of equal nbytes, each in device memory or page-locked host memory."""
        to, values = reach(target).view(np.uint8), reach(source).view(np.uint8)
        if to.size != values.size:
            raise ValueError(f"{values.size} bytes cannot be copied to {to.size}")
        self.write(to, values.copy)

    def combine(self, op: str, targets: Sequence[Any], sources: Sequence[Any]) -> None:
        """Put `sources` combined, the first with the second, then with the third, ..., into all `targets`."""
        places, rows = [_numbers(target) for target in targets], [_numbers(source) for source in sources]
        _check(op, places, rows)
        pause = self._worker.pause

        def work() -> None:
            result = combined("sum" if op == "avg" else op, rows)
            for place in places:
                write(place, result, pause)

        self.submit(work)

    def average(self, total: Any, size: int) -> None:
        """Divide a sum over `size` ranks in place."""
        place = _numbers(total)

        def values() -> NDArray:
            result = place.copy()
            average(result, size)
            return result

        self.write(place, values)


def _numbers(array: Any) -> NDArray:
    """Where the device works, with the type that it computes in: uint16 stands for bfloat16."""
    place = reach(array)
    return place.view(ml_dtypes.bfloat16) if place.dtype == np.uint16 else place


def _check(op: str, targets: list[NDArray], sources: list[NDArray]) -> None:
    """ValueError for what kernels refuse, or do not refuse and compute nonsense."""
    binary(op)
    if not (1 <= len(targets) <= MOST and 1 <= len(sources) <= MOST):
        raise ValueError(f"{len(sources)} sources and {len(targets)} targets; a kernel takes from 1 to {MOST} of both")
    kinds = {(array.dtype, array.size) for array in (*targets, *sources)}
    if len(kinds) != 1:
        raise ValueError(f"arrays of one type and size must be combined, not {kinds}")
    for index, target in enumerate(targets):
        if any(np.may_share_memory(target, other) for other in targets[:index]):
            raise ValueError("targets share memory")
        if any(_overlap(target, source) for source in sources):
            raise ValueError("a target and a source share memory, but are not the same")


def _overlap(one: NDArray, other: NDArray) -> bool:
    return np.may_share_memory(one, other) and one.ctypes.data != other.ctypes.data


class _Current(threading.local):
    """Every thread's current streams, the innermost last."""

    def __init__(self) -> None:
        self.streams: list[Stream] = []


_CURRENT = _Current()
_DEFAULT: list[Stream] = []


def current() -> Stream:
    """The stream in which arrays compute: that of the innermost `with stream()` of this thread, else the default."""
    if _CURRENT.streams:
        return _CURRENT.streams[-1]
    if not _DEFAULT:
        _DEFAULT.append(Stream())
    return _DEFAULT[0]


@contextmanager
def stream(chosen: Stream | None = None) -> Iterator[Stream]:
    """Make a stream, by default a new one, the current one of this thread."""
    _CURRENT.streams.append(chosen or Stream())
    try:
        yield _CURRENT.streams[-1]
    finally:
        _CURRENT.streams.pop()


def slow(stream: Stream, seconds: float) -> None:
    """A kernel that takes long."""
    stream.submit(lambda: time.sleep(seconds))
