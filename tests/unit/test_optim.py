"""SGD against its formula, and the shape of the learning-rate policies."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from hpcdist.optim.policy import POLICIES, learning_rate
from hpcdist.optim.sgd import SGD


def test_sgd_follows_its_formula() -> None:
    at, velocity = np.array([1.0, -2.0]), np.zeros(2)
    optimizer = SGD(at.copy(), momentum=0.5, weight_decay=0.25)
    for gradient, rate in (([1.0, 4.0], 0.5), ([-2.0, 8.0], 0.25), ([0.5, 0.0], 1.0)):
        optimizer.step(np.array(gradient), rate)
        velocity = 0.5 * velocity + gradient + 0.25 * at
        at = at - rate * velocity
    np.testing.assert_array_equal(optimizer.parameters, at)


def test_sgd_leaves_the_gradient_alone() -> None:
    gradient = np.array([3.0, 4.0])
    SGD(np.ones(2), weight_decay=0.1).step(gradient, 0.1)
    assert gradient.tolist() == [3.0, 4.0]


def test_sgd_restored_goes_on_bit_for_bit() -> None:
    generator = np.random.default_rng(0)
    gradients = generator.normal(size=(6, 50)).astype(np.float32)
    first = SGD(generator.normal(size=50).astype(np.float32), weight_decay=1e-2)
    for gradient in gradients[:3]:
        first.step(gradient, 0.1)
    second = SGD(first.parameters.copy(), weight_decay=1e-2)
    for name, values in second.state().items():  # the arrays themselves, into which a checkpoint is read
        values[:] = first.state()[name]
    for gradient in gradients[3:]:
        first.step(gradient, 0.1)
        second.step(gradient, 0.1)
    assert first.parameters.tobytes() == second.parameters.tobytes()


def test_sgd_allocates_nothing_of_the_size_of_its_parameters() -> None:
    optimizer = SGD(np.ones(100_000, np.float32), weight_decay=1e-4)
    gradient = np.ones(100_000, np.float32)
    optimizer.step(gradient, 0.1)
    tracemalloc.start()
    optimizer.step(gradient, 0.1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < gradient.nbytes / 10


def rates(policy: str, warmup: int = 4, total: int = 20) -> list[float]:
    return [learning_rate(policy, step, peak=0.5, warmup=warmup, total=total) for step in range(total)]


@pytest.mark.parametrize("policy", POLICIES)
def test_warm_up_rises_linearly_to_the_peak(policy: str) -> None:
    assert rates(policy)[:5] == pytest.approx([0.125, 0.25, 0.375, 0.5, 0.5])


@pytest.mark.parametrize("policy", POLICIES)
def test_after_the_warm_up_it_never_rises(policy: str) -> None:
    late = rates(policy)[4:]
    assert late == sorted(late, reverse=True)
    assert min(late) > 0


def test_policies_go_down_as_told() -> None:
    assert rates("constant")[-1] == 0.5
    assert rates("cosine")[12] == pytest.approx(0.25)
    assert [rates("steps")[step] for step in (11, 12, 16)] == pytest.approx([0.5, 0.05, 0.005])


def test_a_run_may_be_all_warm_up() -> None:
    assert rates("cosine", warmup=20)[-1] == 0.5
    assert len(rates("cosine", warmup=30)) == 20
