"""A thread that goes on with runs that were started, while their callers compute.

MPI moves messages when it is called, and hardly otherwise; so does what the ranks of a node do in shared memory. Either
the caller looks at his plans between pieces of his work, or a thread does.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Sequence

from mpi4py import MPI

from hpcdist.device import Accelerator

AUTO, CALLS, THREAD = "auto", "calls", "thread"  # who goes on with a run: its caller's calls, or the thread
INTERVAL = 1e-4  # seconds in which the thread lets others have its core


class ProgressThread:
    """Looks at all that it is given, in turn, until each is complete or given back.

    Attributes:
        lock: held while it looks, and to be held by whoever looks beside it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._given = threading.Condition(self.lock)
        self._looks: list[Callable[[], bool]] = []
        self._thread: threading.Thread | None = None
        self._ended = False

    def take(self, look: Callable[[], bool]) -> None:
        """Call `look` again and again until it answers that all is done. It must not raise."""
        with self._given:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hpcdist progress", daemon=True)
                self._thread.start()
                atexit.register(self._end)  # before MPI is finalized, which no thread may call then
            self._looks.append(look)
            self._given.notify()

    def give_back(self, look: Callable[[], bool]) -> None:
        """Do not call it any more from now on."""
        with self.lock:
            if look in self._looks:
                self._looks.remove(look)

    def _run(self) -> None:
        while True:
            with self._given:
                self._given.wait_for(lambda: self._looks or self._ended)
                if self._ended:
                    return
                self._looks = [look for look in self._looks if not look()]
            time.sleep(INTERVAL)

    def _end(self) -> None:
        with self._given:
            self._ended = True
            self._given.notify()
        if self._thread:
            self._thread.join()


PROGRESS = ProgressThread()


def chosen(progress: str, topology: Sequence[int]) -> str:
    """CALLS or THREAD; by itself, a thread only where messages travel between nodes, which costs it next to nothing.

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


class Helped:
    """Mixed in before a program: what `start` begins may be left to the thread.

    Attributes:
        topology: the node of every rank.
        accelerator: the device of its buffers; None for host memory.
    """

    topology: Sequence[int]
    accelerator: Accelerator | None
    _left_to_the_thread = False
    _error: BaseException | None = None  # with which it ended in the thread

    def start(self, progress: str = AUTO) -> None:
        """Begin a run."""
        who = chosen(progress, self.topology)
        super().start()  # type: ignore[misc]
        self._left_to_the_thread = who == THREAD and self.running  # type: ignore[attr-defined]
        if self._left_to_the_thread:
            PROGRESS.take(self._look)

    def _look(self) -> bool:
        """What the thread does."""
        try:
            if self.accelerator:
                self.accelerator.use()
            return super().test()  # type: ignore[misc]
        except BaseException as error:
            self._error = error  # for the caller
            return True

    def test(self) -> bool:
        """Go on as far as possible without waiting; whether the result is there."""
        if not self._left_to_the_thread:
            return super().test()  # type: ignore[misc]
        with PROGRESS.lock:
            self._raise()
            return super().test()  # type: ignore[misc]

    def wait(self) -> None:
        """Block until the run that was begun is complete."""
        if self._left_to_the_thread:
            PROGRESS.give_back(self._look)
            self._left_to_the_thread = False
            self._raise()
        super().wait()  # type: ignore[misc]

    def _raise(self) -> None:
        error, self._error = self._error, None
        if error:
            raise error
