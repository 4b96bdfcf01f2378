"""SGD against its formula, and the shape of the learning-rate policies."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import guarded
import numpy as np
import pytest
from cuda_on_host import COMPILER, Host

from hpcdist.device import register
from hpcdist.kernels.device import CUDA
from hpcdist.kernels.sgd import KERNELS
from hpcdist.optim.policy import POLICIES, learning_rate
from hpcdist.optim.sgd import SGD, kernels_for


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


@pytest.mark.skipif(COMPILER is None, reason="the kernel is run on the host by g++, and there is none")
@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
def test_one_kernel_has_the_bits_of_the_operations(tmp_path: Path, weight_decay: float) -> None:
    generator = np.random.default_rng(1)
    at, count = generator.normal(size=10_000).astype(np.float32), 10_000
    operations = SGD(at.copy(), momentum=0.9, weight_decay=weight_decay)
    fused = SGD(at.copy(), momentum=0.9, weight_decay=weight_decay, on=Host(tmp_path, {"sgd": KERNELS}))
    for rate in (0.1, 0.03, 1.0):
        gradient = generator.normal(size=count).astype(np.float32)
        before = gradient.copy()
        for each in (operations, fused):
            each.step(gradient, rate)
        assert gradient.tobytes() == before.tobytes()
        assert fused.parameters.tobytes() == operations.parameters.tobytes()
        assert fused.velocity.tobytes() == operations.velocity.tobytes()


def test_kernels_are_for_cuda_and_float32() -> None:
    assert kernels_for(np.ones(3, np.float32)) is None
    assert kernels_for(guarded.put(np.ones(3, np.float32))) is None
    assert kernels_for(OnCuda(np.float32)) is CUDA
    assert kernels_for(OnCuda(np.float64)) is None


class OnCuda:
    """Parameters of which no more is known than their type, and that they are on a device of this kind."""

    kind = "cuda"

    def __init__(self, dtype: type) -> None:
        self.dtype = np.dtype(dtype)


@pytest.fixture(autouse=True, scope="module")
def devices() -> None:
    guarded.install()
    register(lambda array: array if isinstance(array, OnCuda) else None)


def test_a_step_on_a_device_has_the_bits_of_one_in_host_memory() -> None:
    generator = np.random.default_rng(2)
    at = generator.normal(size=1000).astype(np.float32)
    here, there = SGD(at.copy(), weight_decay=1e-2), SGD(guarded.put(at), weight_decay=1e-2)
    for rate in (0.1, 0.01):
        gradient = generator.normal(size=1000).astype(np.float32)
        here.step(gradient, rate)
        there.step(guarded.put(gradient), rate)
    assert there.parameters.get().tobytes() == here.parameters.tobytes()
    assert there.state()["velocity"].get().tobytes() == here.velocity.tobytes()


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
