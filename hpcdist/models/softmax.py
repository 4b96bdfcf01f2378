"""Softmax regression: one linear layer."""

from __future__ import annotations

import math

import numpy as np

from hpcdist.models.model import Model, Shape


class Softmax(Model):
    """logits = x W + b."""

    def __init__(self, sample_shape: Shape, classes: int) -> None:
        self.shapes = {"weight": (math.prod(sample_shape), classes), "bias": (classes,)}

    def forward(self, weights: dict[str, np.ndarray], x: np.ndarray) -> list[np.ndarray]:
        """Flattened samples, logits."""
        flat = x.reshape(len(x), weights["weight"].shape[0])
        return [flat, flat @ weights["weight"] + weights["bias"]]

    def backward(
        self,
        weights: dict[str, np.ndarray],
        activations: list[np.ndarray],
        delta: np.ndarray,
        gradients: dict[str, np.ndarray],
    ) -> None:
        """Gradients of one linear layer."""
        flat, _ = activations
        np.matmul(flat.T, delta, out=gradients["weight"])
        np.sum(delta, axis=0, out=gradients["bias"])
