"""What compiled code needs beside numba: functions, and memory, by their addresses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import cfunc, njit, types
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic  # what it makes is called with one argument less than it is written with


def compiled(signature: str | list[str]) -> Callable[[Callable], Any]:
    """Compile a function at once, for one signature or several, to run without the global interpreter lock."""
    return partial(_kept_on_disk, partial(njit, signature, nogil=True))


def entry_of(function: Any) -> Callable[..., Any]:
    """A compiled function as Python calls it soonest: without a look at the types of the arguments, which must fit."""
    (result,) = function.overloads.values()
    return result.entry_point


def loop(function: Callable) -> Any:
    """Compile a function at once to a C function in the form of NumPy's inner loops; see `loops`."""
    return _kept_on_disk(partial(cfunc, "void(int64, int64, int64, int64)"), function)


def _kept_on_disk(decorator: Callable, function: Callable) -> Any:
    """Compile for this start and the next; where the disk cannot be used, each start compiles anew."""
    try:
        return decorator(cache=True)(function)
    except OSError:  # no room, no quota, a file gone stale
        return decorator()(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return decorator()(function)


@intrinsic
def call(_context: Any, function: Any, arguments: Any) -> Any:
    """Call the C function at an address with a tuple of 64-bit arguments; the int it returns."""

    def generate(_context: Any, builder: Any, signature: Any, values: Any) -> Any:
        words = [builder.extract_value(values[1], i) for i in range(len(signature.args[1]))]
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(64)] * len(words))
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), words)

    return types.int32(types.int64, arguments), generate


@intrinsic
def words_at(_context: Any, address: Any) -> Any:
    """The address as a pointer to 64-bit words."""
    return types.CPointer(types.int64)(types.int64), _to_pointer


@intrinsic
def float16s_at(_context: Any, address: Any) -> Any:
    """The address as a pointer to the bits of float16 numbers."""
    return types.CPointer(types.uint16)(types.int64), _to_pointer


@intrinsic
def bfloat16s_at(_context: Any, address: Any) -> Any:
    """The address as a pointer to the bits of bfloat16 numbers, of another type to tell them from float16."""
    return types.CPointer(types.int16)(types.int64), _to_pointer


def _to_pointer(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    return builder.inttoptr(values[0], context.get_value_type(signature.return_type))
