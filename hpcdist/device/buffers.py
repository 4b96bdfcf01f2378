"""What can be a communication buffer: NumPy arrays, and arrays of the devices that are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcdist.device.accelerator import accelerator_of
from hpcdist.kernels.reduce import DTYPES


def problem_with(name: str, array: Any, writable: bool) -> str | None:
    """Why `array` cannot be a communication buffer, in words; None if it can."""
    if not isinstance(array, np.ndarray):
        return _problem_elsewhere(name, array, writable)
    if type(array) not in (np.ndarray, np.memmap):
        return f"{name} is a {type(array).__name__}, which may behave otherwise; pass numpy.asarray({name})"
    if array.dtype not in DTYPES.values():
        return f"{name} has dtype {array.dtype}; supported are {', '.join(DTYPES)}, in native byte order"
    if not array.flags.c_contiguous:
        return (
            f"{name} of shape {array.shape} is not contiguous (strides {array.strides}); pass "
            f"numpy.ascontiguousarray({name}) and copy the result back"
        )
    if writable and not array.flags.writeable:
        return f"{name} is read-only"
    return None


def _problem_elsewhere(name: str, array: Any, writable: bool) -> str | None:
    if device := accelerator_of(array):
        return device.problem_with(name, array, writable)
    if hasattr(array, "__cuda_array_interface__"):
        return (
            f"{name} is in device memory as a {type(array).__name__}; pass a CuPy array of the same memory, "
            f"cupy.asarray({name})"
        )
    return f"{name} must be a NumPy or CuPy array, not {type(array).__name__}"


def address_of(array: Any) -> int:
    """Where the elements of an array begin, in host memory or a device's."""
    try:
        return array.__array_interface__["data"][0]
    except AttributeError:
        return array.__cuda_array_interface__["data"][0]
