"""Where arrays live, and all that is known of device memory."""

import sys
from typing import Any

from hpcdist.device.accelerator import Accelerator, DeviceArray, Event, Share, Stream, accelerator_of, register
from hpcdist.device.buffers import problem_with

__all__ = [
    "Accelerator",
    "DeviceArray",
    "Event",
    "Share",
    "Stream",
    "accelerator_of",
    "problem_with",
    "register",
]


def _gpu_of(array: Any) -> Accelerator | None:
    """The GPU on which an array of CuPy's lies. Before CuPy is imported there is none, so it is never imported here."""
    cupy = sys.modules.get("cupy")
    if cupy is None or not isinstance(array, cupy.ndarray):
        return None
    from hpcdist.device import cuda

    return cuda.accelerator(array.device.id)


register(_gpu_of)
