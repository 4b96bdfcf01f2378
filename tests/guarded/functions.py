"""Functions of NumPy that arrays of the simulated device take part in: some of those that CuPy has, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from guarded import array as arrays
from guarded.computing import computed_into, unsupported, unwrapped

FACTS = {np.shape, np.ndim, np.size, np.may_share_memory, np.shares_memory, np.result_type}  # touch no element
VIEWS = {
    *(np.split, np.array_split, np.transpose, np.swapaxes, np.moveaxis, np.expand_dims, np.squeeze),
    *(np.broadcast_to, np.flip, np.diagonal, sliding_window_view),
}
COMPUTED = {
    *(np.sum, np.prod, np.mean, np.std, np.var, np.max, np.min, np.amax, np.amin, np.argmax, np.argmin),
    *(np.all, np.any, np.cumsum, np.cumprod, np.count_nonzero, np.array_equal, np.allclose, np.isclose),
    *(np.concatenate, np.stack, np.vstack, np.hstack, np.where, np.clip, np.pad, np.repeat, np.tile, np.roll),
    *(np.dot, np.tensordot, np.outer, np.sort, np.argsort, np.take, np.take_along_axis, np.diff, np.copy),
    *(np.zeros_like, np.ones_like, np.full_like, np.round, np.linalg.norm, np.arange, np.nan_to_num),
}


def called(function: Callable, args: tuple, options: dict[str, Any]) -> Any:
    """Call a function of NumPy that was handed a device array, as an argument or as `like`."""
    if function in SPECIAL:
        return SPECIAL[function](*args, **options)
    _refuse_host_arrays((args, options))
    if function in FACTS:
        return function(*unwrapped(args), **unwrapped(options))
    if function in VIEWS:
        return _wrapped(function(*unwrapped(args), **unwrapped(options)), args[0])
    if function in COMPUTED:
        return computed_into(options.pop("out", None), function, args, options)
    return NotImplemented


def _wrapped(value: Any, origin: arrays.GuardedArray) -> Any:
    if isinstance(value, np.ndarray):
        return arrays.GuardedArray(origin.memory, value)
    return type(value)(_wrapped(part, origin) for part in value)


def _refuse_host_arrays(value: Any) -> None:
    if isinstance(value, np.ndarray):
        raise unsupported(value)
    if isinstance(value, (tuple, list, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            _refuse_host_arrays(part)


def _reshape(array: arrays.GuardedArray, shape: Any, order: str = "C") -> arrays.GuardedArray:
    return array.reshape(shape, order=order)


def _ravel(array: arrays.GuardedArray) -> arrays.GuardedArray:
    return array.ravel()


def _array(values: Any, dtype: Any = None) -> arrays.GuardedArray:
    if isinstance(values, arrays.GuardedArray):
        return values.astype(dtype or values.dtype)
    return arrays.put(np.asarray(values, dtype))


def _asarray(values: Any, dtype: Any = None) -> arrays.GuardedArray:
    if isinstance(values, arrays.GuardedArray):
        return values.astype(dtype or values.dtype, copy=False)
    return arrays.put(np.asarray(values, dtype))


def _ascontiguousarray(values: Any, dtype: Any = None) -> arrays.GuardedArray:
    array = _asarray(values, dtype)
    return array if array.flags.c_contiguous else array.copy()


def _empty_like(array: arrays.GuardedArray, dtype: Any = None, shape: Any = None) -> arrays.GuardedArray:
    return arrays.empty(array.shape if shape is None else shape, dtype or array.dtype)


def _empty(shape: Any, dtype: Any = float) -> arrays.GuardedArray:
    return arrays.empty(shape, dtype)


def _zeros(shape: Any, dtype: Any = float) -> arrays.GuardedArray:
    return arrays.zeros(shape, dtype)


def _copyto(target: arrays.GuardedArray, values: Any) -> None:
    if not isinstance(target, arrays.GuardedArray):
        raise unsupported(target)
    target[...] = values


# What CuPy has with fewer arguments than NumPy; ones, full and eye are left out on purpose: for `like`, NumPy 2 hands
# them a `device`, which CuPy's do not take.
SPECIAL: dict[Callable, Callable] = {
    np.reshape: _reshape,
    np.ravel: _ravel,
    np.array: _array,
    np.asarray: _asarray,
    np.ascontiguousarray: _ascontiguousarray,
    np.empty: _empty,
    np.empty_like: _empty_like,
    np.zeros: _zeros,
    np.copyto: _copyto,
}
