"""Being asked to stop: Slurm's --signal and --time, or a user's kill."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

STOPPED = 85  # exit code: "checkpointed, run me again", as job scripts expect it
SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class StopRequest:
    """While entered, SIGUSR1 and SIGTERM only set `requested`; the loop looks at it once a step."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
