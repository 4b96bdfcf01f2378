"""Being asked to stop: Slurm's --signal and --time, a user's kill, or Ctrl-C."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from types import FrameType
from typing import Self

from hpcdist.util.signals import handled

STOPPED = 85  # exit code: "checkpointed, run me again", as job scripts expect it
SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class StopRequest(ExitStack):
    """While entered, SIGUSR1, SIGTERM and SIGINT only set `requested`; the loop looks at it once a step.

    A second SIGINT ends it at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.requested = False

    def __enter__(self) -> Self:
        self.enter_context(handled(SIGNALS, self._handle))
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested:
            raise KeyboardInterrupt
        self.requested = True
