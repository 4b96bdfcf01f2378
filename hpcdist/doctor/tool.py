"""What the MPI library says of itself through its tool interface, MPI_T, which mpi4py has no calls for."""

from __future__ import annotations

import ctypes
from functools import cache

from hpcdist.mpi.library import start_tool_interface

LONG = 1 << 16  # bytes; longer than any value of a variable


@cache
def _library(path: str) -> ctypes.CDLL | None:
    """The loaded MPI library, with its tool interface started; None if it has none."""
    try:
        library = ctypes.CDLL(path)
        return library if start_tool_interface(library) == 0 else None
    except (OSError, AttributeError):
        return None


def _read(path: str, name: str) -> bytes | None:
    """The value of a control variable as it lies in memory, or None if there is none of that name."""
    library = _library(path)
    index, count, handle = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    if library is None or library.MPI_T_cvar_get_index(name.encode(), ctypes.byref(index)):
        return None
    if library.MPI_T_cvar_handle_alloc(index, None, ctypes.byref(handle), ctypes.byref(count)):
        return None
    value = ctypes.create_string_buffer(LONG)
    failed = 8 * count.value > LONG or library.MPI_T_cvar_read(handle, value)
    library.MPI_T_cvar_handle_free(ctypes.byref(handle))
    return None if failed else value.raw


def number(path: str, name: str) -> int | None:
    """An integer or boolean control variable of the library at `path`, or None if it has none of that name."""
    raw = _read(path, name)
    return None if raw is None else ctypes.c_int32.from_buffer_copy(raw).value


def text(path: str, name: str) -> str | None:
    """A control variable that is a string; empty if it is not set."""
    raw = _read(path, name)
    return None if raw is None else raw.split(b"\0")[0].decode(errors="replace")


def query(path: str, function: str) -> int | None:
    """What a function without arguments, such as MPIX_Query_cuda_support, returns; None if the library has none."""
    library = _library(path)
    call = getattr(library, function, None) if library else None
    return call() if call else None
