"""When a run saves: what is told of the cost of saves and steps, by a clock that a test sets."""

from types import SimpleNamespace

import pytest
from mpi4py import MPI

from hpcdist.checkpoint.frequency import FIRST, Frequency
from hpcdist.train import saver


class Clock:
    """Seconds, which pass only when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(saver, "time", SimpleNamespace(perf_counter=made))
    return made


def run_whose_saves_take(seconds, clock):
    """A run of one rank with a budget; a save holds it up for so long."""

    def save(step, arrays, facts):
        clock.now += seconds

    waits = []
    config = SimpleNamespace(checkpoint_every=0, checkpoint_budget=0.5, checkpoint_mtbf=0.0)
    trainer = SimpleNamespace(
        config=config, done=0, comm=MPI.COMM_SELF, arrays=dict, facts=dict, check_parameters=lambda: None
    )
    store = SimpleNamespace(save=save, last=None, wait=lambda: waits.append(trainer.done), waits=waits)
    return SimpleNamespace(trainer=trainer, store=store, copies=None)


def test_what_a_save_took_is_not_counted_as_time_of_the_next_steps(clock, monkeypatch):
    told = []
    monkeypatch.setattr(Frequency, "adapt", lambda self, *measured: told.append(measured))
    run = run_whose_saves_take(100.0, clock)
    saves = saver.Saver(run, None)
    for steps in (FIRST, 20, 5):
        run.trainer.done += steps
        clock.now += 2.0 * steps
        saves.save()
    assert told == [(100.0, 2.0, 0.0)] * 3


def test_the_next_save_comes_when_the_budget_allows_it(clock):
    run = run_whose_saves_take(100.0, clock)
    saves, saved = saver.Saver(run, None), []
    for step in range(1, 200):
        run.trainer.done = step
        clock.now += 2.0
        if saves.due(finished=False):
            saves.save()
            saved.append(step)
    assert saved == [FIRST, FIRST + 100]  # of two seconds each, half of which is 100 s


def test_only_the_last_save_waits_for_the_one_before(clock):
    run = run_whose_saves_take(1.0, clock)
    saves = saver.Saver(run, None)
    for run.trainer.done, options in ((1, {}), (2, {}), (3, {"last": True})):
        clock.now += 2.0
        saves.save(**options)
    assert run.store.waits == [3]
