"""Stopping early: a signal sets a flag, all ranks agree on it, and what was measured is kept."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

from mpi4py import MPI

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C reaches ranks as one or the other, as the launcher pleases


class Interrupt:
    """A context in which the first SIGINT or SIGTERM is only noted; the second acts as it always did.

    `seen` is called at once on a rank that was told to stop, since its launcher may not wait for all to agree.
    """

    def __init__(self, comm: MPI.Intracomm, seen: Callable[[], object] = lambda: None):
        self.comm, self.seen = comm, seen
        self.number = 0

    def __enter__(self) -> Interrupt:
        self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()
        self.seen()

    def _restore(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def agreed(self) -> bool:
        """Whether any rank was told to stop; collective, and the same on all ranks."""
        self.number = self.comm.allreduce(self.number, MPI.MAX)
        return self.number > 0

    @property
    def exit_code(self) -> int:
        """What a shell reports for a program that this signal ended: 130 for Ctrl-C."""
        return 128 + self.number if self.number else 0
