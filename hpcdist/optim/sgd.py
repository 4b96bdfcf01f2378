"""Stochastic gradient descent with momentum, in place over flat buffers.

The form of I. Sutskever et al., "On the importance of initialization and momentum in deep learning", ICML
2013, with the learning rate outside the velocity, so that a change of it acts at once:

    velocity   = momentum * velocity + gradient + weight_decay * parameters
    parameters = parameters - learning_rate * velocity

A step has two forms with the same bits: NumPy's operations in any memory, and one kernel on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcdist.device import accelerator_of
from hpcdist.kernels.device import CUDA, Device
from hpcdist.kernels.segments import Segments
from hpcdist.kernels.sgd import update


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


class ArrayStep:
    """One operation after the other, which move 60 bytes per parameter of float32."""

    def __init__(self, parameters: Any, velocity: Any, momentum: float, weight_decay: float) -> None:
        self._parameters, self._velocity = parameters, velocity
        self._momentum, self._weight_decay = momentum, weight_decay
        self._scratch = np.empty_like(parameters)

    def __call__(self, gradient: Any, learning_rate: float) -> None:
        """Change parameters and velocity along `gradient` [n]; allocates nothing."""
        self._velocity *= self._momentum
        self._velocity += gradient
        if self._weight_decay:
            np.multiply(self._parameters, self._weight_decay, out=self._scratch)
            self._velocity += self._scratch
        np.multiply(self._velocity, learning_rate, out=self._scratch)
        self._parameters -= self._scratch


class FusedStep:
    """One kernel, which moves 20 bytes per parameter; for float32 on a device that has kernels."""

    def __init__(self, parameters: Any, velocity: Any, momentum: float, weight_decay: float, on: Device) -> None:
        self._arrays, self._momentum, self._on = (parameters, velocity), momentum, on
        self._whole = Segments([parameters.size], on=on)
        self._rate = on.zeros(1, np.float32)
        self._decay = on.put(np.full(1, weight_decay, np.float32))

    def __call__(self, gradient: Any, learning_rate: float) -> None:
        """Change parameters and velocity along `gradient` [n]."""
        self._rate[...] = learning_rate
        update(*self._arrays, gradient, self._whole, self._rate, self._decay, self._momentum, on=self._on)


def kernels_for(parameters: Any) -> Device | None:
    """The device whose kernels can step through these parameters; None where array operations must."""
    where = accelerator_of(parameters)
    return CUDA if where and where.kind == "cuda" and parameters.dtype == np.float32 else None
