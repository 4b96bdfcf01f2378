"""Arrays of the simulated device, which look as CuPy's do, compute on the current stream, and refuse what CuPy's do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin
from numpy.typing import DTypeLike, NDArray

from guarded import computing, functions  # which know this module, too, but use it only when they are called
from guarded.memory import Allocation, Imported, arena
from guarded.streams import current

Shape = int | tuple[int, ...]


class GuardedArray(NDArrayOperatorsMixin):
    """Numbers in device memory, which stays allocated as long as there is such an array over it."""

    def __init__(self, memory: Allocation | Imported, hidden: NDArray) -> None:
        if hidden.dtype.kind not in "biufc":
            raise TypeError(f"the device knows no {hidden.dtype} elements")
        self.memory, self._place = memory, hidden

    dtype = property(lambda self: self._place.dtype)
    shape = property(lambda self: self._place.shape)
    strides = property(lambda self: self._place.strides)
    size = property(lambda self: self._place.size)
    nbytes = property(lambda self: self._place.nbytes)
    itemsize = property(lambda self: self._place.itemsize)
    ndim = property(lambda self: self._place.ndim)

    @property
    def hidden(self) -> NDArray:
        """Where the device works; it keeps no memory allocated."""
        if self.memory.closed:
            raise RuntimeError("device memory of another process is used after it was closed")
        return self._place

    @property
    def flags(self) -> SimpleNamespace:
        """CuPy's have no `writeable`: all its arrays are."""
        flags = self._place.flags
        return SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous, owndata=False)

    @property
    def address(self) -> int:
        """What the rest of the world believes to be its address."""
        return self.memory.shown + self._place.ctypes.data - self.memory.hidden if self.size else 0

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None if self.flags.c_contiguous else self.strides,
            "stream": 1,
            "version": 3,
        }

    def __array__(self, *_: Any, **__: Any) -> NDArray:
        raise TypeError("a device array does not become a NumPy array by itself; say array.get()")

    def get(self) -> NDArray:
        """A copy on the host, after what the current stream has to do."""
        current().record().wait()
        return self.hidden.copy()

    def set(self, values: NDArray) -> None:
        """Copy a host array of this very shape and type."""
        if (values.shape, values.dtype) != (self.shape, self.dtype):
            raise ValueError(f"{values.dtype}{values.shape} cannot be put into {self.dtype}{self.shape}")
        here = values.copy()
        current().write(self.hidden, lambda: here, keep=self)

    def item(self, *index: int) -> Any:
        return self.get().item(*index)

    def tolist(self) -> Any:
        return self.get().tolist()

    def __float__(self) -> float:
        return float(self.get())

    def __int__(self) -> int:
        return int(self.get())

    def __index__(self) -> int:
        return self.get().__index__()

    def __bool__(self) -> bool:
        return bool(self.get())

    def __len__(self) -> int:
        return len(self._place)

    def __iter__(self) -> Iterator[GuardedArray]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"GuardedArray({self.dtype}{list(self.shape)} at {self.address:#x})"

    def __reduce__(self) -> tuple[Any, ...]:
        return put, (self.get(),)

    def __getitem__(self, index: Any) -> GuardedArray:
        kinds = computing.kinds(index)
        if "b" in kinds:  # how many are chosen is known to the device alone
            current().record().wait()
            sample = computing.chosen(*computing.unwrapped((self, index)))
            return computing.computed(computing.chosen, (self, index), sample=sample)
        if any(kinds):
            return computing.computed(computing.chosen, (self, index))
        parts = index if isinstance(index, tuple) else (index,)
        return self._over(self._place[parts if Ellipsis in parts else (*parts, ...)])  # never a number, always a view

    def __setitem__(self, index: Any, value: Any) -> None:
        if any(computing.kinds(index)):
            value = value if isinstance(value, GuardedArray) else put(np.asarray(value, self.dtype))
            computing.scatter(self, index, value)
        elif isinstance(value, GuardedArray):
            part = self[index]
            computing.computed(computing.spread, (value, part.shape), into=part)
        else:
            self[index].fill(value)

    def fill(self, value: Any) -> None:
        """One number everywhere; a host array that is more than that must be put into device memory first."""
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("a NumPy array with axes cannot be written into a device array; see set() and put()")
        if not isinstance(value, (*computing.SCALARS, np.ndarray)):
            raise computing.unsupported(value)
        number = np.asarray(value).astype(self.dtype)
        current().write(self.hidden, lambda: number, keep=self)

    def _over(self, hidden: NDArray) -> GuardedArray:
        return GuardedArray(self.memory, hidden)

    def reshape(self, *shape: Any, order: str = "C") -> GuardedArray:
        wanted = shape[0] if len(shape) == 1 else shape
        try:
            return self._over(np.reshape(self.hidden, wanted, order=order, copy=False))
        except ValueError:  # the shape is wrong, or elements must move
            return computing.computed(np.reshape, (self, wanted), {"order": order})

    def ravel(self) -> GuardedArray:
        return self.reshape(-1)

    def flatten(self) -> GuardedArray:
        return self.reshape(-1).copy()

    def view(self, dtype: DTypeLike | None = None) -> GuardedArray:
        return self._over(self.hidden.view() if dtype is None else self.hidden.view(np.dtype(dtype)))

    def transpose(self, *axes: Any) -> GuardedArray:
        return self._over(self.hidden.transpose(*axes))

    def swapaxes(self, one: int, other: int) -> GuardedArray:
        return self._over(self.hidden.swapaxes(one, other))

    def squeeze(self, axis: Any = None) -> GuardedArray:
        return self._over(self.hidden.squeeze(axis))

    T = property(transpose)

    def astype(self, dtype: DTypeLike, copy: bool = True) -> GuardedArray:
        kind = np.dtype(dtype)
        return (
            self if kind == self.dtype and not copy else computing.computed(lambda array: array.astype(kind), (self,))
        )

    def copy(self) -> GuardedArray:
        return computing.computed(np.copy, (self,))

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, out: Any = (), **options: Any) -> Any:
        for value in (*inputs, options.get("where", True)):
            if not isinstance(value, (*computing.SCALARS, GuardedArray)):
                raise computing.unsupported(value)
        if method != "__call__" or ufunc.nout != 1:
            return NotImplemented
        return computing.computed_into(out[0] if out else None, ufunc, inputs, options)

    def __array_function__(self, function: Callable, types: Any, args: tuple, options: dict[str, Any]) -> Any:
        return functions.called(function, args, options)


