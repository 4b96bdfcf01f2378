"""Which MPI libraries this process has loaded."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

# The library itself, by its makers' names; not its Fortran or C++ parts.
LIBMPI = re.compile(r"/lib(mpi|mpich|mpi_abi|mpi_cray|mpi_gnu_\d+|mpi_intel_\d+)\.so[.\d]*$")


def libraries() -> list[str]:
    """The MPI libraries that this process has loaded: one, where all is well."""
    paths = (line.split()[-1] for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines())
    return sorted({path for path in paths if LIBMPI.search(path)})


def start_tool_interface(library: ctypes.CDLL) -> int:
    """Start MPI_T of a library that runs; MPI's error code.

    Open MPI takes the level of threads that is asked for here for that of all of MPI from then on: at a lower one it
    would leave out the locks that other threads count on.
    """
    from mpi4py import MPI

    return library.MPI_T_init_thread(MPI.Query_thread(), ctypes.byref(ctypes.c_int()))
