"""What all models share: named views of a flat vector, initial values, and the loss at the end.

Arrays are NumPy's, or those of a device that take part in NumPy's dispatch, as CuPy's do; the code is one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import accumulate
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Arrays = dict[str, np.ndarray]
Number = Any  # or, on a device, an array without axes that holds it: to look at it is to wait for the device


def views(flat: np.ndarray, shapes: dict[str, Shape]) -> Arrays:
    """Cut `flat` [n] into arrays of the given shapes, in their order; they share its memory."""
    sizes = [math.prod(shape) for shape in shapes.values()]
    pieces = [flat[end - size : end] for size, end in zip(sizes, accumulate(sizes), strict=True)]
    return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> tuple[Number, Number, np.ndarray]:
    """Softmax cross-entropy of `logits` [n, classes] against `labels` [n].

    Returns:
        The sum of the n losses in nats, how many of the n largest logits are right, and the gradient of the
        sum by the logits [n, classes].
    """
    rows = np.arange(len(labels), like=labels)
    shifted = logits - logits.max(axis=1, keepdims=True)  # exp() cannot overflow
    exponentials = np.exp(shifted)
    totals = exponentials.sum(axis=1, keepdims=True)
    losses = np.log(totals[:, 0]) - shifted[rows, labels]
    correct = np.count_nonzero(logits.argmax(axis=1) == labels)
    gradient = exponentials / totals
    gradient[rows, labels] -= 1
    return losses.sum(dtype=np.float64), correct, gradient


class Model(ABC):
    """A classifier without state of its own: it computes with the parameters, and in the dtype, it is handed.

    Losses and gradients are sums over the samples, not means. So the sums of p ranks, added and divided by
    the samples of all, are the mean over the whole batch, even if the ranks have unequal parts or none.

    Attributes:
        shapes: Shape of every parameter by name, in the order of the flat vector.
    """

    shapes: dict[str, Shape]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def initialize(self, seed: int) -> np.ndarray:
        """New parameters float32 [size] in host memory: biases 0, weights normal with variance 2 / inputs.

        K. He et al., "Delving Deep into Rectifiers", ICCV 2015. The last axis of a weight counts its outputs.
        """
        generator = np.random.default_rng(seed)
        parameters = np.zeros(self.size, np.float32)
        for array in views(parameters, self.shapes).values():
            if array.ndim > 1:
                inputs = math.prod(array.shape[:-1])
                array[:] = generator.normal(0, math.sqrt(2 / inputs), array.shape)
        return parameters

    def loss(self, parameters: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[Number, Number]:
        """Sum of the losses of the samples `x` [n, ...], `y` [n], and how many are classified right."""
        logits = self.forward(views(parameters, self.shapes), x)[-1]
        total, correct, _ = cross_entropy(logits, y)
        return total, correct

    def loss_and_gradient(
        self, parameters: np.ndarray, x: np.ndarray, y: np.ndarray, gradient: np.ndarray
    ) -> tuple[Number, Number]:
        """As `loss`; the sum of the samples' gradients is written over `gradient` [size]."""
        weights = views(parameters, self.shapes)
        activations = self.forward(weights, x)
        total, correct, delta = cross_entropy(activations[-1], y)
        self.backward(weights, activations, delta, views(gradient, self.shapes))
        return total, correct

    @abstractmethod
    def forward(self, weights: Arrays, x: np.ndarray) -> list[np.ndarray]:
        """What the layers put out for `x` [n, ...], for `backward`; the logits [n, classes] come last."""

    @abstractmethod
    def backward(self, weights: Arrays, activations: list[np.ndarray], delta: np.ndarray, gradients: Arrays) -> None:
        """Write the gradients of all weights, given `delta` [n, classes], the gradient by the logits."""
