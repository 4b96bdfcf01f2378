"""Being asked to stop: Slurm's --signal and --time, or a user's kill."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from types import FrameType
from typing import Self

from hpcdist.util.signals import handled

STOPPED = 85  # exit code: "checkpointed, run me again", as job scripts expect it
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class StopRequest(ExitStack):
    """While entered, SIGUSR1 and SIGTERM only set `requested`; the loop looks at it once a step."""

    def __init__(self) -> None:
        super().__init__()
        self.requested = False

    def __enter__(self) -> Self:
        self.enter_context(handled(SIGNALS, self._handle))
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
