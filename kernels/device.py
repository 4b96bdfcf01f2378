"""Where the CUDA kernels of this folder run: modules compiled when first needed, checked arguments, launches.

Every subject `x` has its kernels in `x.cu` and, in `x.py`, two functions for each: a verb that launches it on arrays in
device memory, and a participle that computes the same bits with NumPy (`combine`, `combined`). Verbs run on CuPy's
current device and stream and return before the work is done, as every launch does.

CuPy has no bfloat16; an array of uint16 holds the bits of one.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

FOLDER = Path(__file__).resolve().parent
SOURCES = ("average", "bucket", "combine", "lars", "quantise", "sgd", "sparse", "unscale")

THREADS = 256  # of a block, as in numbers.cuh
MOST_BLOCKS = 16384  # of a grid: several times what any GPU runs at once; loops stride over the rest


class Device(Protocol):
    """What a kernel needs of a device: memory, addresses and launches."""

    def put(self, array: NDArray) -> Any:
        """A copy of a host array in device memory."""

    def empty(self, count: int, dtype: DTypeLike) -> Any:
        """Device memory for `count` elements, with anything in it."""

    def zeros(self, count: int, dtype: DTypeLike) -> Any:
        """Device memory for `count` elements, all zero."""

    def address(self, name: str, array: Any) -> int:
        """Where a contiguous array begins; TypeError or ValueError if it is no such array on this device."""

    def launch(self, source: str, kernel: str, blocks: int, arguments: Sequence[Any]) -> None:
        """Start a kernel of `source`; arguments are addresses, counts and NumPy scalars of the very types it takes."""


class Cuda:
    """The GPU that CuPy uses. CuPy is imported, and the sources are compiled, when they are first needed."""

    def put(self, array: NDArray) -> Any:
        """A copy of a host array in device memory."""
        return cupy_with_gpu().asarray(array)

    def empty(self, count: int, dtype: DTypeLike) -> Any:
        """Device memory for `count` elements, with anything in it."""
        return cupy_with_gpu().empty(count, dtype)

    def zeros(self, count: int, dtype: DTypeLike) -> Any:
        """Device memory for `count` elements, all zero."""
        return cupy_with_gpu().zeros(count, dtype)

    def address(self, name: str, array: Any) -> int:
        """Where an array begins; TypeError if it is in host memory, ValueError if it has gaps or is on another GPU."""
        if not hasattr(array, "__cuda_array_interface__"):
            raise TypeError(f"{name} is a {type(array).__name__}, not in device memory; pass cupy.asarray({name})")
        interface = array.__cuda_array_interface__
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} of shape {array.shape} has gaps; pass cupy.ascontiguousarray({name})")
        where, current = getattr(array, "device", None), cupy_with_gpu().cuda.Device()
        if where is not None and where != current:
            raise ValueError(f"{name} is on GPU {where.id}, the current one is {current.id}; use cupy.cuda.Device")
        return int(interface["data"][0])

    def launch(self, source: str, kernel: str, blocks: int, arguments: Sequence[Any]) -> None:
        """Start a kernel of `source` on CuPy's current stream."""
        _kernel(source, kernel)((blocks,), (THREADS,), tuple(_scalar(value) for value in arguments))


CUDA: Device = Cuda()


