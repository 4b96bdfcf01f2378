"""How often to save."""

import math

import pytest

from hpcdist.checkpoint.frequency import FIRST, Frequency


def saves(frequency, steps, begin=0):
    frequency.begin(begin)
    found = []
    for step in range(begin + 1, steps + 1):
        if frequency.due(step):
            frequency.saved(step)
            found.append(step)
    return found


def test_every_so_many_steps():
    assert saves(Frequency(every=4), 14) == [4, 8, 12]


def test_a_resumed_run_saves_at_the_same_steps():
    assert saves(Frequency(every=4), 14, begin=6) == [8, 12]


def test_nothing_is_saved_unless_it_is_wanted():
    frequency = Frequency()
    assert not frequency.on
    assert saves(frequency, 100) == []


def test_the_first_save_measures():
    assert saves(Frequency(budget=0.01), 2 * FIRST - 1) == [FIRST]
    assert saves(Frequency(mtbf=3600), FIRST + 99, begin=99) == [FIRST + 99]


def test_checkpoints_stay_within_their_budget():
    frequency = Frequency(budget=0.01)
    frequency.adapt(cost=0.5, seconds_per_step=0.3)
    frequency.saved(100)
    assert not frequency.due(100 + 166)
    assert frequency.due(100 + 167)  # 0.5 s of 50.1 s


@pytest.mark.parametrize(("cost", "mtbf"), [(1.0, 3600.0), (30.0, 86400.0)])
def test_young_s_interval_loses_the_least_time(cost, mtbf):
    def lost(interval):
        return cost / interval + interval / 2 / mtbf  # to saving, and to work done again

    best = Frequency(mtbf=mtbf).interval(cost)
    assert best == pytest.approx(math.sqrt(2 * cost * mtbf))
    assert lost(best) < min(lost(0.9 * best), lost(1.1 * best))


def test_the_budget_is_kept_whatever_may_fail():
    assert Frequency(budget=0.001, mtbf=10.0).interval(1.0) == pytest.approx(1000.0)
    assert Frequency(budget=0.5, mtbf=1e6).interval(1.0) == pytest.approx(math.sqrt(2e6))
