"""The life of a bound program: a run is begun, goes on, and ends; what has failed or was closed never runs again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable

from hpcdist.transport import Request
from hpcdist.util.watchdog import WATCHDOG

IDLE, STARTED, BLOCKED, FAILED, CLOSED = range(5)  # states

_IN_FLIGHT: set[Bound] = set()  # keeps them, and their memory, while data may come to it


class Bound(ABC):
    """A program bound to buffers. Calling it runs it; `start`, `test` and `wait` run it beside other work.

    The results of all ranks are equal bit for bit. Between `start` and the end the buffers belong to it.

    Attributes:
        executor: who runs it, by name.
        requests: what is bound of the transport.
    """

    executor: str
    requests: list[Request]

    def __init__(self) -> None:
        self._state, self._run = IDLE, 0
        self._unusable = ""  # why it cannot run (again)
        WATCHDOG.watch(self)

    # --- what each kind of program does in its own way ---

    @abstractmethod
    def _begin(self) -> None:
        """Begin a run; does not wait."""

    @abstractmethod
    def _attempt(self) -> bool:
        """Go on with the run as far as possible without waiting; whether it is complete."""

    @abstractmethod
    def _complete(self) -> None:
        """Go on with the run until it is complete."""

    def _run_whole(self) -> None:
        """Begin a run, and go on until it is complete."""
        self._begin()
        self._complete()

    @abstractmethod
    def _forget(self) -> None:
        """Refer to no memory any more."""

    @abstractmethod
    def _position(self) -> Hashable:
        """How far the run in hand is."""

    @abstractmethod
    def describe(self) -> str:
        """Who waits in which run for what, in one line."""

    # --- what is common to all ---

    def __call__(self) -> object:
        """Run and block until the result is there."""
        if self._state != IDLE:
            self._refuse()
        self._run += 1
        self._state = BLOCKED
        try:
            self._run_whole()
        except BaseException as error:
            self._fail(error)
            raise
        self._state = IDLE
        return None

    def start(self) -> None:
        """Begin a run; goes as far as it can without waiting."""
        if self._state != IDLE:
            self._refuse()
        self._run += 1
        self._state = STARTED
        _IN_FLIGHT.add(self)
        try:
            self._begin()
        except BaseException as error:
            self._fail(error)
            raise
        self.test()

    def test(self) -> bool:
        """Go on as far as possible without waiting; whether the result is there."""
        if self._state == FAILED:
            self._refuse()
        if not self.running:
            return True
        try:
            done = self._attempt()
        except BaseException as error:
            self._fail(error)
            raise
        if done:
            self._end()
        return done

    def wait(self) -> None:
        """Block until the run that was begun is complete."""
        if self._state == FAILED:
            self._refuse()
        if not self.running:
            return
        self._state = BLOCKED
        try:
            self._complete()
        except BaseException as error:
            self._fail(error)
            raise
        self._end()

    @property
    def running(self) -> bool:
        """Whether a run was begun and has not ended; one that failed never ends."""
        return self._state in (STARTED, BLOCKED, FAILED)

    def free(self) -> None:
        """Give up the bindings of all messages, and all memory; it cannot run again."""
        for request in self.requests:
            request.free()
        self.requests = []
        if self.running:
            _IN_FLIGHT.add(self)
        else:
            self._forget()
        self._state, self._unusable = CLOSED, "it was closed"

    def progress(self) -> Hashable | None:
        """For the watchdog: (run, how far it is), or None unless blocked in a run."""
        return (self._run, self._position()) if self._state == BLOCKED else None

    def _end(self) -> None:
        self._state = IDLE
        _IN_FLIGHT.discard(self)

    def _fail(self, error: BaseException) -> None:
        self._state, self._unusable = FAILED, f"its last run ended with {error!r}"
        _IN_FLIGHT.add(self)  # messages, and work on a device, may still come to its memory

    def _refuse(self) -> None:
        if self._unusable:
            raise RuntimeError(f"this plan cannot run: {self._unusable}.")
        raise RuntimeError("this plan is still running; call wait() before you run it again.")
