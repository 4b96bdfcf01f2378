"""Everything that must stand before the first step: data, model, plan, the state of a checkpoint, results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mpi4py import MPI
from rich.console import Console

from hpcdist.checkpoint import DamagedCheckpoint, Fence, Store
from hpcdist.checkpoint.history import given_up, history_of, note_start
from hpcdist.checkpoint.partner import PartnerCopies, Recovery, key_of
from hpcdist.checkpoint.store import check_arguments
from hpcdist.data import digits, importing
from hpcdist.data.dataset import Dataset
from hpcdist.device.host import CPU
from hpcdist.device.kinds import by_name
from hpcdist.errors import AgreedError, ArgumentError
from hpcdist.models import MODELS
from hpcdist.mpi import machine
from hpcdist.mpi.collective_errors import agree, agree_on, on_all, on_root
from hpcdist.mpi.world import topology_of
from hpcdist.train import resume
from hpcdist.train.config import AUTO, BACKGROUND, Config
from hpcdist.train.doubts import doubts, jump
from hpcdist.train.examine import examine
from hpcdist.train.results import Results
from hpcdist.train.threads import share
from hpcdist.train.trainer import Trainer


def open_data(comm: MPI.Intracomm, config: Config, before: Dataset | None = None) -> Dataset:
    """Open the data set on every rank, and look at all of it, unless that was done before. Collective.

    Rank 0 converts it first if need be.
    """
    path = on_root(comm, lambda: _file_of(config.data))
    data = on_all(comm, lambda: Dataset(path))
    try:
        examine(comm, data, before)
    except AgreedError:
        data.close()
        raise
    return data


def _file_of(data: str) -> Path:
    """The HDF5 file of a data set by name or path; made first where there is none yet."""
    if data == "digits":
        return digits.cached()
    return importing.cached(Path(data)) if Path(data).suffix in (".npz", ".csv") else Path(data)


@dataclass(frozen=True)
class Run:
    """What works together in a run."""

    trainer: Trainer
    store: Store
    copies: PartnerCopies | None

    def close(self) -> None:
        """Give back what is MPI's. Collective."""
        self.trainer.close()
        self.store.close()
        if self.copies:
            self.copies.close()


@contextmanager
def started(
    comm: MPI.Intracomm,
    settings: dict[str, Any],
    fence: Fence,
    console: Console,
    explain: bool,
    examined: Dataset | None = None,
) -> Iterator[Run]:
    """A run in its newest state, if it has one. Collective.

    Whether a checkpoint is whole shows only when it is read. One that is not is set aside, and all begins again from
    the one before.
    """
    notes: list[str] = []
    while True:
        start = on_root(comm, lambda: resume.begin(settings, fence))
        copies = open_copies(comm, start.config, fence)
        start = newest_start(comm, settings, start, fence, copies)
        with open_data(comm, start.config, examined) as data:
            run = Run(prepare(comm, start, data), open_store(comm, start.config, fence), copies)
            damage = restore(run, start)
            if damage is None:
                # what earlier starts left in memory may not count any more
                on_root(comm, partial(note_start, fence, run.trainer.done))
                notes += copy_again(run, start)
                describe(run.trainer, start, console, notes, explain)
                yield run
            run.close()  # not in a finally: closing is collective, and an exception may be this rank's alone
        if damage is None:
            return
        notes.append(damage)


def open_copies(comm: MPI.Intracomm, config: Config, fence: Fence) -> PartnerCopies | None:
    """The copies that the settings ask for, if any. Collective."""
    if not config.partner_every:
        return None
    folder, directory = Path(config.partner_dir), config.checkpoints
    before, history = on_root(comm, lambda: history_of(fence, anew=config.resume != AUTO))
    if before not in ("", history):  # nobody will ask for those again
        abandoned = PartnerCopies(comm, key_of(directory, before), folder)
        abandoned.forget()
        abandoned.close()
    return PartnerCopies(comm, key_of(directory, history), folder, token=fence.token)


def newest_start(
    comm: MPI.Intracomm, settings: dict[str, Any], start: resume.Start, fence: Fence, copies: PartnerCopies | None
) -> resume.Start:
    """The start, from the copies if what they hold is newer than the newest checkpoint. Collective."""
    if copies is None:
        return start
    if copies.note:
        start.notes.append(f"partner copies: {copies.note}")
    found = copies.newest() if start.config.resume == AUTO else None
    start.notes.extend(f"partner copies: {note}" for note in copies.notes)
    if found is None or (start.checkpoint and found.step <= start.checkpoint.step):
        return start
    if on_root(comm, lambda: given_up(fence, found.manifest.token, found.step)):
        start.notes.append(f"partner copies of step {found.step}: a later start went another way; not taken")
        return start
    return on_root(comm, lambda: resume.go_on(settings, found, start.notes))