@cache
def cupy_with_gpu() -> Any:
    """The module cupy; RuntimeError if it cannot be imported or finds no GPU."""
    try:
        cupy: Any = importlib.import_module("cupy")
    except ImportError as error:
        raise RuntimeError(
            f"kernels run with CuPy, which cannot be imported ({error}); pip install 'hpcdist[cuda]'"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise RuntimeError(f"kernels need a GPU, and CuPy finds none: {error}; see hpcdist doctor") from error
    if count == 0:
        raise RuntimeError("kernels need a GPU, and CuPy finds none; see CUDA_VISIBLE_DEVICES and hpcdist doctor")
    return cupy


@cache
def _module(source: str) -> Any:
    """The compiled kernels of a source; CuPy keeps them on disk, too."""
    return cupy_with_gpu().RawModule(code=(FOLDER / f"{source}.cu").read_text(), options=compiler_options())


@cache
def _kernel(source: str, kernel: str) -> Any:
    return _module(source).get_function(kernel)


def compiler_options() -> tuple[str, ...]:
    """Options for NVRTC. The digest of the headers is there for CuPy's cache, which looks at the source alone."""
    headers = b"".join(path.read_bytes() for path in sorted(FOLDER.glob("*.cuh")))
    digest = hashlib.sha256(headers).hexdigest()[:16]
    return (
        "--std=c++17",
        "--fmad=false",
        f"-I{FOLDER}",
        f"-DNEW_NAN_SIGN={new_nan_sign()}u",
        f"-DHEADERS=0x{digest}",
    )


@cache
def new_nan_sign() -> int:
    """The sign bit of inf - inf on this host: 1 on x86, 0 on Arm. Kernels do alike."""
    with np.errstate(invalid="ignore"):
        infinity = np.full(1, np.inf)
        return int(np.signbit(infinity - infinity)[0])


def _scalar(value: Any) -> Any:
    """A Python number as the type that kernels take for one, since CuPy would guess."""
    if isinstance(value, int):
        return np.int64(value)
    return np.float64(value) if type(value) is float else value


def blocks_for(work: int) -> int:
    """Blocks that give each of `work` items a thread, up to what is useful."""
    return max(1, min(-(-work // THREADS), MOST_BLOCKS))


def element(array: Any) -> str:
    """The element type of an array under hpcdist's name; uint16 stands for bfloat16."""
    return "bfloat16" if array.dtype == np.uint16 else array.dtype.name


def addresses(
    on: Device,
    writes: Mapping[str, Any],
    reads: Mapping[str, Any],
    *,
    counts: Mapping[str, int],
    types: Mapping[str, str],
    in_place: bool = False,
) -> dict[str, np.uint64]:
    """Check the arrays of a launch and say where they are.

    Args:
        on: The device they must be on.
        writes: Arrays that the kernel writes, by the name that an error shall give them.
        reads: Arrays that it only reads.
        counts: How many elements each must have.
        types: Which element type each must have, as `element` names it.
        in_place: Whether an array that is written may be the very same as one that is read.

    Raises:
        TypeError: if an array is not on the device or of another type than it must be.
        ValueError: if an array has gaps, another count, an address that its type does not allow, or memory in common
            with another that is written.
    """
    arrays = {**writes, **reads}
    spans = {name: _span(on, name, array, counts[name], types[name]) for name, array in arrays.items()}
    for written in writes:
        for other in arrays:
            if other != written:
                _refuse_overlap(written, spans[written], other, spans[other], in_place and other in reads)
    return {name: np.uint64(begin) for name, (begin, _) in spans.items()}


def _span(on: Device, name: str, array: Any, count: int, kind: str) -> tuple[int, int]:
    begin = on.address(name, array)
    if element(array) != kind:
        raise TypeError(f"{name} has {element(array)} elements; here they must be {kind}")
    if array.size != count:
        raise ValueError(f"{name} has {array.size} elements; here there must be {count}")
    if begin % array.itemsize:
        raise ValueError(f"{name} begins at address {begin:#x}, no multiple of its elements' {array.itemsize} bytes")
    return begin, begin + array.nbytes


def _refuse_overlap(one: str, first: tuple[int, int], other: str, second: tuple[int, int], same: bool) -> None:
    if same and first == second:
        return
    if first[0] < second[1] and second[0] < first[1]:
        raise ValueError(
            f"{one} and {other} share memory, but are not the same" if same else _SHARED.format(one, other)
        )


_SHARED = "{} and {} share memory; this kernel needs them apart"
