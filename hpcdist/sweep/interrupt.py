"""Stopping early: a signal sets a flag, all ranks agree on it, and what was measured is kept."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Self

from mpi4py import MPI

from hpcdist.util.signals import handled

SIGNALS = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C reaches ranks as one or the other, as the launcher pleases


class Interrupt(ExitStack):
    """A context in which the first SIGINT or SIGTERM is only noted; the second acts as it always did.

    `seen` is called at once on a rank that was told to stop, since its launcher may not wait for all to agree.
    """

    def __init__(self, comm: MPI.Intracomm, seen: Callable[[], object] = lambda: None):
        super().__init__()
        self.comm, self.seen = comm, seen
        self.number = 0

    def __enter__(self) -> Self:
        self.enter_context(handled(SIGNALS, self._note))
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self.close()
        self.seen()

    def agreed(self) -> bool:
        """Whether any rank was told to stop; collective, and the same on all ranks."""
        self.number = self.comm.allreduce(self.number, MPI.MAX)
        return self.number > 0

    @property
    def exit_code(self) -> int:
        """What a shell reports for a program that this signal ended: 130 for Ctrl-C."""
        return 128 + self.number if self.number else 0
