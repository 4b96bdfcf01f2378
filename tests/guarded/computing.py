"""What functions of NumPy make of device arrays, computed later, on the current stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guarded import array as arrays
from guarded.streams import current

SCALARS = (bool, int, float, complex, np.generic)


def kinds(index: Any) -> list[str]:
    """The kinds of the arrays in an index; "" for slices and numbers, which make views."""
    return [_kind(part) for part in (index if isinstance(index, tuple) else (index,))]


def _kind(part: Any) -> str:
    if part is None or part is Ellipsis or isinstance(part, slice):
        return ""
    if isinstance(part, (int, np.integer)) and not isinstance(part, bool):
        return ""
    return part.dtype.kind if isinstance(part, arrays.GuardedArray) else np.asarray(part).dtype.kind


def chosen(array: NDArray, index: Any) -> NDArray:
    """The elements that an index names."""
    return array[index]


def spread(array: NDArray, shape: tuple[int, ...]) -> NDArray:
    """What an assignment makes of the values for so many elements."""
    result = np.empty(shape, array.dtype)
    result[...] = array
    return result


def scatter(target: arrays.GuardedArray, index: Any, values: arrays.GuardedArray) -> None:
    """Assign to elements that arrays choose; nothing else of the target is touched."""
    if "b" not in kinds(index):
        shape, tried = _dummies((target, index))
        spread(_dummies(values), shape[tried].shape)
    place, at, numbers = unwrapped((target, index, values))
    keep = (target, index, values)
    current().submit(lambda keep=keep: place.__setitem__(at, numbers))


def mapped(value: Any, change: Callable[[arrays.GuardedArray], Any]) -> Any:
    """A structure of tuples, lists and dictionaries with every device array in it changed."""
    if isinstance(value, arrays.GuardedArray):
        return change(value)
    if type(value) is dict:
        return {key: mapped(part, change) for key, part in value.items()}
    return type(value)(mapped(part, change) for part in value) if type(value) in (tuple, list) else value


def unwrapped(value: Any) -> Any:
    """The same with the arrays that the device works on."""
    return mapped(value, lambda array: array.hidden)


def _dummies(value: Any) -> Any:
    """Arrays of the same shapes and types that take no memory, to try what a function makes of such arrays."""
    return mapped(value, lambda array: np.broadcast_to(np.zeros((), array.dtype), array.shape))


def computed(
    function: Callable,
    args: tuple,
    options: dict[str, Any] | None = None,
    *,
    into: arrays.GuardedArray | None = None,
    sample: NDArray | None = None,
) -> arrays.GuardedArray:
    """What a function of NumPy makes of device arrays, later, on the current stream; wrong shapes are seen at once.

    Args:
        function: Its result is one array or number.
        args: What it takes, device arrays among them.
        options: The same by name.
        into: The device array for the result, else a new one.
        sample: An array like the result, if shapes and types alone do not tell.
    """
    here = unwrapped((args, options or {}))
    if sample is None:
        tried = _dummies((args, options or {}))
        with np.errstate(all="ignore"):
            sample = np.asarray(function(*tried[0], **tried[1]))
    result = arrays.empty(sample.shape, sample.dtype) if into is None else into
    current().write(result.hidden, lambda: function(*here[0], **here[1]), keep=(args, options, result))
    return result


def computed_into(out: Any, function: Callable, args: tuple, options: dict[str, Any]) -> arrays.GuardedArray:
    """The same for a function that takes `out`, a device array or None."""
    if out is None:
        return computed(function, args, options)
    if not isinstance(out, arrays.GuardedArray):
        raise unsupported(out)

    def function_into_copy(*args: Any, out: NDArray, **options: Any) -> Any:
        return function(*args, out=out.copy(), **options)

    return computed(function_into_copy, args, {**options, "out": out}, into=out)


def unsupported(value: Any) -> TypeError:
    """For what is no device array and no number."""
    return TypeError(f"a device array computes with device arrays and numbers, not with a {type(value).__name__}")
