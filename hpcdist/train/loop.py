"""The loop: step, log, save, until all is done or somebody asks to stop."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from mpi4py import MPI
from rich.console import Console
from threadpoolctl import threadpool_limits

from hpcdist.checkpoint import Store
from hpcdist.train import resume
from hpcdist.train.results import Results
from hpcdist.train.root import on_all, on_root
from hpcdist.train.setup import open_data, open_results, prepare, rehearse
from hpcdist.train.signals import StopRequest
from hpcdist.train.trainer import Trainer


@dataclass(frozen=True)
class Outcome:
    """How a run ended: complete, or stopped on request after a checkpoint."""

    completed: bool
    steps: int
    test_loss: float | None = None
    test_accuracy: float | None = None


def train(
    comm: MPI.Intracomm,
    settings: dict[str, Any],
    console: Console | None = None,
    explain: bool = False,
    stop: StopRequest | None = None,
) -> Outcome:
    """Train a model on all ranks of `comm`. Collective.

    Args:
        comm: All ranks that train together.
        settings: Fields of `Config` that are not to have their defaults; the same on all ranks.
        console: Where rank 0 reports; by default it does not.
        explain: Whether rank 0 says why this algorithm was chosen.
        stop: Asks to stop after a checkpoint; by default nothing does.

    Raises:
        AgreedError: on all ranks, whatever went wrong on any.
    """
    console = console if console and comm.rank == 0 else Console(quiet=True)
    rehearse(comm, settings)
    store, start = on_root(comm, lambda: resume.take(settings))
    with open_data(comm, start.config) as data:
        trainer = prepare(comm, start, data, console, explain)
        results = on_all(comm, lambda: open_results(store, trainer, console))
        try:
            with threadpool_limits(trainer.execution.threads, "blas"):
                outcome = run(trainer, store, results, stop or StopRequest())
        finally:
            if results:
                results.close()
        trainer.close()  # not in a finally: closing is collective, and an exception may be this rank's alone
    return outcome


def run(trainer: Trainer, store: Store, results: Results | None, stop: StopRequest) -> Outcome:
    """Step until all is done or a rank was asked to stop. Collective.

    A checkpoint is written every so many steps, at the end if they are written at all, and before stopping.
    """
    every, steps_per_epoch = trainer.config.checkpoint_every, trainer.sampler.steps_per_epoch
    tested = None
    while trainer.done < trainer.total:
        # A log that cannot be written is rank 0's trouble: it asks all to save, where they hear of it.
        row, stopping = trainer.step(stop.requested or bool(results and results.failed))
        if trainer.done % steps_per_epoch == 0:
            tested = trainer.evaluate()
            row = replace(row, test_loss=tested[0], test_accuracy=tested[1])
        if results:
            results.add(row)

        finished = trainer.done == trainer.total
        stopping = stopping and not finished
        if stopping or (every and (finished or trainer.done % every == 0)):
            save(trainer, store, results)
        if stopping:
            return stop_early(trainer, results, Outcome(False, trainer.done))

    outcome = Outcome(True, trainer.done, *(tested or trainer.evaluate()))
    finish(trainer, results, outcome)
    return outcome


def save(trainer: Trainer, store: Store, results: Results | None) -> None:
    """Write a checkpoint on rank 0, after the log, which must not be the older of the two. Collective."""
    trainer.check_parameters()  # from a diverged state there would be no going on

    def write() -> None:
        if results:
            results.sync()
            store.save(trainer.done, trainer.arrays(), trainer.facts())

    on_all(trainer.comm, write)


def stop_early(trainer: Trainer, results: Results | None, outcome: Outcome) -> Outcome:
    """Note on rank 0 that the run was asked to stop. Collective."""
    on_all(trainer.comm, lambda: results.stop(asdict(outcome)) if results else None)
    return outcome


def finish(trainer: Trainer, results: Results | None, outcome: Outcome) -> None:
    """Draw the figure and write the summary on rank 0. Collective."""

    def write() -> None:
        if results:
            results.finish(asdict(outcome), trainer.facts(), trainer.sampler.steps_per_epoch)

    on_all(trainer.comm, write)
