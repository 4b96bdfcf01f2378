"""The inner loops of reductions, by their addresses, for compiled code to call.

All have the form of NumPy's: `loop(char *arrays[3], intp *count, intp steps[3], void *data)`. NumPy's own are taken
where there is a fast one, so that the bits are the same by construction; half types have theirs in `half_loops`.
"""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np

from hpcdist.kernels.reduce import binary


class _Ufunc(ctypes.Structure):
    """The beginning of `PyUFuncObject`, as numpy/ufuncobject.h has it."""

    _fields_ = (
        ("object", ctypes.c_byte * object.__basicsize__),
        ("nin", ctypes.c_int),
        ("nout", ctypes.c_int),
        ("nargs", ctypes.c_int),
        ("identity", ctypes.c_int),
        ("functions", ctypes.POINTER(ctypes.c_void_p)),
        ("data", ctypes.POINTER(ctypes.c_void_p)),
        ("ntypes", ctypes.c_int),
        ("reserved", ctypes.c_int),
        ("name", ctypes.c_char_p),
    )


@cache
def loop(op: str, dtype: np.dtype) -> tuple[int, int]:
    """(address, data) of the loop that combines two arrays of `dtype` into a third, which may be one of the two.

    Raises: ImportError if this NumPy keeps its loops in another form.
    """
    if dtype.itemsize == 2:
        from hpcdist.kernels import half_loops

        operation = {"sum": "SUM", "avg": "SUM", "prod": "PROD", "max": "MAX", "min": "MIN"}[op]
        return getattr(half_loops, dtype.name).address, getattr(half_loops, operation)
    return _numpys(binary(op), dtype)


def _numpys(ufunc: np.ufunc, dtype: np.dtype) -> tuple[int, int]:
    seen = _Ufunc.from_address(id(ufunc))
    known = (ufunc.nin, ufunc.nout, ufunc.nargs, ufunc.ntypes)
    if (seen.nin, seen.nout, seen.nargs, seen.ntypes) != known or seen.name != ufunc.__name__.encode():
        raise ImportError(f"the ufuncs of NumPy {np.__version__} are not laid out as in numpy/ufuncobject.h of NumPy 2")
    index = ufunc.types.index(f"{dtype.char}{dtype.char}->{dtype.char}")
    return seen.functions[index] or 0, seen.data[index] or 0
