"""Training runs for tests: how one is started, and what it leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mpi4py import MPI
from rich.console import Console

from hpcdist.errors import AgreedError
from hpcdist.train import loop
from hpcdist.train.log import Row, read
from hpcdist.train.trainer import Trainer

SHORT: dict[str, Any] = {"epochs": 2, "batch": 100, "warmup": 5, "seed": 5}  # 30 steps


def rows(out: Path) -> list[Row]:
    """The log without the times."""
    return [replace(row, seconds=0.0) for row in read(out / "log.csv")]


def train(
    out: Path,
    comm: MPI.Intracomm = MPI.COMM_WORLD,
    console: Console | None = None,
    figure: bool = False,
    **settings: Any,
) -> list[Row]:
    """A run to its end; the log of what it did. Without its figure, which takes longer than the run."""
    with pytest.MonkeyPatch.context() as patch:
        if not figure:
            patch.setattr("hpcdist.train.figure.draw", lambda *arguments, **options: None)
        outcome = loop.train(comm, {**SHORT, "out": str(out), **settings}, console)
    assert outcome.completed
    return rows(out)


def die_after(steps: int, out: Path, **settings: Any) -> None:
    """Train, and end by an error on all ranks."""
    step = Trainer.step

    def fail(trainer: Trainer, stop: bool) -> tuple[Row, bool]:
        if trainer.done == steps:
            raise AgreedError("as good as killed")
        return step(trainer, stop)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", fail)
        with pytest.raises(AgreedError, match="as good as killed"):
            train(out, **settings)
    MPI.COMM_WORLD.Barrier()
