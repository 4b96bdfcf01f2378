"""Saving in the course of a run: when, and in which order with the log."""

from __future__ import annotations

import time
from contextlib import suppress

from hpcdist.checkpoint.frequency import Frequency
from hpcdist.errors import AgreedError, ArgumentError
from hpcdist.mpi.collective_errors import on_all
from hpcdist.train.results import Results
from hpcdist.train.setup import Run

HOUR = 3600.0  # seconds


class Saver:
    """Saves a run's state; its methods but `failed` and `due` are collective.

    Args:
        run: Trainer, and where to save its state.
        results: The run's results, on rank 0.
    """

    def __init__(self, run: Run, results: Results | None) -> None:
        trainer, config = run.trainer, run.trainer.config
        self._trainer, self._store, self._copies, self._results = trainer, run.store, run.copies, results
        self._copied = trainer.done
        self._frequency = Frequency(config.checkpoint_every, config.checkpoint_budget, config.checkpoint_mtbf * HOUR)
        self._frequency.begin(trainer.done)
        self._since = (trainer.done, time.perf_counter())  # the last save, or the beginning

    @property
    def failed(self) -> bool:
        """Whether the log, or a checkpoint under way, cannot be written by this rank; `save` then raises why."""
        return self._store.failed or bool(self._results and self._results.log.failed)

    def due(self, finished: bool) -> bool:
        """Whether to save now; the end of the run is always saved if anything is."""
        return self._frequency.on and (finished or self._frequency.due(self._trainer.done))

    def save(self, last: bool = False) -> None:
        """Save, after the log, which must not be the older of the two.

        Args:
            last: Whether the run is about to stop; then only this save counts, not how the one before ended.

        Raises:
            AgreedError: on all ranks, whatever went wrong on any, now or with the checkpoint before.
        """
        if last:
            with suppress(AgreedError):
                self._store.wait()
        self._prepare()
        trainer = self._trainer
        began = time.perf_counter()
        self._store.save(trainer.done, trainer.arrays(), trainer.facts())
        self._measure(began)

    def copy(self, stopping: bool) -> None:
        """Copy the state to the memory of the nodes, if that is wanted and due, or if it is the last before a stop.

        Where there is no room, or a node's memory cannot be written, that is said, and the run goes on: it has lost
        nothing, the copies before are kept, and the next are tried again.
        """
        trainer = self._trainer
        due = trainer.config.partner_every and trainer.done >= self._copied + trainer.config.partner_every
        if self._copies and (due or (stopping and trainer.done > self._copied)):
            self._prepare()
            self._copied = trainer.done
            try:
                self._copies.save(trainer.done, trainer.arrays(), trainer.facts())
            except ArgumentError:
                raise
            except AgreedError as error:
                if self._results:
                    self._results.note(f"partner copies of step {trainer.done} failed: {error}")

    def _prepare(self) -> None:
        """See that the state is worth saving, and that the log is not the older of the two."""
        results = self._results
        self._trainer.check_parameters()  # from a diverged state there would be no going on
        on_all(self._trainer.comm, lambda: results.log.sync() if results else None)

    def _measure(self, began: float) -> None:
        """Let the frequency know what was measured, by rank 0, as all must choose the same."""
        now, (step, since) = time.perf_counter(), self._since
        done = self._trainer.done
        self._frequency.saved(done)
        if self._frequency.adapts and done > step:
            least = self._store.last.total if self._store.last else 0.0
            measured = (now - began, (began - since) / (done - step), least)
            self._frequency.adapt(*self._trainer.comm.bcast(measured))
        self._since = (done, now)
