"""Memory of the simulated device, of the host's page-locked memory, and of other processes' devices.

All memory of a kind comes from one sparse file of this process, so that thousands of arrays cost no file descriptors.
Every allocation has a page of its own before it with its number, by which others see whether it still lives.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import struct
import threading
import weakref
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

AWARE = os.environ.get("GUARDED_AWARE") == "1"
PAGE = mmap.PAGESIZE
CAPACITY = 1 << 35  # bytes of addresses; memory is only what was touched
NO_RESERVE = 0x4000  # MAP_NORESERVE, which the module mmap has from Python 3.13 on

# Bytes 0xff are NaN in every type of floats, which no sum, product, maximum or minimum hides.
FRESH, FREED = 0xFF, 0x7F

_FORMAT = "<qiqqQ"  # pid, file descriptor, begin in the file, bytes, number


def _map(file: int, nbytes: int, begin: int, protection: int) -> mmap.mmap:
    return mmap.mmap(file, nbytes, mmap.MAP_SHARED | NO_RESERVE, protection, offset=begin)


def _address(mapped: mmap.mmap) -> int:
    return np.frombuffer(mapped, np.uint8).ctypes.data


class Mapped:
    """A part of a file, mapped for the device (`hidden`) and for the looks (`shown`)."""

    def __init__(self, file: int, nbytes: int, begin: int = 0) -> None:
        self._work = _map(file, nbytes, begin, mmap.PROT_READ | mmap.PROT_WRITE)
        self._looks = _map(file, nbytes, begin, mmap.PROT_READ | mmap.PROT_WRITE if AWARE else 0)
        self.bytes = np.frombuffer(self._work, np.uint8)
        self.hidden, self.shown = _address(self._work), _address(self._looks)

    def close(self) -> None:
        """Let every further access be SIGSEGV, by work under way, too; who refers to it keeps the addresses taken."""
        libc = ctypes.CDLL(None, use_errno=True)
        for address in (self.hidden, self.shown):
            if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(len(self.bytes)), 0):
                raise OSError(ctypes.get_errno(), "mprotect")


class Allocation:
    """Memory of this process, until nobody refers to it; `bytes` is where the device works, and keeps nothing alive."""

    foreign = closed = False

    def __init__(self, arena: Arena, slot: int, nbytes: int, pooled: bool = False) -> None:
        self.arena, self.slot, self.nbytes, self.pooled = arena, slot, nbytes, pooled
        self.number = next(arena.numbers)
        begin = slot + PAGE
        self.bytes = arena.mapped.bytes[begin : begin + nbytes]
        self.hidden, self.shown = arena.mapped.hidden + begin, arena.mapped.shown + begin
        self.bytes.fill(FRESH)
        arena.header(slot)[0] = self.number
        arena.live[self.number] = self

    def name(self) -> bytes:
        """What other processes call it; no other allocation ever has the same."""
        return struct.pack(_FORMAT, os.getpid(), self.arena.file, self.slot, self.nbytes, self.number)

    def __del__(self) -> None:
        if np is None:  # the process ends, and has taken the modules away already
            return
        if self.arena.pid == os.getpid():  # not in a forked child, which dies with the same objects
            self.arena.header(self.slot)[0] = 0
            self.bytes.fill(FREED)
            self.arena.take_back(self)


class Arena:
    """The file that all allocations of this process are part of."""

    def __init__(self, name: str) -> None:
        self.pid = os.getpid()
        self.file = os.memfd_create(name)
        os.ftruncate(self.file, CAPACITY)
        self.mapped = Mapped(self.file, CAPACITY)
        self.numbers = count(random.SystemRandom().getrandbits(62))
        self.live: weakref.WeakValueDictionary[int, Allocation] = weakref.WeakValueDictionary()
        self._lock = threading.RLock()  # an array may die wherever Python makes an object, here too
        self._end = 0
        self._free: dict[int, list[int]] = {}

    def allocate(self, nbytes: int, pooled: bool = False) -> Allocation:
        """Memory full of rubbish, which begins at a page."""
        if self.pid != os.getpid():
            raise RuntimeError("this process was forked from one that used the device; start a new one instead")
        size = _slot_nbytes(nbytes)
        with self._lock:
            free = self._free.setdefault(size, [])
            if free:
                slot = free.pop()
            else:
                slot, self._end = self._end, self._end + size
        if slot + size > CAPACITY:
            raise MemoryError(f"the simulated device has no {nbytes} bytes left of {CAPACITY}")
        return Allocation(self, slot, nbytes, pooled)

    def take_back(self, allocation: Allocation) -> None:
        """Let its place be used again."""
        with self._lock:
            self._free.setdefault(_slot_nbytes(allocation.nbytes), []).append(allocation.slot)

    def header(self, slot: int) -> NDArray[np.uint64]:
        """The number of the allocation that lives there [1]; 0 for none."""
        return self.mapped.bytes[slot : slot + 8].view(np.uint64)

    def holds(self, array: NDArray) -> bool:
        """Whether a host array lies here; one without elements lies everywhere."""
        return array.size == 0 or 0 <= array.ctypes.data - self.mapped.hidden <= CAPACITY - array.nbytes


def _slot_nbytes(nbytes: int) -> int:
    """A power of two and the header, so that places fit many."""
    return PAGE + max(PAGE, 1 << (nbytes - 1).bit_length() if nbytes else 0)


class Imported:
    """An allocation of another process on this host, mapped into this one."""

    foreign, pooled = True, False

    def __init__(self, name: bytes) -> None:
        pid, file, slot, self.nbytes, self.number = struct.unpack(_FORMAT, name)
        try:
            here = os.open(f"/proc/{pid}/fd/{file}", os.O_RDWR)
        except OSError as error:
            raise RuntimeError(f"device memory of process {pid} cannot be opened: {error}") from error
        self._mapped = Mapped(here, PAGE + self.nbytes, slot)
        os.close(here)
        self.bytes = self._mapped.bytes[PAGE:]
        self.hidden, self.shown = self._mapped.hidden + PAGE, self._mapped.shown + PAGE
        self.closed = False

    def check(self) -> None:
        """RuntimeError if the owner has freed it."""
        if self._mapped.bytes[:8].view(np.uint64)[0] != self.number:
            raise RuntimeError("device memory of another process is opened that was freed there")

    def close(self) -> None:
        """Whoever uses it from now on dies."""
        self.closed = True
        self._mapped.close()


class _Holder:
    """What keeps page-locked memory allocated as long as there is a NumPy array over it."""

    def __init__(self, allocation: Allocation) -> None:
        self._allocation = allocation
        interface = {"shape": (allocation.nbytes,), "typestr": "|u1", "data": (allocation.hidden, False), "version": 3}
        self.__array_interface__ = interface


_ARENAS: dict[str, Arena] = {}


def arena(name: str) -> Arena:
    """This process's file for "device" memory or "page-locked" memory, made when first needed."""
    if name not in _ARENAS:
        _ARENAS[name] = Arena(name)
    return _ARENAS[name]


