"""The watchdog: says who waits for what when nothing has moved for a while, and ends the job if told to.

HPCDIST_TIMEOUT: seconds without progress before a warning (default 60; 0 or "off" switches the watchdog off).
HPCDIST_TIMEOUT_ACTION: "warn" (default) or "abort".
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Protocol


class Watched(Protocol):
    """Something that may wait."""

    def progress(self) -> Hashable | None:
        """A value that changes whenever something moves; None while idle."""

    def describe(self) -> str:
        """Who waits for what, in one line."""


def timeout() -> float:
    """Seconds without progress before a warning; infinite if switched off.

    Raises: ValueError if HPCDIST_TIMEOUT is neither a number of seconds nor "off".
    """
    text = os.environ.get("HPCDIST_TIMEOUT", "60")
    if text.lower() == "off":
        return float("inf")
    try:
        seconds = float(text)
    except ValueError:
        raise ValueError(f"HPCDIST_TIMEOUT must be a number of seconds or 'off', not {text!r}.") from None
    return seconds if seconds > 0 else float("inf")


def _end_process() -> None:
    os._exit(70)


class Watchdog:
    """A thread that looks at everything watched about four times within the timeout."""

    def __init__(self) -> None:
        self.abort: Callable[[], None] = _end_process
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self._limit = float("inf")

    def watch(self, thing: Watched) -> None:
        """Look after `thing` for as long as it lives."""
        if self._thread is None:
            self._limit = timeout()
            if self._limit == float("inf"):
                return
            self._thread = threading.Thread(target=self._look, name="hpcdist watchdog", daemon=True)
            self._thread.start()
        self._watched.add(thing)

    def _look(self) -> None:
        seen: dict[int, tuple[Hashable, float, float]] = {}  # thing -> progress, since when, when to warn
        while True:
            time.sleep(min(1.0, self._limit / 4))
            now = time.monotonic()
            for thing in list(self._watched):
                progress = thing.progress()
                known, since, due = seen.get(id(thing), (None, now, 0.0))
                if progress is None or progress != known:
                    seen[id(thing)] = (progress, now, now + self._limit)
                elif now >= due:
                    self._bark(thing, now - since)
                    seen[id(thing)] = (progress, since, now + (now - since))

    def _bark(self, thing: Watched, seconds: float) -> None:
        action = os.environ.get("HPCDIST_TIMEOUT_ACTION", "warn")
        print(f"hpcdist: no progress for {seconds:.0f} s: {thing.describe()}", file=sys.stderr, flush=True)
        if action == "abort":
            print("hpcdist: HPCDIST_TIMEOUT_ACTION=abort ends the job.", file=sys.stderr, flush=True)
            self.abort()


WATCHDOG = Watchdog()


class _Wait:
    def __init__(self) -> None:
        self.what: str | None = None

    def progress(self) -> Hashable | None:
        return self.what

    def describe(self) -> str:
        return self.what or "nothing"


_waits = threading.local()


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Let the watchdog know what this thread waits for while the block runs."""
    if not hasattr(_waits, "wait"):
        _waits.wait = _Wait()
        WATCHDOG.watch(_waits.wait)
    wait = _waits.wait
    outer, wait.what = wait.what, what
    try:
        yield
    finally:
        wait.what = outer
