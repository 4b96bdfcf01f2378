"""The loops that compiled code calls: the same bits as the arithmetic of the Python executor, for all there is."""

import ctypes

import numpy as np
import pytest
from buffers import bits, distinct, special

pytest.importorskip("numba")

from hpcdist.executor.bind import Call
from hpcdist.executor.compiled import CompiledRunner
from hpcdist.kernels import native
from hpcdist.kernels.jit import SWITCH, compiled_or_none
from hpcdist.kernels.loops import loop
from hpcdist.kernels.reduce import DTYPES, OPS, combination
from hpcdist.schedule.order import Act

LOOP = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
HALVES = ["float16", "bfloat16"]


def three(left, right, into):
    """Copies of both, and where the result goes: over one of them, or elsewhere."""
    left, right = left.copy(), right.copy()
    return left, right, {"left": left, "right": right, "neither": np.full_like(left, 77)}[into]


def by_loop(op, left, right, into):
    """`left` op `right`, computed in copies by the compiled loop."""
    left, right, out = three(left, right, into)
    address, data = loop(op, out.dtype)
    arrays = np.array([array.ctypes.data for array in (left, right, out)])
    count, steps = np.array([out.size]), np.full(3, out.itemsize)
    LOOP(address)(arrays.ctypes.data, count.ctypes.data, steps.ctypes.data, data)
    return out


def by_numpy(op, left, right, into):
    left, right, out = three(left, right, into)
    with np.errstate(all="ignore"):
        combination(op, left, right, out)()
    return out


def values(dtype, count):
    """Two arrays of numbers: with all that floats have, and integers up to their limits."""
    if DTYPES[dtype].kind != "i":
        return special(2, count, dtype)
    both = distinct(2, count, dtype)
    info = np.iinfo(both.dtype)
    both[:, ::3], both[:, 1::5] = info.max, info.min
    return both


@pytest.mark.parametrize("into", ["left", "right", "neither"])
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_loop_computes_the_bits_of_the_python_executor(dtype, op, into):
    left, right = values(dtype, 200)
    for count in (0, 1, 2, 3, 15, 16, 17, 64, 67, 200):
        for start in (0, 1, 200 - count):
            part = slice(start, start + count)
            operands = left[part], right[part]
            np.testing.assert_array_equal(bits(by_loop(op, *operands, into)), bits(by_numpy(op, *operands, into)))


@pytest.mark.parametrize("into", ["left", "right"])  # elsewhere it is the left once it is there
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", HALVES)
def test_every_16_bit_number_is_combined_with_others_of_all_kinds(dtype, op, into):
    every = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype])
    others = [np.random.default_rng(seed).permutation(every) for seed in range(5)]
    others += [np.full_like(every, number) for number in (0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, 2.0**-14)]
    for other in others:
        for operands in ((every, other), (other, every)):
            np.testing.assert_array_equal(bits(by_loop(op, *operands, into)), bits(by_numpy(op, *operands, into)))


def test_a_ufunc_laid_out_in_another_way_is_refused(monkeypatch):
    from hpcdist.kernels import loops

    class Shifted(ctypes.Structure):
        _fields_ = (("new", ctypes.c_void_p), *loops._Ufunc._fields_)

    monkeypatch.setattr(loops, "_Ufunc", Shifted)
    with pytest.raises(ImportError, match="not laid out"):
        loops._numpys(np.add, np.dtype(np.float32))


@pytest.mark.parametrize("error", [OSError(122, "Disk quota exceeded"), RuntimeError("cannot cache function")])
def test_where_the_disk_cannot_be_used_code_is_compiled_all_the_same(monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    assert native.compiled(["int64(int64)", "float64(float64)"])(lambda number: number + 1)(2) == 3


@pytest.mark.parametrize(
    ("op", "arrays"),
    [("", [np.zeros(3), np.zeros(4)]), ("sum", [np.zeros(3), np.zeros(3, "f4"), np.zeros(3)])],
    ids=["sizes", "dtypes"],
)
def test_arrays_that_do_not_fit_each_other_are_refused(op, arrays):
    with pytest.raises(ValueError, match="must be of one size and dtype"):
        CompiledRunner([Call(Act.DO, op=op, sources=tuple(arrays[:-1]), targets=(arrays[-1],))])


def broken():
    raise SystemError("initialization of _helperlib failed")


@pytest.mark.parametrize(
    ("switch", "load", "result"),
    [
        ("", int, (0, None)),
        ("1", int, (0, None)),
        ("0", int, (None, None)),
        ("", broken, (None, None)),
        ("0", broken, (None, None)),
        ("yes", int, (None, f"{SWITCH} must be 0 or 1, not 'yes'")),
    ],
)
def test_what_is_broken_is_done_without(monkeypatch, switch, load, result):
    monkeypatch.setenv(SWITCH, switch)
    assert compiled_or_none(load) == result


def test_what_is_broken_and_insisted_on_is_a_problem(monkeypatch):
    monkeypatch.setenv(SWITCH, "1")
    nothing, problem = compiled_or_none(broken)
    assert nothing is None
    assert f"{SWITCH}=1, but there is no compiled code: SystemError: initialization of _helperlib" in problem
