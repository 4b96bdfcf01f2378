"""Saving in the course of a run: when, and in which order with the log."""

from __future__ import annotations

import time

from hpcdist.checkpoint import Store
from hpcdist.checkpoint.frequency import Frequency
from hpcdist.train.results import Results
from hpcdist.train.trainer import Trainer
from hpcdist.transport.together import on_all

HOUR = 3600.0  # seconds


class Saver:
    """Saves a trainer's state; its methods but `failed` and `due` are collective.

    Args:
        trainer: Whose state.
        store: Where to.
        results: The run's results, on rank 0.
    """

    def __init__(self, trainer: Trainer, store: Store, results: Results | None) -> None:
        config = trainer.config
        self._trainer, self._store, self._results = trainer, store, results
        self._frequency = Frequency(config.checkpoint_every, config.checkpoint_budget, config.checkpoint_mtbf * HOUR)
        self._frequency.begin(trainer.done)
        self._since = (trainer.done, time.perf_counter())  # the last save, or the beginning

    @property
    def failed(self) -> bool:
        """Whether the log, or a checkpoint under way, cannot be written by this rank; `save` then raises why."""
        return self._store.failed or bool(self._results and self._results.failed)

    def due(self, finished: bool) -> bool:
        """Whether to save now; the end of the run is always saved if anything is."""
        return self._frequency.on and (finished or self._frequency.due(self._trainer.done))

    def save(self) -> None:
        """Save, after the log, which must not be the older of the two.

        Raises:
            AgreedError: on all ranks, whatever went wrong on any, now or with the checkpoint before.
        """
        trainer, results = self._trainer, self._results
        trainer.check_parameters()  # from a diverged state there would be no going on
        on_all(trainer.comm, lambda: results.sync() if results else None)
        began = time.perf_counter()
        self._store.save(trainer.done, trainer.arrays(), trainer.facts())
        self._note(began)

    def _note(self, began: float) -> None:
        """Let the frequency know what was measured, by rank 0, as all must choose the same."""
        now, (step, since) = time.perf_counter(), self._since
        done = self._trainer.done
        self._frequency.saved(done)
        if self._frequency.adapts and done > step:
            cost, seconds = self._trainer.comm.bcast((now - began, (began - since) / (done - step)))
            self._frequency.adapt(cost, seconds)
        self._since = (done, now)