def _method(function: Callable) -> Callable:
    def method(self: GuardedArray, *args: Any, out: Any = None, **options: Any) -> GuardedArray:
        return computing.computed_into(out, function, (self, *args), options)

    return method


for _function in (np.sum, np.prod, np.mean, np.max, np.min, np.argmax, np.argmin, np.all, np.any, np.cumsum, np.repeat):
    setattr(GuardedArray, _function.__name__, _method(_function))


def _new(shape: Shape, dtype: DTypeLike, pooled: bool = False) -> GuardedArray:
    kind = np.dtype(dtype)
    lengths = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
    memory = arena("device").allocate(math.prod(lengths) * kind.itemsize, pooled)
    return GuardedArray(memory, memory.bytes.view(kind).reshape(lengths))


def empty(shape: Shape, dtype: DTypeLike = float) -> GuardedArray:
    """A new array full of rubbish."""
    return _new(shape, dtype)


def pool_array(shape: Shape, dtype: DTypeLike = float) -> GuardedArray:
    """A new array full of rubbish that no other process can open, as memory of a stream-ordered pool."""
    return _new(shape, dtype, pooled=True)


def zeros(shape: Shape, dtype: DTypeLike = float) -> GuardedArray:
    """A new array of zeros, written on the current stream."""
    result = empty(shape, dtype)
    result.fill(0)
    return result


def put(values: Any) -> GuardedArray:
    """A copy of a host array, complete when this returns; bfloat16 becomes uint16, which stands for it."""
    array = np.asarray(values)
    array = array.view(np.uint16) if array.dtype.name == "bfloat16" else array
    result = empty(array.shape, array.dtype)
    result.hidden[...] = array
    return result


def peek(array: GuardedArray) -> NDArray:
    """A copy of what is in memory now, whatever is under way."""
    return array.hidden.copy()
