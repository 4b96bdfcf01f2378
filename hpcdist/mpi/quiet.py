"""Keeps one message of Open MPI from the terminal.

Where Open MPI was built with UCX and finds no network for it, each rank says so when its first window is made: "OSC UCX
component priority set inside component query failed". Nothing is wrong: another component makes the window. The
message's own switch can be set at any time by MPI's tool interface, whoever started the ranks.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

from mpi4py import MPI

from hpcdist.mpi.library import start_tool_interface

_SWITCH = b"opal_common_ucx_verbose"
_SILENT = -1


@contextlib.contextmanager
def without_ucx_complaint() -> Iterator[None]:
    """Switch the message off while the block runs; does nothing in other libraries."""
    switch = _open_switch() if MPI.Get_library_version().startswith("Open MPI") else None
    if switch is None:
        yield
        return
    library, handle = switch
    before, silent = ctypes.c_int(), ctypes.c_int(_SILENT)
    library.MPI_T_cvar_read(handle, ctypes.byref(before))
    library.MPI_T_cvar_write(handle, ctypes.byref(silent))
    try:
        yield
    finally:
        library.MPI_T_cvar_write(handle, ctypes.byref(before))
        library.MPI_T_cvar_handle_free(ctypes.byref(handle))
        library.MPI_T_finalize()


def _open_switch() -> tuple[ctypes.CDLL, ctypes.c_void_p] | None:
    """The library and a handle of the switch, or None if this Open MPI has none."""
    found = re.search(r"/\S*/libmpi\.so\S*", Path("/proc/self/maps").read_text())
    if not found:
        return None
    library = ctypes.CDLL(found[0])
    number, count, handle = ctypes.c_int(), ctypes.c_int(), ctypes.c_void_p()
    if start_tool_interface(library):
        return None
    if library.MPI_T_cvar_get_index(_SWITCH, ctypes.byref(number)) or library.MPI_T_cvar_handle_alloc(
        number, None, ctypes.byref(handle), ctypes.byref(count)
    ):
        library.MPI_T_finalize()
        return None
    return library, handle
