"""A run's view of its checkpoint directory: take it, find the newest, save, keep the last few."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hpcdist.checkpoint.fence import Fence
from hpcdist.checkpoint.reader import Checkpoint, DamagedCheckpoint, newest
from hpcdist.checkpoint.writer import prune, remove_leftovers, write


class Store:
    """The checkpoints of one run. Used on one rank only; making one fences out every earlier run.

    Args:
        directory: Made if it is missing.
        keep: How many committed checkpoints to keep, at least 1.
    """

    def __init__(self, directory: Path, keep: int = 3) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep}: the newest checkpoint is never removed")
        self.directory = directory
        self.keep = keep
        self.fence = Fence(directory)
        remove_leftovers(self.fence)

    def newest(self) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
        """The newest checkpoint that is whole, and the damaged ones that were newer.

        The damaged ones are renamed, so that the run can come to their steps again; they are not deleted.
        """
        checkpoint, damaged = newest(self.directory)
        for error in damaged:
            self._set_aside(error.path)
        return checkpoint, damaged

    def save(self, step: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> Path:
        """Commit a checkpoint and remove those no longer kept; see `writer.write` for the errors."""
        path = write(self.fence, step, arrays, facts)
        prune(self.fence, self.keep)
        return path

    def _set_aside(self, path: Path) -> None:
        with self.fence.held():
            os.rename(path, path.with_name(f"{path.name}.damaged-{self.fence.token}"))
