"""A time limit on each check, kept by a thread, so that what hangs is named and the doctor comes to an end."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 0.1  # seconds between two looks
GRACE = 1.0  # seconds: ranks that hang speak first, then rank 0 reports, then the job ends


class Limit:
    """Watches one check at a time.

    Args:
        seconds: how long a check may take.
        report: called with the name of a check that took longer; says so, if this rank is the one to report.
        end: called last, to end the job.
    """

    def __init__(self, seconds: float, report: Callable[[str], None], end: Callable[[], None]) -> None:
        self.seconds, self._report, self._end = seconds, report, end
        self.who = "this rank"
        self._check: tuple[str, float] | None = None  # its name, and when its time is up
        self._doing: str | None = None  # what this rank itself is at, while it does not wait for others
        threading.Thread(target=self._look, name="hpcdist doctor limit", daemon=True).start()

    @contextmanager
    def on(self, check: str, more: float = 0.0) -> Iterator[None]:
        """Let the check in the block take `seconds`, and `more`."""
        self._check = check, time.monotonic() + self.seconds + more
        try:
            yield
        finally:
            self._check = None

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """This rank is at `what` and does not just wait for the others."""
        self._doing = what
        try:
            yield
        finally:
            self._doing = None

    def _look(self) -> None:
        while True:
            time.sleep(EVERY)
            check = self._check
            if check and time.monotonic() > check[1]:
                self._expire(check[0])
                return

    def _expire(self, check: str) -> None:
        if self._doing:
            line = f"hpcdist doctor: {self.who} does not come back from: {self._doing} (check: {check})"
            print(line, file=sys.stderr, flush=True)
        time.sleep(GRACE)
        self._report(check)
        time.sleep(GRACE)
        self._end()
