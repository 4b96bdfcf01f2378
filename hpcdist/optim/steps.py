"""The step of `SGD` in two forms with the same bits: NumPy's operations in any memory, and one kernel on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcdist.device import accelerator_of
from hpcdist.kernels.device import CUDA, Device
from hpcdist.kernels.segments import Segments
from hpcdist.kernels.sgd import update


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
