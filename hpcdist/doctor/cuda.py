"""The GPUs that a process may use, asked of the driver itself: no CuPy, and no context that would take memory."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia")
LIBRARY = "libcuda.so.1"
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE: there are GPUs, but none that this process may use


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
    return Path("/dev/nvidia0").exists() or any((DRIVER / "gpus").glob("*")) or Path("/dev/nvhost-gpu").exists()


def devices() -> Devices:
    """The devices that this process may use.

    Raises:
        OSError: there is no driver library.
        RuntimeError: the driver refuses, with its error number.
    """
    cuda = ctypes.CDLL(LIBRARY)
    code = cuda.cuInit(0)
    if code == NO_DEVICE:
        return Devices(())
    _check(code, "cuInit")
    count = ctypes.c_int()
    _check(cuda.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    handles = [_handle(cuda, number) for number in range(count.value)]
    peers = {(i, j) for i, a in enumerate(handles) for j, b in enumerate(handles) if i != j and _can_access(cuda, a, b)}
    return Devices(tuple(_bus_id(cuda, handle) for handle in handles), frozenset(peers))


def _check(code: int, call: str) -> None:
    if code:
        raise RuntimeError(f"{call} of the CUDA driver failed with error {code}")


def _handle(cuda: ctypes.CDLL, number: int) -> ctypes.c_int:
    handle = ctypes.c_int()
    _check(cuda.cuDeviceGet(ctypes.byref(handle), number), "cuDeviceGet")
    return handle


def _bus_id(cuda: ctypes.CDLL, handle: ctypes.c_int) -> str:
    text = ctypes.create_string_buffer(32)
    _check(cuda.cuDeviceGetPCIBusId(text, len(text), handle), "cuDeviceGetPCIBusId")
    return text.value.decode()


def _can_access(cuda: ctypes.CDLL, one: ctypes.c_int, other: ctypes.c_int) -> bool:
    can = ctypes.c_int()
    _check(cuda.cuDeviceCanAccessPeer(ctypes.byref(can), one, other), "cuDeviceCanAccessPeer")
    return bool(can.value)
