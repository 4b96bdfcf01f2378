"""Stochastic gradient descent with momentum, in place over flat buffers.

The form of I. Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML
2013, with the learning rate outside the velocity, so that a change of it acts at once:

    velocity   = momentum * velocity + gradient + weight_decay * parameters
    parameters = parameters - learning_rate * velocity
"""

from __future__ import annotations

import numpy as np


class SGD:
    """Momentum SGD. Its whole state is `velocity` [n]; a step allocates nothing."""

    def __init__(self, parameters: np.ndarray, *, momentum: float = 0.9, weight_decay: float = 0.0) -> None:
        self.parameters = parameters
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.velocity = np.zeros_like(parameters)
        self._scratch = np.empty_like(parameters)

    def step(self, gradient: np.ndarray, learning_rate: float) -> None:
        """Change the parameters by one step along `gradient` [n], which is left as it was."""
        self.velocity *= self.momentum
        self.velocity += gradient
        if self.weight_decay:
            np.multiply(self.parameters, self.weight_decay, out=self._scratch)
            self.velocity += self._scratch
        np.multiply(self.velocity, learning_rate, out=self._scratch)
        self.parameters -= self._scratch

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold, by name: the arrays themselves, into which a checkpoint may be read."""
        return {"velocity": self.velocity}