def own(name: bytes) -> Allocation | None:
    """This process's allocation of a name; None for other processes'. RuntimeError if it was freed."""
    pid, *_, number = struct.unpack(_FORMAT, name)
    if pid != os.getpid():
        return None
    if number not in arena("device").live:
        raise RuntimeError("device memory is opened that was freed")
    return arena("device").live[number]


def pinned(count: int, dtype: np.dtype) -> NDArray:
    """Page-locked host memory: an ordinary array, which `reach` knows by its address."""
    return np.asarray(_Holder(arena("page-locked").allocate(count * dtype.itemsize))).view(dtype)


def reach(array: Any) -> NDArray:
    """Where the device reads and writes an array, which this does not keep alive.

    Raises:
        ValueError: for an array with gaps, and host memory that is not page-locked.
    """
    if hasattr(array, "memory"):
        place: NDArray = array.hidden
    elif isinstance(array, np.ndarray) and arena("page-locked").holds(array):
        begin = array.ctypes.data - arena("page-locked").mapped.hidden if array.size else 0
        place = arena("page-locked").mapped.bytes[begin : begin + array.nbytes].view(array.dtype)
        place = place.reshape(array.shape)
    else:
        raise ValueError(f"the device cannot reach this {type(array).__name__}: it is not in page-locked memory")
    if not array.flags.c_contiguous:
        raise ValueError(f"an array of shape {array.shape} for the device has gaps")
    return place.reshape(-1)


def write(target: NDArray, values: Any, pause: Any) -> None:
    """Put values into memory, which is rubbish for a while, so that who looks too early does not see older values."""
    target[...] = np.frombuffer(bytes([FRESH]) * target.itemsize, target.dtype)[0]
    pause()
    target[...] = values
