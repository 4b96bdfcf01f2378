"""The simulated device as hpcdist.device wants it, and its registration there."""

from __future__ import annotations

from functools import cache
from typing import Any
from weakref import WeakValueDictionary

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

import hpcdist.device
from guarded import array as arrays
from guarded import memory, streams
from guarded.array import GuardedArray
from hpcdist.device import Share
from hpcdist.kernels.reduce import DTYPES


def _stored(dtype: DTypeLike) -> np.dtype:
    """The type of elements in device memory; there is no bfloat16, uint16 stands for it."""
    kind = np.dtype(dtype)
    return np.dtype(np.uint16) if kind == ml_dtypes.bfloat16 else kind


class Simulated:
    """A device in the hands of this process."""

    kind = "simulated"
    identity = "simulated"
    name = "simulated device"

    def __init__(self) -> None:
        self._opened: WeakValueDictionary[bytes, memory.Imported] = WeakValueDictionary()  # each has two files open

    def use(self) -> None:
        pass

    def problem_with(self, name: str, array: GuardedArray, writable: bool) -> str | None:
        if self.dtype_of(array) not in DTYPES.values():
            return f"{name} has dtype {array.dtype}; supported are {', '.join(DTYPES)}, with uint16 for bfloat16"
        if not array.flags.c_contiguous:
            return (
                f"{name} of shape {array.shape} is not contiguous (strides {array.strides}); pass "
                f"numpy.ascontiguousarray({name}) and copy the result back"
            )
        return None

    def dtype_of(self, array: GuardedArray) -> np.dtype:
        return DTYPES["bfloat16"] if array.dtype == np.uint16 else array.dtype

    def empty(self, count: int, dtype: DTypeLike) -> GuardedArray:
        return arrays.empty(count, _stored(dtype))

    def put(self, values: NDArray) -> GuardedArray:
        return arrays.put(values)

    def get(self, array: GuardedArray) -> NDArray:
        return array.get()

    def pinned(self, count: int, dtype: DTypeLike) -> NDArray:
        return memory.pinned(count, np.dtype(dtype))

    def stream(self) -> streams.Stream:
        return streams.Stream()

    def current(self) -> streams.Stream:
        return streams.current()

    def unshareable(self, array: GuardedArray) -> str | None:
        if array.nbytes == 0:
            return None
        if array.memory.foreign:
            return "it is memory of another process"
        return "it lies in a stream-ordered pool, which cannot be exported" if array.memory.pooled else None

    def share(self, array: GuardedArray) -> Share:
        reason = self.unshareable(array)
        if reason:
            raise ValueError(f"device memory cannot be shared: {reason}")
        if array.nbytes == 0:
            return Share(b"", 0, 0)
        return Share(array.memory.name(), array.address - array.memory.shown, array.nbytes)

    def opened(self, share: Share, dtype: DTypeLike) -> GuardedArray:
        if share.nbytes == 0:
            return self.empty(0, dtype)
        place = memory.own(share.allocation) or self._foreign(share.allocation)
        part = place.bytes[share.offset : share.offset + share.nbytes]
        return GuardedArray(place, part.view(_stored(dtype)))

    def _foreign(self, allocation: bytes) -> memory.Imported:
        found = self._opened.get(allocation) or memory.Imported(allocation)
        self._opened[allocation] = found
        found.check()
        return found

    def close(self) -> None:
        while self._opened:
            self._opened.popitem()[1].close()


SIMULATED = Simulated()


def _find(array: Any) -> Simulated | None:
    return SIMULATED if isinstance(array, GuardedArray) else None


@cache  # once for a process
def install() -> Simulated:
    """Let hpcdist.device know these arrays."""
    hpcdist.device.register(_find)
    return SIMULATED
