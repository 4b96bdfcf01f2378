"""Everything that must stand before the first step: data, model, plan, the state of a checkpoint, results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpi4py import MPI
from rich.console import Console

from hpcdist.checkpoint import Store
from hpcdist.data import digits
from hpcdist.data.dataset import Dataset
from hpcdist.models import MODELS
from hpcdist.train import resume
from hpcdist.train.config import Config
from hpcdist.train.results import Results
from hpcdist.train.root import on_all, on_root
from hpcdist.train.threads import share
from hpcdist.train.trainer import Trainer
from hpcdist.transport.mpi import topology


def open_data(comm: MPI.Intracomm, config: Config) -> Dataset:
    """Open the data set on every rank; rank 0 converts it first if need be. Collective."""
    path = on_root(comm, digits.cached) if config.data == "digits" else Path(config.data)
    return on_all(comm, lambda: Dataset(path))


def prepare(comm: MPI.Intracomm, start: resume.Start, data: Dataset, console: Console, explain: bool) -> Trainer:
    """Make the trainer, in the state of the checkpoint if there is one. Collective."""
    config = start.config
    how = resume.execution(config, comm.size, share(comm), start.checkpoint)
    model = on_all(comm, lambda: MODELS[config.model](data.sample_shape, data.classes))
    trainer = Trainer(comm, config, model, data, how)
    notes = list(start.notes)
    if start.checkpoint:
        checkpoint = start.checkpoint
        on_all(comm, lambda: resume.check(trainer, checkpoint))
        trainer.restore(checkpoint)
        notes += [f"resumed from {checkpoint.path} after {checkpoint.step} of {trainer.total} steps"]
        notes += resume.placement_notes(checkpoint, trainer.execution, topology(comm))
    describe(trainer, console, notes, explain)
    return trainer


def rehearse(comm: MPI.Intracomm, settings: dict[str, Any]) -> None:
    """Prepare as for a start, and change nothing: a mistyped start must not end a run that is going well. Collective.

    What is prepared is thrown away, as the other run may write a checkpoint before we take its directory.
    """
    start = on_root(comm, lambda: resume.begin(settings))
    with open_data(comm, start.config) as data:
        prepare(comm, start, data, Console(quiet=True), explain=False).close()


def describe(trainer: Trainer, console: Console, notes: list[str], explain: bool) -> None:
    """Say what is about to run."""
    config, how = trainer.config, trainer.execution
    console.print(
        f"{config.model} of {trainer.model.size} parameters on {config.data}: {trainer.total} steps of "
        f"{config.batch} samples, {how.ranks} ranks of {how.threads} threads, all-reduce by {how.algorithm}",
        highlight=False,
        soft_wrap=True,
    )
    if explain:
        console.print(f"{how.algorithm}: {trainer.plan.why}", highlight=False, soft_wrap=True, markup=False)
    for note in notes:
        console.print(f"note: {note}", highlight=False, soft_wrap=True, markup=False)


def open_results(store: Store, trainer: Trainer, console: Console) -> Results | None:
    """The results directory on rank 0, None elsewhere."""
    if trainer.comm.rank:
        return None
    return Results(trainer.config, store.fence, console, trainer.done, trainer.total)
