"""What hpcdist.device.cuda calls of CuPy and of the driver, where there is no GPU: memory is the host's, work is done
at once. It shows that the calls fit together, and nothing of when work is done. `calls` lists those that a test looks
at.
"""

import ctypes
import struct
from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from hpcdist.device.driver import Allocation

PCI = ("0000:3B:00.0", "0000:5E:00.0")


class CUDARuntimeError(RuntimeError):
    def __init__(self, status):
        super().__init__(f"cudaError {status}")
        self.status = status


class Memory:
    """An allocation; `number` as the driver counts them."""

    count = 0

    def __init__(self, nbytes, kind=None):
        Memory.count += 1
        self.bytes, self.nbytes, self.kind, self.number = (
            np.full(nbytes + 256, 0xA5, np.uint8),
            nbytes,
            kind,
            Memory.count,
        )
        self.ptr = -(-self.bytes.ctypes.data // 256) * 256 if nbytes else 0


class UnownedMemory:
    def __init__(self, ptr, size, owner, device_id=-1):
        self.ptr, self.size, self._owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    def __init__(self, mem, offset):
        self.mem, self.ptr = mem, mem.ptr + offset


class MemoryPool:
    """Two arrays of each allocation, the second at an offset."""

    def __init__(self, kind=None):
        self.kind, self.half = kind, None

    def malloc(self, nbytes):
        if nbytes == 0:
            return MemoryPointer(Memory(0), 0)
        nbytes = -(-nbytes // 512) * 512
        if self.half and self.half.nbytes == 2 * nbytes:
            memory, self.half = self.half, None
            return MemoryPointer(memory, nbytes)
        self.half = Memory(2 * nbytes, self.kind)
        ALIVE.append(self.half)
        return MemoryPointer(self.half, 0)


ALIVE = []


class ndarray:  # as CuPy calls it
    def __init__(self, shape, dtype, memptr, device=0):
        self.data, self.device = memptr, SimpleNamespace(id=device)
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.host = np.frombuffer((ctypes.c_ubyte * nbytes).from_address(memptr.ptr), dtype).reshape(shape)

    def __getattr__(self, name):
        if name in ("dtype", "shape", "strides", "size", "nbytes", "itemsize", "flags"):
            return getattr(self.host, name)
        raise AttributeError(name)

    def reshape(self, shape):
        return ndarray(shape, self.dtype, self.data, self.device.id)

    def __getitem__(self, part):
        view = self.host[part]
        offset = view.ctypes.data - self.host.ctypes.data
        result = ndarray(
            view.shape, self.dtype, MemoryPointer(self.data.mem, self.data.ptr - self.data.mem.ptr + offset)
        )
        result.host = view
        return result

    def set(self, values):
        assert values.dtype == self.dtype
        self.host[...] = values

    def get(self):
        return self.host.copy()


class Device:
    stack: ClassVar = [0]

    def __init__(self, number):
        self.id = number

    def __enter__(self):
        Device.stack.append(self.id)

    def __exit__(self, *_):
        Device.stack.pop()

    def use(self):
        Device.stack[-1] = self.id


class Event:
    def __init__(self, disable_timing=False):
        assert disable_timing
        self.ptr = id(self)
        self.synchronize = lambda: None


class Stream:
    current: ClassVar = []

    def __init__(self, non_blocking=False):
        self.ptr, self.done = id(self), []

    def record(self, event):
        self.done.append(("record", event.ptr))

    def wait_event(self, event):
        self.done.append(("wait", event.ptr))

    def synchronize(self):
        pass

    def __enter__(self):
        Stream.current.append(self)

    def __exit__(self, *_):
        Stream.current.pop()


class Runtime:
    memcpyDefault, memoryTypeHost = 4, 1
    CUDARuntimeError = CUDARuntimeError

    def __init__(self):
        self.calls, self.status, self.is_hip, self.count = [], 0, False, 2
        self.name, self.peers, self.refuses = b"GPU of this test", True, None
        self.pinned = []

    def eventQuery(self, ptr):
        return self.status

    def getDevice(self):
        return Device.stack[-1]

    def setDevice(self, number):
        Device.stack[-1] = number

    def getDeviceCount(self):
        return self.count

    def getDeviceProperties(self, number):
        return {"name": self.name}

    def deviceGetPCIBusId(self, number):
        return PCI[number]

    def deviceGetByPCIBusId(self, address):
        if address not in PCI[: self.count]:
            raise CUDARuntimeError(101)
        return PCI.index(address)

    def deviceCanAccessPeer(self, one, other):
        return int(self.peers)

    def pointerGetAttributes(self, ptr):
        self.calls.append(("pointerGetAttributes", Device.stack[-1]))
        inside = any(begin <= ptr < begin + nbytes for begin, nbytes in self.pinned)
        return SimpleNamespace(type=int(inside))

    def memcpyAsync(self, into, out_of, nbytes, kind, stream):
        assert kind == self.memcpyDefault
        self.calls.append(("memcpyAsync", stream))
        ctypes.memmove(into, out_of, nbytes)

    def ipcGetMemHandle(self, base):
        self.calls.append(("ipcGetMemHandle", base))
        return struct.pack("<Q56x", base)

    def ipcOpenMemHandle(self, handle):
        if self.refuses:
            raise CUDARuntimeError(self.refuses if isinstance(self.refuses, int) else self.refuses.pop())
        (base,) = struct.unpack_from("<Q", handle)
        self.calls.append(("ipcOpenMemHandle", base))
        return base

    def ipcCloseMemHandle(self, ptr):
        self.calls.append(("ipcCloseMemHandle", ptr))


def cupy():
    """A module as hpcdist.device.cuda wants it."""
    runtime = Runtime()

    def pinned_memory(nbytes, flags):
        assert flags == 1, "not portable"
        memory = np.zeros(nbytes, np.uint8)
        runtime.pinned.append((memory.ctypes.data, nbytes))
        ALIVE.append(memory)
        return memory

    stream = Stream()
    cuda = SimpleNamespace(
        runtime=runtime,
        Device=Device,
        Event=Event,
        Stream=Stream,
        MemoryPool=MemoryPool,
        MemoryPointer=MemoryPointer,
        UnownedMemory=UnownedMemory,
        PinnedMemory=pinned_memory,
        PinnedMemoryPointer=lambda memory, offset: memory[offset:],
        get_current_stream=lambda number=0: stream,
    )
    return SimpleNamespace(cuda=cuda, ndarray=ndarray)


def _around(address):
    return next(
        memory for memory in reversed(ALIVE) if hasattr(memory, "number") and 0 <= address - memory.ptr < memory.nbytes
    )


driver = SimpleNamespace(
    allocation=lambda address: Allocation(_around(address).ptr, _around(address).nbytes, _around(address).number),
    unshareable=lambda address: _around(address).kind,
    unique_name=lambda number: f"uuid-{number}",
)
