"""Compiled by Numba: copies that take the same time wherever source and target begin.

On some processors (AMD's Zen 3, with the `rep movsb` of glibc's memcpy) a copy of 4 to 512 KiB takes ten times as long
if its target lies 1 to 63 bytes further into its page than its source, as memory fresh from the allocator does beside
memory that begins with a page. Loops over vectors do not mind.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types

from hpcdist.kernels.native import c_function, intrinsic

LINE = 64  # bytes of a pass of the loops: a cache line
LARGE = 1 << 22  # bytes from which on memcpy is as good, and better where it goes past the caches

_memcpy: Any = types.ExternalFunction("memcpy", types.int64(types.int64, types.int64, types.int64))


def _line(past_the_caches: bool, _context: Any, target: Any, source: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        vector = ir.VectorType(ir.IntType(64), 2)
        places = [[builder.add(at, at.type(offset)) for offset in range(0, LINE, 16)] for at in values]
        there, here = ([builder.inttoptr(at, vector.as_pointer()) for at in each] for each in places)
        loaded = [builder.load(at, align=1) for at in here]
        for value, at in zip(loaded, there, strict=True):
            store = builder.store(value, at, align=16)
            if past_the_caches:
                store.set_metadata("nontemporal", builder.module.add_metadata([ir.IntType(32)(1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def _copy_line(context: Any, target: Any, source: Any) -> Any:
    """Copy a line to an address that is a multiple of 16."""
    return _line(False, context, target, source)


@intrinsic
def _stream_line(context: Any, target: Any, source: Any) -> Any:
    """The same, past the caches."""
    return _line(True, context, target, source)


@njit
def copy(target: int, source: int, nbytes: int) -> None:
    """Copy bytes between ranges that do not overlap."""
    if nbytes < 2 * LINE or nbytes >= LARGE:
        _memcpy(target, source, nbytes)
        return
    head = -target % LINE
    end = head + (nbytes - head) // LINE * LINE
    _memcpy(target, source, head)
    for at in range(head, end, LINE):
        _copy_line(target + at, source + at)
    _memcpy(target + end, source + end, nbytes - end)


@njit
def stream(target: int, source: int, nbytes: int) -> None:
    """Copy bytes past the caches."""
    head = min(nbytes, -target % LINE)
    end = head + (nbytes - head) // LINE * LINE
    _memcpy(target, source, head)
    for at in range(head, end, LINE):
        _stream_line(target + at, source + at)
    _memcpy(target + end, source + end, nbytes - end)


@c_function
def copy_entry(target: int, source: int, nbytes: int) -> int:
    """`copy`; 0."""
    copy(target, source, nbytes)
    return 0


@c_function
def stream_entry(target: int, source: int, nbytes: int) -> int:
    """`stream`; 0."""
    stream(target, source, nbytes)
    return 0
