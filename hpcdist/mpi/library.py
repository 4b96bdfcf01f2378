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


def query(path: str, function: str) -> int | None:
    """What a function without arguments of the library at a path returns; None if there is none of that name."""
    try:
        call = getattr(ctypes.CDLL(path), function)
    except (OSError, AttributeError):
        return None
    return call()
