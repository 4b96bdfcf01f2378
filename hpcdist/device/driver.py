"""What the CUDA driver knows of an address and CuPy does not ask: the allocation around it, and who may open that."""

from __future__ import annotations

import ctypes
import uuid
from dataclasses import dataclass
from functools import cache

LIBRARY = "libcuda.so.1"

# CUpointer_attribute
BUFFER_ID, IS_MANAGED, IS_LEGACY_CUDA_IPC_CAPABLE, MEMPOOL_HANDLE = 7, 8, 10, 17


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
    device, found = ctypes.c_int(), (ctypes.c_ubyte * 16)()
    _call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(number))
    _call("cuDeviceGetUuid_v2", ctypes.byref(found), device)
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
