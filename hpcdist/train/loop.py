"""The loop: step, log, save, until all is done or somebody asks to stop."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from mpi4py import MPI
from rich.console import Console
from threadpoolctl import threadpool_limits

from hpcdist.checkpoint.writer import claim
from hpcdist.mpi.collective_errors import on_all, on_root
from hpcdist.train.config import Config
from hpcdist.train.results import Results
from hpcdist.train.saver import Saver
from hpcdist.train.setup import Run, open_results, rehearse, started
from hpcdist.train.signals import StopRequest

FAR = 10  # times the loss of guessing, above which a run that is complete is told that it has learnt nothing


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
    examined = rehearse(comm, settings)
    fence = on_root(comm, lambda: claim(Config(**settings).checkpoints))
    with started(comm, settings, fence, console, explain, examined) as run:
        results = on_all(comm, lambda: open_results(run.store, run.trainer, console))
        try:
            with threadpool_limits(run.trainer.execution.threads, "blas"):
                return steps(run, results, stop or StopRequest())
        finally:
            if results:
                results.close()


def steps(run: Run, results: Results | None, stop: StopRequest) -> Outcome:
    """Step until all is done or a rank was asked to stop. Collective.

    A checkpoint is written every so many steps, at the end if they are written at all, and before stopping.
    """
    trainer, saver = run.trainer, Saver(run, results)
    steps_per_epoch, tested = trainer.sampler.steps_per_epoch, None
    while trainer.done < trainer.total:
        # A log or checkpoint that cannot be written is one rank's trouble: it asks all to save, where they hear of it.
        row, stopping = trainer.step(stop.requested or saver.failed)
        if trainer.done % steps_per_epoch == 0:
            tested = trainer.evaluate()
            row = replace(row, test_loss=tested[0], test_accuracy=tested[1])
        if results:
            results.add(row)

        finished = trainer.done == trainer.total
        stopping = stopping and not finished
        saver.copy(stopping)
        if stopping or saver.due(finished):
            saver.save(last=stopping)
        if stopping:
            break

    run.store.wait()
    if trainer.done < trainer.total:
        stopped = Outcome(False, trainer.done)
        on_all(trainer.comm, lambda: results.stop(asdict(stopped)) if results else None)
        return stopped
    outcome = Outcome(True, trainer.done, *(tested or trainer.evaluate()))
    guess = math.log(max(2, trainer.data.classes))
    if results and outcome.test_loss and outcome.test_loss > FAR * guess:
        results.note(
            f"the test loss is {outcome.test_loss:.4g}, and guessing gives {guess:.3g}: nothing was learnt; is "
            f"--learning-rate {trainer.config.learning_rate:g} too large, or the data not scaled to about 1?"
        )
    numbers = asdict(outcome)
    on_all(trainer.comm, lambda: results.finish(numbers, trainer.facts(), steps_per_epoch) if results else None)
    if run.copies:  # not sooner, as they may be all there is
        run.copies.forget()
    return outcome
