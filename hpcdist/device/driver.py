"""What the CUDA driver is asked directly.

Which GPUs this process may use, without a context that would take memory; and what CuPy does not ask of an address: the
allocation around it, and who may open that.
"""

from __future__ import annotations

import ctypes
import uuid
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path

LIBRARY = "libcuda.so.1"
FILES = Path("/proc/driver/nvidia")
NO_DEVICE = "CUDA_ERROR_NO_DEVICE"  # there are GPUs, but none that this process may use

# CUpointer_attribute
BUFFER_ID, IS_MANAGED, IS_LEGACY_CUDA_IPC_CAPABLE, MEMPOOL_HANDLE = 7, 8, 10, 17


@dataclass(frozen=True)
class Devices:
    """What a process sees.

    Attributes:
        bus_ids: PCI address of each visible device, in its order.
        peers: pairs of visible devices (i, j), i != j, where i can read j's memory.
    """

    bus_ids: tuple[str, ...]
    peers: frozenset[tuple[int, int]] = frozenset()


def likely() -> bool:
    """Whether this host has NVIDIA GPUs, without loading anything."""
    return Path("/dev/nvidia0").exists() or any((FILES / "gpus").glob("*")) or Path("/dev/nvhost-gpu").exists()


def devices() -> Devices:
    """The devices that this process may use.

    Raises:
        OSError: there is no driver library.
        RuntimeError: the driver refuses, with its error number.
    """
    try:
        _call("cuInit", ctypes.c_uint(0))
    except RuntimeError as error:
        if NO_DEVICE in str(error):
            return Devices(())
        raise
    count = ctypes.c_int()
    _call("cuDeviceGetCount", ctypes.byref(count))
    handles = [_handle(number) for number in range(count.value)]
    peers = {(i, j) for i, j in permutations(range(count.value), 2) if _can_access(handles[i], handles[j])}
    return Devices(tuple(map(_bus_id, handles)), frozenset(peers))


def _handle(number: int) -> ctypes.c_int:
    handle = ctypes.c_int()
    _call("cuDeviceGet", ctypes.byref(handle), ctypes.c_int(number))
    return handle


def _bus_id(handle: ctypes.c_int) -> str:
    text = ctypes.create_string_buffer(32)
    _call("cuDeviceGetPCIBusId", text, ctypes.c_int(len(text)), handle)
    return text.value.decode()


def _can_access(one: ctypes.c_int, other: ctypes.c_int) -> bool:
    can = ctypes.c_int()
    _call("cuDeviceCanAccessPeer", ctypes.byref(can), one, other)
    return bool(can.value)


@dataclass(frozen=True)
class Allocation:
    """One allocation of this process.

    Attributes:
        base: where it begins.
        nbytes: how large it is.
        number: that of no other allocation of this process, before or after.
    """

    base: int
    nbytes: int
    number: int


def allocation(address: int) -> Allocation:
    """The allocation that an address lies in; RuntimeError if the driver knows of none."""
    base, nbytes = ctypes.c_uint64(), ctypes.c_size_t()
    _call("cuMemGetAddressRange_v2", ctypes.byref(base), ctypes.byref(nbytes), ctypes.c_uint64(address))
    return Allocation(base.value, nbytes.value, _attribute(address, BUFFER_ID))


def unshareable(address: int) -> str | None:
    """What kind of memory this is that CUDA IPC cannot share, in words; None if it can."""
    if _attribute(address, IS_LEGACY_CUDA_IPC_CAPABLE):
        return None
    if _attribute(address, IS_MANAGED):
        return "managed memory"
    if _attribute(address, MEMPOOL_HANDLE):
        return "memory of a stream-ordered pool (cudaMallocAsync)"
    return "memory that was not allocated by cudaMalloc, or CUDA IPC does not work on this system"


def unique_name(number: int) -> str:
    """The UUID of a device of this process; instances of MIG have their own."""
    found = (ctypes.c_ubyte * 16)()
    _call("cuDeviceGetUuid_v2", ctypes.byref(found), _handle(number))
    return str(uuid.UUID(bytes=bytes(found)))


def _attribute(address: int, which: int) -> int:
    value = ctypes.c_uint64()  # as large as the largest of them; of smaller ones the driver writes the lower bytes
    _call("cuPointerGetAttribute", ctypes.byref(value), ctypes.c_int(which), ctypes.c_uint64(address))
    return value.value


@cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(LIBRARY)


def _call(name: str, *arguments: object) -> None:
    code = getattr(_library(), name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        _library().cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
        raise RuntimeError(f"{name} of the CUDA driver failed: {(text.value or b'error').decode()} ({code})")
