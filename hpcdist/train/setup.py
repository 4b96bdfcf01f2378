"""Everything that must stand before the first step: data, model, plan, the state of a checkpoint, results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mpi4py import MPI
from rich.console import Console

from hpcdist.checkpoint import DamagedCheckpoint, Fence, Store
from hpcdist.data import digits
from hpcdist.data.dataset import Dataset
from hpcdist.models import MODELS
from hpcdist.train import resume
from hpcdist.train.config import BACKGROUND, Config
from hpcdist.train.results import Results
from hpcdist.train.threads import share
from hpcdist.train.trainer import Trainer
from hpcdist.transport.mpi import agree, topology
from hpcdist.transport.together import on_all, on_root


def open_data(comm: MPI.Intracomm, config: Config) -> Dataset:
    """Open the data set on every rank; rank 0 converts it first if need be. Collective."""
    path = on_root(comm, digits.cached) if config.data == "digits" else Path(config.data)
    return on_all(comm, lambda: Dataset(path))


@contextmanager
def started(
    comm: MPI.Intracomm, settings: dict[str, Any], fence: Fence, console: Console, explain: bool
) -> Iterator[tuple[Trainer, Store]]:
    """A run in the state of its newest checkpoint, if there is one: trainer and store. Collective.

    Whether a checkpoint is whole shows only when it is read. One that is not is set aside, and all begins again from
    the one before.
    """
    notes: list[str] = []
    while True:
        start = on_root(comm, lambda: resume.begin(settings, fence))
        store = open_store(comm, start.config, fence)
        with open_data(comm, start.config) as data:
            trainer = prepare(comm, start, data)
            try:
                if start.checkpoint:
                    trainer.restore(start.checkpoint)
            except DamagedCheckpoint as error:
                notes += [f"{error}; set aside"]
                give_up(comm, start, error)
                store.put_aside(error)
            else:
                describe(trainer, start, console, notes, explain)
                yield trainer, store
                # Not in a finally: closing is collective, and an exception may be this rank's alone.
                trainer.close()
                store.close()
                return
            trainer.close()
            store.close()


def give_up(comm: MPI.Intracomm, start: resume.Start, error: DamagedCheckpoint) -> None:
    """Raise on all ranks if the damaged checkpoint was asked for by its path: there is none before it then."""
    agree(comm, start.config.resume == "auto", str(error))


def open_store(comm: MPI.Intracomm, config: Config, fence: Fence) -> Store:
    """The checkpoints of the run. Collective."""
    return Store(
        comm,
        config.checkpoints,
        config.keep,
        layout=config.checkpoint_layout,
        writers=min(config.checkpoint_writers, comm.size),
        background=config.checkpoint_mode == BACKGROUND,
        compression=config.checkpoint_compression,
        fence=fence,
    )


def prepare(comm: MPI.Intracomm, start: resume.Start, data: Dataset) -> Trainer:
    """Make the trainer, and see that the checkpoint fits, which is not read yet. Collective."""
    config = start.config
    how = resume.execution(config, comm.size, share(comm), start.checkpoint)
    model = on_all(comm, lambda: MODELS[config.model](data.sample_shape, data.classes))
    trainer = Trainer(comm, config, model, data, how)
    if start.checkpoint:
        checkpoint = start.checkpoint
        on_all(comm, lambda: resume.check(trainer, checkpoint))
    return trainer


def rehearse(comm: MPI.Intracomm, settings: dict[str, Any]) -> None:
    """Prepare as for a start, and change nothing: a mistyped start must not end a run that is going well. Collective.

    What is prepared is thrown away, as the other run may write a checkpoint before we take its directory.
    """
    start = on_root(comm, lambda: resume.begin(settings))
    with open_data(comm, start.config) as data:
        prepare(comm, start, data).close()


def describe(trainer: Trainer, start: resume.Start, console: Console, notes: list[str], explain: bool) -> None:
    """Say what is about to run, and what there is to know about it. Collective."""
    config, how = trainer.config, trainer.execution
    notes = notes + start.notes
    if start.checkpoint:
        notes += [f"resumed from {start.checkpoint.path} after {start.checkpoint.step} of {trainer.total} steps"]
        notes += resume.placement_notes(start.checkpoint, how, topology(trainer.comm))
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
