"""GPUs by CuPy: arrays, streams and events are CuPy's, and memory that is allocated here comes from cudaMalloc."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpcdist.device import driver as cuda_driver
from hpcdist.device.accelerator import DeviceArray, Share
from hpcdist.device.opened import Foreign, Mapping, Opened, token
from hpcdist.kernels.average import average
from hpcdist.kernels.combine import combine_at
from hpcdist.kernels.device import CUDA, Device, cupy_with_gpu, element
from hpcdist.kernels.reduce import DTYPES

SUCCESS, ALREADY_MAPPED, NOT_READY = 0, 208, 600  # cudaError_t
PORTABLE = 1  # cudaHostAllocPortable: page-locked for all devices
BFLOAT16 = DTYPES["bfloat16"]


@cache
def accelerator(number: int) -> CudaAccelerator:
    """The GPU of this number among those that the process may use; RuntimeError if there is no CuPy or no GPU."""
    return CudaAccelerator(number, cupy_with_gpu())


class CudaEvent:
    """An event without times."""

    def __init__(self, raw: Any, runtime: Any) -> None:
        self.raw, self._runtime = raw, runtime

    def done(self) -> bool:
        """Whether it is reached; CUDARuntimeError if work on the device has failed, which CuPy's own `done` hides."""
        status = self._runtime.eventQuery(self.raw.ptr)
        if status not in (SUCCESS, NOT_READY):
            raise self._runtime.CUDARuntimeError(status)
        return status == SUCCESS

    def wait(self) -> None:
        """Block this thread until it is reached."""
        self.raw.synchronize()


class CudaStream:
    """A stream of CuPy's. Threads that submit need not have the device current."""

    def __init__(self, raw: Any, device: Any, cupy: Any, kernels: Device) -> None:
        self.raw, self._device, self._cupy, self._kernels = raw, device, cupy, kernels

    def record(self) -> CudaEvent:
        """An event after everything submitted so far."""
        with self._device:
            event = self._cupy.cuda.Event(disable_timing=True)
            self.raw.record(event)
        return CudaEvent(event, self._cupy.cuda.runtime)

    def follow(self, event: Any) -> None:
        """Let all that is submitted from now on wait for the event, on the device."""
        with self._device:
            self.raw.wait_event(event.raw)

    def copy(self, target: Any, source: Any) -> None:
        """Copy bytes between arrays of equal nbytes, each in device memory or page-locked host memory.

        Raises: ValueError if sizes differ, an array has gaps, or host memory is not page-locked.
        """
        if target.nbytes != source.nbytes:
            raise ValueError(f"{source.nbytes} bytes cannot be copied to {target.nbytes}")
        if target.nbytes:
            runtime = self._cupy.cuda.runtime
            into, out_of = self._address("target", target), self._address("source", source)
            with self._device:
                runtime.memcpyAsync(into, out_of, target.nbytes, runtime.memcpyDefault, self.raw.ptr)

    def combine(self, op: str, targets: Sequence[Any], sources: Sequence[Any]) -> None:
        """Put `sources` combined, in their order, into all `targets`; see `hpcdist.kernels.combine`.

        Raises: ValueError if arrays differ in type or size, there are too many, one has gaps, or is in host memory that
            is not page-locked.
        """
        kinds = {(array.size, element(array)) for array in (*targets, *sources)}
        if len(kinds) != 1:
            raise ValueError(f"arrays of one size and type must be combined, not {sorted(kinds)}")
        (count, kind) = kinds.pop()
        into = [self._address(f"targets[{row}]", array) for row, array in enumerate(targets)]
        out_of = [self._address(f"sources[{row}]", array) for row, array in enumerate(sources)]
        with self._device, self.raw:
            combine_at("sum" if op == "avg" else op, kind, into, out_of, count, on=self._kernels)

    def average(self, total: Any, size: int) -> None:
        """Divide a sum over `size` ranks in place."""
        with self._device, self.raw:
            average(total, total, size, on=self._kernels)

    def _address(self, name: str, array: Any) -> int:
        """Where a device array or a page-locked host array begins."""
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} of shape {array.shape} has gaps, so that it cannot be moved as one piece")
        if not isinstance(array, np.ndarray):
            return int(array.data.ptr)
        at, runtime = int(array.__array_interface__["data"][0]), self._cupy.cuda.runtime
        if array.nbytes:
            with self._device:
                kind = runtime.pointerGetAttributes(at).type
            if kind != runtime.memoryTypeHost:
                raise ValueError(f"{name} is in host memory that is not page-locked; streams need memory of pinned()")
        return at


