"""Stochastic gradient descent with momentum, in place over flat buffers.

The form of I. Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML
2013, with the learning rate outside the velocity, so that a change of it acts at once:

    velocity   = momentum * velocity + gradient + weight_decay * parameters
    parameters = parameters - learning_rate * velocity
"""

from __future__ import annotations

import numpy as np

from hpcdist.kernels.device import Device
from hpcdist.optim.steps import ArrayStep, FusedStep, kernels_for


class SGD:
    """Momentum SGD. Its whole state is `velocity` [n].

    Args:
        parameters: [n], in host memory or on a device.
        momentum: What stays of the velocity.
        weight_decay: What of the parameters is added to the gradient.
        on: Whose kernel takes the steps; by default that of the device of the parameters, if it has one.
    """

    def __init__(
        self,
        parameters: np.ndarray,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        on: Device | None = None,
    ) -> None:
        self.parameters, self.velocity = parameters, np.zeros_like(parameters)
        numbers = parameters, self.velocity, momentum, weight_decay
        on = on or kernels_for(parameters)
        self._step = FusedStep(*numbers, on) if on else ArrayStep(*numbers)

    def step(self, gradient: np.ndarray, learning_rate: float) -> None:
        """Change the parameters by one step along `gradient` [n], which is left as it was."""
        self._step(gradient, learning_rate)

    def state(self) -> dict[str, np.ndarray]:
        """What a checkpoint must hold, by name: the arrays themselves, into which a checkpoint may be read."""
        return {"velocity": self.velocity}
