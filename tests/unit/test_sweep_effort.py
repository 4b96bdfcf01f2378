"""How long a sweep measures: the samples of a case, and what links that let a burst through ask for."""

from dataclasses import replace

import pytest
from mpi4py import MPI

from hpcdist.simulate import cost
from hpcdist.sweep import model
from hpcdist.sweep.measure import Effort

WORLD = MPI.COMM_WORLD


@pytest.mark.parametrize(
    ("effort", "operation", "shares"),
    [
        (Effort(samples=20, iterations=20, seconds=0.1), 1e-6, (20, 20)),
        (Effort(samples=20, iterations=20, seconds=0.1), 1e-3, (20, 5)),
        (Effort(samples=20, iterations=20, seconds=0.1), 0.01, (10, 1)),
        (Effort(samples=20, iterations=20, seconds=0.1), 10, (3, 1)),
        (Effort(samples=2, iterations=1, seconds=0.1), 10, (2, 1)),
        (Effort(samples=20, iterations=20, seconds=0.2, least=0.08), 4e-3, (3, 20)),
        (Effort(samples=20, iterations=20, seconds=0.2, least=0.08), 0.01, (3, 8)),
        (Effort(samples=20, iterations=20, seconds=0.2, least=0.08), 1e-4, (3, 800)),
        (Effort(samples=20, iterations=1, seconds=0.2, least=0.08), 4e-3, (3, 20)),
        (Effort(samples=2, iterations=20, seconds=0.2, least=0.08), 4e-3, (2, 20)),
        (Effort("barrier", samples=20, iterations=20, seconds=0.1), 1e-3, (100, 1)),
    ],
)
def test_the_effort_is_bounded(effort, operation, shares):
    assert effort.divide(operation) == shares


class Bucket:
    """Messages over a link that has saved up a burst, in place of real ones."""

    alpha, beta = 1e-4, 8e-9

    def __init__(self, burst, burst_beta, nbytes):
        self.burst, self.burst_beta, self.nbytes = burst, burst_beta, nbytes

    def seconds(self):
        fast = min(self.nbytes, self.burst / (1 - self.burst_beta / self.beta))
        return self.alpha + fast * self.burst_beta + (self.nbytes - fast) * self.beta

    def free(self):
        pass


@pytest.mark.parametrize("burst_beta", [0.0, 1e-9, 3e-9])
@pytest.mark.parametrize("burst", [1e5, 1 << 18, 5e5])
def test_bursts_are_found(monkeypatch, burst, burst_beta):
    monkeypatch.setattr(model, "_passing_on", lambda comm, steps, nbytes: Bucket(burst, burst_beta, nbytes))
    monkeypatch.setattr(model, "sample", lambda comm, messages, calls: messages.seconds())
    assert model._burst(WORLD, Bucket.alpha, Bucket.beta) == pytest.approx((burst, burst_beta))


@pytest.mark.parametrize(("burst", "burst_beta"), [(0, 0), (1e4, 1e-9), (1 << 20, 5e-9)])
def test_links_without_a_burst_to_speak_of_have_none(monkeypatch, burst, burst_beta):
    monkeypatch.setattr(model, "_passing_on", lambda comm, steps, nbytes: Bucket(burst, burst_beta, nbytes))
    monkeypatch.setattr(model, "sample", lambda comm, messages, calls: messages.seconds())
    assert model._burst(WORLD, Bucket.alpha, Bucket.beta) == (0, 0)


def test_samples_outlast_bursts_only_where_bytes_cost_twice_what_messages_do():
    model = replace(cost.DEFAULT, alpha=1e-4, beta=4e-8, burst=1e5)
    least = {nbytes: Effort(seconds=0.3).beyond_bursts(nbytes, model) for nbytes in (8, 5000, 5001, 1 << 20)}
    assert {effort.seconds for effort in least.values()} == {0.3}
    long = pytest.approx(0.032)
    assert {nbytes: effort.least for nbytes, effort in least.items()} == {8: 0, 5000: 0, 5001: long, 1 << 20: long}
