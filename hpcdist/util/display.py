"""How far the sweep is, said on rank 0's stderr where that is a terminal, and nowhere else."""

from __future__ import annotations

import os
import sys
from time import monotonic

# Launchers put a pipe between a rank and the terminal; this variable tells a rank that there is one at its end.
TERMINAL = "HPCDIST_TERMINAL"


class Progress:
    """A line that is written over; behind a launcher, which passes on whole lines only, a line per point."""

    def __init__(self, rank: int, total: int):
        direct, behind = sys.stderr.isatty(), os.environ.get(TERMINAL) == "1"
        self.shown = rank == 0 and (direct or behind)
        self.before, self.after = ("\r\x1b[K", "") if direct else ("", "\n")
        self.total, self.start = total, monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.before:
            self._write("")

    def show(self, number: int, what: str) -> None:
        """Say that point `number`, counted from 0, is being measured."""
        self._write(f"[{number + 1}/{self.total}] {what}, {monotonic() - self.start:.0f} s so far")

    def _write(self, text: str) -> None:
        if self.shown:
            sys.stderr.write(f"{self.before}{text}{self.after}")
            sys.stderr.flush()