def restore(run: Run, start: resume.Start) -> str | None:
    """Bring a run into the state that it starts from; says what is wrong with that, if anything is. Collective."""
    if isinstance(start.checkpoint, Recovery):
        return restore_from_copies(run, start.checkpoint)
    if start.checkpoint:
        try:
            run.store.restore(start.checkpoint, run.trainer.arrays_at(start.checkpoint.step))
        except DamagedCheckpoint as error:
            # If it was asked for by its path, there is none before it.
            agree(run.trainer.comm, start.config.resume == AUTO, str(error))
            run.store.put_aside(error)
            return f"{error}; set aside"
    return None


def restore_from_copies(run: Run, recovery: Recovery) -> str | None:
    """The same, from the memory of the nodes."""
    assert run.copies
    trainer = run.trainer
    try:
        run.copies.restore(recovery, trainer.arrays_at(recovery.step))
    except ArgumentError:
        raise
    except AgreedError as error:
        return f"partner copies: {error}"
    return None


def copy_again(run: Run, start: resume.Start) -> list[str]:
    """Copy a state that came from the memory of the nodes: where one was lost, some shares are single. Collective."""
    if not (run.copies and isinstance(start.checkpoint, Recovery)):
        return []
    try:
        run.copies.save(run.trainer.done, run.trainer.arrays(), run.trainer.facts())
    except AgreedError as error:  # it is no reason to give the state up
        return [f"partner copies: {error}"]
    return []


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
    device = on_all(comm, lambda: by_name(config.device))
    notes = machine.sharing(comm, device)
    trainer = Trainer(comm, config, model, data, how, device)
    trainer.notes += [*data.notes, *notes]
    if start.checkpoint:
        checkpoint = start.checkpoint
        on_all(comm, lambda: resume.check(trainer, checkpoint))
    return trainer


def rehearse(comm: MPI.Intracomm, settings: dict[str, Any]) -> Dataset:
    """Prepare as for a start, and change nothing: a mistyped start must not end a run that is going well. Collective.

    What is prepared is thrown away, as the other run may write a checkpoint before we take its directory; the data
    set, closed, is returned, as what was found in it holds.
    """
    agree_on(comm, settings_of_all(comm, settings))
    start = on_root(comm, lambda: resume.begin(settings))
    on_all(comm, lambda: check_places(start.config, comm.size))
    with open_data(comm, start.config) as data:
        prepare(comm, start, data).close()
    return data


def settings_of_all(comm: MPI.Intracomm, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that any rank was given, by the names of their flags, with this rank's values. Collective."""
    names = sorted(set().union(*comm.allgather(set(settings))))
    return {f"--{name.replace('_', '-')}": settings.get(name, "not given") for name in names}


def check_places(config: Config, size: int) -> None:
    """See that checkpoints can be written and copied as the settings say.

    Raises:
        ValueError: they cannot.
    """
    writers = min(config.checkpoint_writers, size)
    check_arguments(config.keep, config.checkpoint_layout, writers, size, config.checkpoint_compression)
    if config.partner_every and not Path(config.partner_dir).is_dir():
        raise ValueError(f"there is no folder {config.partner_dir} for partner copies; give one with --partner-dir")


def describe(trainer: Trainer, start: resume.Start, console: Console, notes: list[str], explain: bool) -> None:
    """Say what is about to run, and what there is to know about it. Collective."""
    config, how = trainer.config, trainer.execution
    where = "" if how.device == CPU else f" on {trainer.device.name}, gradients {trainer.plan.path}"
    notes = notes + start.notes + trainer.notes
    notes += doubts(config, trainer.total, trainer.sampler.count, trainer.sends_messages)
    if start.checkpoint:
        stored = start.checkpoint.facts["configuration"]
        notes += jump(config, stored, start.checkpoint.step, trainer.sampler.steps_per_epoch)
        notes += [f"resumed from {start.checkpoint.path} after {start.checkpoint.step} of {trainer.total} steps"]
        notes += resume.placement_notes(start.checkpoint, how, topology_of(trainer.comm))
    console.print(
        f"{config.model} of {trainer.model.size} parameters on {config.data}: {trainer.total} steps of "
        f"{config.batch} samples, {how.ranks} ranks of {how.threads} threads{where}, "
        f"all-reduce by {how.algorithm}",
        highlight=False,
        soft_wrap=True,
    )
    reasons = [f"{how.algorithm}: {trainer.plan.why}"]
    if how.device != CPU:
        reasons.append(f"{trainer.plan.path}: {trainer.plan.why_path}")
    for line in (reasons if explain else []) + [f"note: {each}" for each in notes]:
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def open_results(store: Store, trainer: Trainer, console: Console) -> Results | None:
    """The results directory on rank 0, None elsewhere."""
    if trainer.comm.rank:
        return None
    return Results(trainer.config, store.fence, console, trainer.done, trainer.total)
