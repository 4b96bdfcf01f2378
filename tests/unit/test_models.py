"""Gradients against finite differences, and sums over samples."""

from __future__ import annotations

import guarded
import numpy as np
import pytest

from hpcdist.models import MODELS
from hpcdist.models.model import Model, cross_entropy, views

SHAPE, CLASSES = (4, 6), 3


def make(name: str) -> Model:
    return MODELS[name](SHAPE, CLASSES)


def samples(n: int, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(7)
    return generator.random((n, *SHAPE)).astype(dtype), generator.integers(0, CLASSES, n)


def parameters(model: Model) -> np.ndarray:
    """Every one nonzero, biases too."""
    return np.random.default_rng(3).normal(0, 0.5, model.size)


@pytest.mark.parametrize("name", MODELS)
def test_gradient_is_the_slope_of_the_loss(name: str) -> None:
    model = make(name)
    at, (x, y) = parameters(model), samples(5)
    gradient = np.full(model.size, np.nan)
    model.loss_and_gradient(at, x, y, gradient)

    slopes, h = np.empty(model.size), 1e-6
    for i in range(model.size):
        step = np.zeros(model.size)
        step[i] = h
        slopes[i] = (model.loss(at + step, x, y)[0] - model.loss(at - step, x, y)[0]) / (2 * h)
    assert np.abs(slopes).max() > 0.1
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_parts_of_a_batch_add_up_to_the_batch(name: str) -> None:
    model = make(name)
    at, (x, y) = parameters(model), samples(7)
    whole, pieces, piece = np.empty(model.size), np.zeros(model.size), np.empty(model.size)
    total, correct = model.loss_and_gradient(at, x, y, whole)
    for part in (slice(0, 1), slice(1, 1), slice(1, 7)):  # one of them is empty
        loss, right = model.loss_and_gradient(at, x[part], y[part], piece)
        pieces += piece
        total, correct = total - loss, correct - right
    np.testing.assert_allclose(pieces, whole, rtol=1e-12, atol=1e-14)
    assert abs(total) < 1e-12
    assert correct == 0


@pytest.mark.parametrize("name", MODELS)
def test_no_samples_give_zeros_not_nan(name: str) -> None:
    model = make(name)
    gradient = np.full(model.size, np.nan)
    assert model.loss_and_gradient(parameters(model), *samples(0), gradient) == (0.0, 0)
    assert not gradient.any()


@pytest.mark.parametrize("name", MODELS)
def test_float32_stays_float32(name: str) -> None:
    model = make(name)
    at = model.initialize(1)
    assert at.dtype == np.float32
    assert all(layer.dtype == np.float32 for layer in model.forward(views(at, model.shapes), samples(2, np.float32)[0]))


@pytest.mark.parametrize("count", [5, 0])
@pytest.mark.parametrize("name", MODELS)
def test_a_device_computes_the_same_and_is_not_waited_for(
    name: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(name)
    at, (x, y) = parameters(model), samples(count)
    gradient = np.full(model.size, np.nan)
    loss, correct = model.loss_and_gradient(at, x, y, gradient)

    there, found = [guarded.put(values) for values in (at, x, y)], guarded.put(np.full(model.size, np.nan))
    with monkeypatch.context() as patch:
        patch.setattr(guarded.Event, "wait", lambda event: pytest.fail("the host waits for the device"))
        loss_there, correct_there = model.loss_and_gradient(*there, found)
    np.testing.assert_allclose(found.get(), gradient, rtol=1e-12, atol=1e-14)
    assert float(loss_there) == pytest.approx(loss)
    assert int(correct_there) == correct
    assert float(model.loss(*there)[0]) == pytest.approx(loss)


def test_initial_parameters_follow_the_seed() -> None:
    model = make("mlp")
    np.testing.assert_array_equal(model.initialize(1), model.initialize(1))
    assert (model.initialize(1) != model.initialize(2)).any()


def test_views_share_memory_in_order() -> None:
    flat = np.arange(8.0)
    cut = views(flat, {"a": (2, 3), "b": (2,)})
    assert cut["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    cut["b"][:] = -1
    assert flat.tolist() == [0, 1, 2, 3, 4, 5, -1, -1]


def test_cross_entropy_of_large_logits_is_finite() -> None:
    logits = np.array([[1e4, 0.0], [0.0, 1e4]])
    total, correct, gradient = cross_entropy(logits, np.array([0, 0]))
    assert total == 1e4
    assert correct == 1
    assert gradient.tolist() == [[0, 0], [-1, 1]]


def test_convnet_refuses_what_it_cannot_pool() -> None:
    with pytest.raises(ValueError, match=r"even sides, not \(5, 4\)"):
        MODELS["convnet"]((5, 4), 3)