class CudaAccelerator:
    """A GPU of this process.

    Attributes:
        kind: "cuda".
        number: among the devices that this process may use.
        identity: its PCI address, and the UUID of an instance of MIG behind it.
        name: what its maker calls it.
    """

    kind = "cuda"

    def __init__(self, number: int, cupy: Any, kernels: Device = CUDA, driver: ModuleType | Any = cuda_driver) -> None:
        self.number = number
        self._cupy, self._kernels, self._driver, self._runtime = cupy, kernels, driver, cupy.cuda.runtime
        self._device = cupy.cuda.Device(number)
        self._pool = cupy.cuda.MemoryPool()  # by cudaMalloc, whatever allocator CuPy has been given
        self.name = self._runtime.getDeviceProperties(number)["name"].decode()
        self.identity = identity(cupy, number, driver)
        self._names: dict[cuda_driver.Allocation, bytes] = {}  # of this process's allocations, for others
        self._opened = Opened(self._open, self._close)

    def use(self) -> None:
        """Make it the current device of this thread, as MPI wants it that is handed its memory."""
        self._device.use()
        self._runtime.setDevice(self.number)  # for a context, which CuPy does not make where it is current already

    def problem_with(self, name: str, array: DeviceArray, writable: bool) -> str | None:
        """Why `array` cannot be a communication buffer, in words; None if it can. All of CuPy's arrays are writable."""
        if self._runtime.is_hip:
            return f"{name} is on a GPU of AMD's, of which this version knows nothing; pass host memory, {name}.get()"
        if type(array) is not self._cupy.ndarray:
            return f"{name} is a {type(array).__name__}, which may behave otherwise; pass {name}.view(cupy.ndarray)"
        if self.dtype_of(array) not in DTYPES.values():
            return f"{name} has dtype {array.dtype}; supported are {', '.join(DTYPES)}, with uint16 for bfloat16"
        if not array.flags.c_contiguous:
            return (
                f"{name} of shape {array.shape} is not contiguous (strides {array.strides}); pass "
                f"cupy.ascontiguousarray({name}) and copy the result back"
            )
        current = self._runtime.getDevice()
        if current != self.number:
            return (
                f"{name} is on GPU {self.number}, and the current one of this thread is {current}; call "
                f"cupy.cuda.Device({self.number}).use() first"
            )
        return None

    def dtype_of(self, array: DeviceArray) -> np.dtype:
        """The element type under hpcdist's name: uint16 stands for bfloat16."""
        return BFLOAT16 if array.dtype == np.uint16 else array.dtype

    def empty(self, count: int, dtype: DTypeLike) -> DeviceArray:
        """Flat device memory from a plain allocation, which MPI and other processes can use."""
        stored = _stored(dtype)
        with self._device:
            return self._cupy.ndarray((count,), stored, self._pool.malloc(count * stored.itemsize))

    def put(self, values: NDArray) -> DeviceArray:
        """A copy of a host array in device memory; complete when this returns."""
        array = self.empty(values.size, values.dtype)
        with self._device:
            array.set(values.reshape(-1).view(array.dtype))
            self._cupy.cuda.get_current_stream().synchronize()
        return array.reshape(values.shape)

    def get(self, array: DeviceArray) -> NDArray:
        """A copy of a device array in host memory, after what the current stream has to do; complete on return."""
        with self._device:
            return array.get()

    def pinned(self, count: int, dtype: DTypeLike) -> NDArray:
        """Flat page-locked host memory; the array keeps it allocated."""
        kind = np.dtype(dtype)
        if count == 0:
            return np.empty(0, kind)
        cuda = self._cupy.cuda  # whose pool takes powers of two, and gives nothing back
        with self._device:
            memory = cuda.PinnedMemoryPointer(cuda.PinnedMemory(count * kind.itemsize, PORTABLE), 0)
        return np.frombuffer(memory, np.uint8, count * kind.itemsize).view(kind)

    def stream(self) -> CudaStream:
        """A new stream, which does not wait for the default stream either."""
        with self._device:
            return self._wrapped(self._cupy.cuda.Stream(non_blocking=True))

    def current(self) -> CudaStream:
        """CuPy's current stream of this thread on this device."""
        return self._wrapped(self._cupy.cuda.get_current_stream(self.number))

    def _wrapped(self, raw: Any) -> CudaStream:
        return CudaStream(raw, self._device, self._cupy, self._kernels)

    # --- memory of other processes ---

    def unshareable(self, array: DeviceArray) -> str | None:
        """Why other processes on this host cannot open this memory, in words; None if they can."""
        if array.nbytes == 0:
            return None
        if isinstance(getattr(array.data.mem, "_owner", None), Mapping):
            return "it is memory of another process"
        with self._context():
            kind = self._driver.unshareable(array.data.ptr)
        return kind and f"it is {kind}, which CUDA IPC cannot share; allocate it from cupy.cuda.MemoryPool()"

    def share(self, array: DeviceArray) -> Share:
        """What another process needs to open it, until it is freed; ValueError if it cannot be shared."""
        if array.nbytes == 0:
            return Share(b"", 0, 0)
        if reason := self.unshareable(array):
            raise ValueError(reason)
        with self._context():
            whole = self._driver.allocation(array.data.ptr)
            if whole not in self._names:
                handle = self._runtime.ipcGetMemHandle(whole.base)
                named = Foreign(token(os.getpid()), whole.number, whole.base, whole.nbytes, handle, self.identity)
                self._names[whole] = named.pack()
        return Share(self._names[whole], array.data.ptr - whole.base, array.nbytes)

    def opened(self, share: Share, dtype: DTypeLike) -> DeviceArray:
        """Memory of another process, flat; each allocation is opened once, and closed with the last array of it.

        Memory of this very process is a view of it. The owner must not free what others have open.

        Raises:
            ValueError: if the bytes are no number of elements.
            RuntimeError: if CUDA does not open it, saying why it may not.
        """
        stored = _stored(dtype)
        if share.nbytes % stored.itemsize:
            raise ValueError(f"{share.nbytes} bytes are no number of elements of {stored.itemsize} bytes")
        if share.nbytes == 0:
            return self.empty(0, stored)
        whole = Foreign.unpack(share.allocation)
        mapping = None if whole.own else self._opened.mapping(whole)
        base = mapping.address if mapping else whole.base
        memory = self._cupy.cuda.UnownedMemory(base + share.offset, share.nbytes, mapping, self.number)
        pointer = self._cupy.cuda.MemoryPointer(memory, 0)
        return self._cupy.ndarray((share.nbytes // stored.itemsize,), stored, pointer)

    def unreachable(self, other: str) -> str | None:
        """Why this device cannot read the memory of the one of this identity, in words; None if it can.

        Of a device that this process does not see nothing is known, so None; opening its memory shows.
        """
        if other == self.identity:
            return None
        try:
            number = self._runtime.deviceGetByPCIBusId(other)
        except self._runtime.CUDARuntimeError:
            return None
        if self._runtime.deviceCanAccessPeer(self.number, number):
            return None
        return f"GPU {self.identity} cannot read the memory of GPU {other}; `nvidia-smi topo -p2p r` shows which can"

    def close(self) -> None:
        """Close all memory of other processes; nothing that refers to it may be used again."""
        self._opened.close()

    @contextmanager
    def _context(self) -> Iterator[None]:
        """A context in this thread, which the driver wants; CuPy makes none where the device is current already."""
        with self._device:
            self._runtime.setDevice(self.number)
            yield

    def _open(self, allocation: Foreign) -> int:
        if reason := self.unreachable(allocation.device):
            raise RuntimeError(reason)
        with self._device:  # who opens is who reads; the memory may be on a device that this process does not even see
            try:
                return self._open_handle(allocation.handle)
            except self._runtime.CUDARuntimeError as error:
                raise RuntimeError(
                    f"GPU {self.identity} cannot open memory of another process on GPU {allocation.device}: {error}. "
                    "With --gpus-per-task or --gpu-bind GPUs are in separate control groups: use --gpus-per-node=N "
                    "--gpu-bind=none; containers need --ipc=host"
                ) from error

    def _open_handle(self, handle: bytes) -> int:
        """Open it, if need be once more when Python has let go of arrays that nobody can reach, and closed theirs."""
        try:
            return self._runtime.ipcOpenMemHandle(handle)
        except self._runtime.CUDARuntimeError as error:
            if error.status != ALREADY_MAPPED:
                raise
            gc.collect()
            return self._runtime.ipcOpenMemHandle(handle)

    def _close(self, address: int) -> None:
        with self._device:
            self._runtime.ipcCloseMemHandle(address)


def identity(cupy: Any, number: int, driver: ModuleType | Any = cuda_driver) -> str:
    """Which physical device this is, for all processes alike: PCI addresses, and UUIDs where a GPU is cut by MIG."""
    address = cupy.cuda.runtime.deviceGetPCIBusId(number)
    if b" MIG " not in cupy.cuda.runtime.getDeviceProperties(number)["name"]:
        return address
    return f"{address}/{driver.unique_name(number)}"


def _stored(dtype: DTypeLike) -> np.dtype:
    """The type of elements in device memory: CuPy has no bfloat16."""
    kind = np.dtype(dtype)
    return np.dtype(np.uint16) if kind == BFLOAT16 else kind
