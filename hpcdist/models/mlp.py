"""Linear layers: softmax regression, and a perceptron with one hidden layer of rectifiers."""

from __future__ import annotations

import math

import numpy as np

from hpcdist.models.model import Arrays, Model, Shape


class Softmax(Model):
    """logits = x W + b."""

    def __init__(self, sample_shape: Shape, classes: int) -> None:
        self.shapes = {"weight": (math.prod(sample_shape), classes), "bias": (classes,)}

    def forward(self, weights: Arrays, x: np.ndarray) -> list[np.ndarray]:
        """Flattened samples, logits."""
        flat = x.reshape(len(x), weights["weight"].shape[0])
        return [flat, flat @ weights["weight"] + weights["bias"]]

    def backward(self, weights: Arrays, activations: list[np.ndarray], delta: np.ndarray, gradients: Arrays) -> None:
        """Gradients of one linear layer."""
        flat, _ = activations
        np.matmul(flat.T, delta, out=gradients["weight"])
        np.sum(delta, axis=0, out=gradients["bias"])


class MLP(Model):
    """logits = relu(x W1 + b1) W2 + b2."""

    def __init__(self, sample_shape: Shape, classes: int, hidden: int = 128) -> None:
        self.shapes = {
            "weight1": (math.prod(sample_shape), hidden),
            "bias1": (hidden,),
            "weight2": (hidden, classes),
            "bias2": (classes,),
        }

    def forward(self, weights: Arrays, x: np.ndarray) -> list[np.ndarray]:
        """Flattened samples, hidden layer, logits."""
        flat = x.reshape(len(x), weights["weight1"].shape[0])
        hidden = np.maximum(flat @ weights["weight1"] + weights["bias1"], 0)
        return [flat, hidden, hidden @ weights["weight2"] + weights["bias2"]]

    def backward(self, weights: Arrays, activations: list[np.ndarray], delta: np.ndarray, gradients: Arrays) -> None:
        """Gradients from the last layer to the first."""
        flat, hidden, _ = activations
        np.matmul(hidden.T, delta, out=gradients["weight2"])
        np.sum(delta, axis=0, out=gradients["bias2"])
        delta = (delta @ weights["weight2"].T) * (hidden > 0)
        np.matmul(flat.T, delta, out=gradients["weight1"])
        np.sum(delta, axis=0, out=gradients["bias1"])
