"""A thread that goes on with runs that were started, while their callers compute.

MPI moves messages when it is called, and hardly otherwise; so does what the ranks of a node do in shared memory. Either
the caller looks at his plans between pieces of his work, or a thread does.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from mpi4py import MPI

from hpcdist.device import Accelerator

AUTO, CALLS, THREAD = "auto", "calls", "thread"  # who goes on with a run: its caller's calls, or the thread
INTERVAL = 1e-4  # seconds in which the thread lets others have its core


class Left:
    """A run that is left to the thread.

    Attributes:
        lock: held by who looks at the run.
        over: whether the thread is to look no more.
        error: with which it ended in the thread.
    """

    def __init__(self, look: Callable[[], bool]) -> None:
        self.lock = threading.Lock()
        self.over = False
        self.error: BaseException | None = None
        self._look = look

    def go_on(self) -> None:
        """What the thread does, unless the caller is at it."""
        if not self.lock.acquire(blocking=False):
            return
        try:
            self.over = self.over or self._look()
        except BaseException as error:
            self.over, self.error = True, error  # for the caller
        finally:
            self.lock.release()


class ProgressThread:
    """Looks at all runs that are left to it, in turn."""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._runs: list[Left] = []
        self._thread: threading.Thread | None = None
        self._ended = False

    def begin(self) -> None:
        """See that there is a thread.

        Raises: RuntimeError if the system has none to give.
        """
        if self._thread is None:
            thread = threading.Thread(target=self._go_on, name="hpcdist progress", daemon=True)
            thread.start()
            self._thread = thread
            atexit.register(self._end, os.getpid())  # before MPI is finalized, which no thread may call then

    def take(self, run: Left) -> None:
        """Look at a run until it is over."""
        with self._change:
            self._runs.append(run)
            self._change.notify()

    def _go_on(self) -> None:
        while runs := self._next():
            for run in runs:
                run.go_on()
            del runs, run  # nothing is kept while the thread sleeps
            time.sleep(INTERVAL)

    def _next(self) -> list[Left]:
        """The runs that are not over, as soon as there are any; none at the end."""
        with self._change:
            self._runs = [run for run in self._runs if not run.over]
            self._change.wait_for(lambda: self._runs or self._ended)
            return [] if self._ended else list(self._runs)

    def _end(self, process: int) -> None:
        if self._thread is None or process != os.getpid():  # a child that was forked has no such thread
            return
        with self._change:
            self._ended = True
            self._change.notify()
        self._thread.join()


PROGRESS = ProgressThread()


def chosen(progress: str, topology: Sequence[int]) -> str:
    """CALLS or THREAD; by itself a thread where messages travel between nodes, as it has little to do for them.

    Raises: ValueError if `progress` is neither nor "auto"; RuntimeError if this MPI does not allow a thread.
    """
    if progress not in (AUTO, CALLS, THREAD):
        raise ValueError(f"progress must be {AUTO!r}, {CALLS!r} or {THREAD!r}, not {progress!r:.60}.")
    allowed = MPI.Query_thread() >= MPI.THREAD_MULTIPLE
    if progress == AUTO:
        return THREAD if len(set(topology)) > 1 and allowed else CALLS
    if progress == THREAD and not allowed:
        raise RuntimeError(
            "this MPI was not started with MPI_THREAD_MULTIPLE, so no thread may call it beside yours; leave "
            "mpi4py.rc.thread_level as it is, take an MPI built for it, or call test() between pieces of your work."
        )
    return progress


class Program(Protocol):
    """What can be begun and gone on with."""

    @property
    def running(self) -> bool:
        """Whether a run was begun and has not ended."""

    def start(self) -> None:
        """Begin a run; goes as far as it can without waiting."""

    def test(self) -> bool:
        """Go on as far as possible without waiting; whether the result is there."""

    def wait(self) -> None:
        """Block until the run that was begun is complete."""


class Helped:
    """A program whose runs may be left to the thread once they are begun.

    Only one of caller and thread looks at a run at a time, and the thread never does once the caller has seen its end.
    """

    def __init__(self, program: Program, topology: Sequence[int], accelerator: Accelerator | None) -> None:
        """Bind.

        Args:
            program: what runs.
            topology: the node of every rank.
            accelerator: the device of its buffers; None for host memory.
        """
        self._program, self._topology, self._accelerator = program, topology, accelerator
        self._left: Left | None = None  # the run in hand, if the caller has not taken it back

    def start(self, progress: str) -> None:
        """Begin a run, and leave it to the thread if `progress` says so; see `chosen`."""
        who = chosen(progress, self._topology)
        if who == THREAD:
            PROGRESS.begin()
        if self._left:
            with self._left.lock:  # the thread has left its last look
                self._left = None if self._left.over else self._left
        self._program.start()
        if who == THREAD and self._program.running:
            self._left = Left(self._look)
            PROGRESS.take(self._left)

    def _look(self) -> bool:
        """What the thread does."""
        if self._accelerator:
            self._accelerator.use()
        return self._program.test()

    def test(self) -> bool:
        """Go on as far as possible without waiting; whether the result is there."""
        left = self._left
        if left is None:
            return self._program.test()
        with left.lock:
            self._raise(left)
            left.over = self._program.test()
        if left.over:
            self._left = None  # which refers to this plan: memory is to go when the last plan goes
        return left.over

    def wait(self) -> None:
        """Block until the run that was begun is complete."""
        left, self._left = self._left, None
        if left:
            with left.lock:
                left.over = True
            self._raise(left)
        self._program.wait()

    def _raise(self, left: Left) -> None:
        """Tell the caller, once, what went wrong in the thread."""
        error, left.error = left.error, None
        if error:
            raise error
