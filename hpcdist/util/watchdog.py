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
from typing import NamedTuple, Protocol


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
        seconds = -1.0
    if not seconds >= 0:
        raise ValueError(f"HPCDIST_TIMEOUT must be a number of seconds, 0 or 'off', not {text!r}.")
    return seconds or float("inf")


def action() -> str:
    """What follows a warning: "warn" for nothing, or "abort".

    Raises: ValueError if HPCDIST_TIMEOUT_ACTION is neither.
    """
    text = os.environ.get("HPCDIST_TIMEOUT_ACTION", "warn")
    if text not in ("warn", "abort"):
        raise ValueError(f"HPCDIST_TIMEOUT_ACTION must be 'warn' or 'abort', not {text!r}.")
    return text


class _Seen(NamedTuple):
    """How far something was, since when [s], and when to warn [s]."""

    progress: Hashable | None
    since: float
    due: float


class Watchdog:
    """A thread that looks at everything watched, about four times within the timeout."""

    def __init__(self) -> None:
        self.abort: Callable[[], None] = lambda: os._exit(70)
        self._watched: weakref.WeakKeyDictionary[Watched, _Seen | None] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._limit = float("inf")
        self._action = "warn"

    def watch(self, thing: Watched) -> None:
        """Look after `thing` for as long as it lives."""
        if self._thread is None:
            self._limit, self._action = timeout(), action()
            if self._limit == float("inf"):
                return
            self._thread = threading.Thread(target=self._look, name="hpcdist watchdog", daemon=True)
            self._thread.start()
        with self._lock:
            self._watched[thing] = None

    def _look(self) -> None:
        while True:
            time.sleep(min(1.0, max(0.02, self._limit / 4)))
            self._look_once()

    def _look_once(self) -> None:
        """A call of its own, so that nothing is kept alive while the thread sleeps."""
        with self._lock:
            for thing, seen in list(self._watched.items()):
                self._watched[thing] = self._judge(thing, seen, time.monotonic())

    def _judge(self, thing: Watched, seen: _Seen | None, now: float) -> _Seen:
        """Warn if `thing` is where it was, and is due; the next warning comes after twice the time."""
        progress = thing.progress()
        if progress is None or seen is None or seen.progress != progress:
            return _Seen(progress, now, now + self._limit)
        if now < seen.due:
            return seen
        waited = now - seen.since
        print(f"hpcdist: no progress for {waited:.0f} s: {thing.describe()}", file=sys.stderr, flush=True)
        if self._action == "abort":
            print("hpcdist: HPCDIST_TIMEOUT_ACTION=abort ends the job.", file=sys.stderr, flush=True)
            self.abort()
        return seen._replace(due=now + waited)


WATCHDOG = Watchdog()


class _Wait:
    def __init__(self) -> None:
        self.what: str | None = None
        self.entered = 0  # tells two waits for the same thing apart

    def progress(self) -> Hashable | None:
        return self.what and (self.entered, self.what)

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
    wait.entered += 1
    try:
        yield
    finally:
        wait.what = outer
