"""The Python executor and the compiled one over a real MPI: the same bits, the same errors."""

import sys

import numpy as np
import pytest
from buffers import bits, distinct, special
from mpi4py import MPI

import hpcdist
from hpcdist import algorithms
from hpcdist.errors import AgreedError
from hpcdist.executor.bind import BoundProgram
from hpcdist.kernels.jit import SWITCH
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.transport import TransferError
from hpcdist.transport.mpi import LARGEST_COUNT, _native, transport_of

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
EXECUTORS = {"python": "0", "compiled": "1"}
BY_MESSAGES = [name for name in algorithms.ALLREDUCE if name != "shared"]


@pytest.fixture(autouse=True)
def need_numba(request):
    if "without_numba" not in request.node.name:
        pytest.importorskip("numba")


def values(dtype, count):
    """This rank's: for floats all they have, for integers sums that wrap."""
    if DTYPES[dtype].kind != "i":
        with np.errstate(invalid="ignore"):  # many bfloat16 are among them that are no numbers
            return special(SIZE, count, dtype)[RANK]
    both = distinct(SIZE, count, dtype)[RANK]
    both[::3] = np.iinfo(both.dtype).max
    return both


def result(comm, executor, monkeypatch, array, **how):
    monkeypatch.setenv(SWITCH, EXECUTORS[executor])
    array = array.copy()
    plan = hpcdist.plan(comm, array, **how)
    assert plan.executor == (executor if SIZE > 1 and array.size else "python")
    plan()
    plan.close()
    return array


@pytest.mark.paired(times=2)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_executors_compute_the_same_bits(comm, monkeypatch, dtype, op):
    for name in BY_MESSAGES:
        for count, segment in ((0, 0), (1, 0), (257, 64), (5000, 0)):
            if count and count < SIZE and name != "recursive_doubling":
                continue  # a rank without a message has nothing to compile
            array = values(dtype, count)
            how = {"algorithm": name, "op": op, "segment_nbytes": segment}
            one, other = (result(comm, executor, monkeypatch, array, **how) for executor in EXECUTORS)
            np.testing.assert_array_equal(bits(one), bits(other))


@pytest.mark.every_size
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_plan_runs_again_and_again_blocking_or_not(comm, monkeypatch, executor):
    monkeypatch.setenv(SWITCH, EXECUTORS[executor])
    values = distinct(SIZE, 20_000, "int64")
    buffer, out = values[RANK].copy(), np.empty(20_000, np.int64)
    plan = hpcdist.plan(comm, buffer, out, algorithm="ring", op="avg", segment_nbytes=8192)
    for run in range(1, 7):
        buffer[:] = values[RANK] * run
        if (run + RANK) % 3:
            plan()
        else:
            plan.start()
            while run % 2 and not plan.test():
                pass
            plan.wait()
        total = values.sum(axis=0) * run
        np.testing.assert_array_equal(out, np.trunc(total / SIZE).astype(np.int64))
    plan.close()


@pytest.mark.every_size
@pytest.mark.mpi(min_size=2)
def test_executors_can_be_mixed(comm, monkeypatch):
    monkeypatch.setenv(SWITCH, str(RANK % 2))
    for dtype in ("float32", "bfloat16"):
        array = values(dtype, 3001)
        hpcdist.plan(comm, array, algorithm="halving_doubling")()
        np.testing.assert_array_equal(bits(array), comm.bcast(bits(array)))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_message_of_the_wrong_length_is_an_error(monkeypatch, executor):
    """Two ranks with different counts, which `plan` refuses before it binds anything."""
    monkeypatch.setenv(SWITCH, EXECUTORS[executor])
    pair = COMM.Split(0 if RANK < 2 else MPI.UNDEFINED)
    if pair == MPI.COMM_NULL:
        return
    transport = transport_of(pair)
    buffer = np.zeros(4 + pair.rank)
    program = lower(algorithms.recursive_doubling(2), pair.rank, Layout(1, buffer.size), 1 << 20)
    bound = BoundProgram(program, transport, buffer)
    assert bound.executor == executor
    if pair.rank == 1:
        with pytest.raises(TransferError, match="rank 0 sent 32 bytes where 40 were due"):
            bound()
    else:
        with pytest.raises(MPI.Exception, match=r"(?i)truncat"):
            bound()
    with pytest.raises(RuntimeError, match="cannot run: its last run ended with"):
        bound()


@pytest.mark.mpi(min_size=2)
def test_without_numba_python_does_it_unless_that_was_ruled_out(comm, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, "hpcdist.executor.compiled", raising=False)
    monkeypatch.delenv(SWITCH, raising=False)
    plan = hpcdist.plan(comm, np.zeros(100), algorithm="ring")
    assert plan.executor == "python"
    plan()
    monkeypatch.setenv(SWITCH, "1")
    with pytest.raises(AgreedError, match=f"{SWITCH}=1, but there is no compiled code"):
        hpcdist.plan(comm, np.zeros(100), algorithm="ring")


@pytest.mark.every_size
@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("call", "known", "said"),
    [
        (hpcdist.plan, False, "the buffers cannot be bound"),
        (hpcdist.allreduce, True, "the buffers cannot be bound"),
        (hpcdist.allreduce, False, f"{SWITCH}=1, but there is no compiled code"),
    ],
)
def test_a_rank_that_cannot_bind_stops_all(comm, monkeypatch, call, known, said):
    buffer = np.full(100, 1)
    if known:  # so that the check before each one-line call is bound
        hpcdist.allreduce(comm, np.zeros(1))
    with monkeypatch.context() as patch:
        if RANK == SIZE - 1:
            patch.setitem(sys.modules, "numba", None)
            patch.delitem(sys.modules, "hpcdist.executor.compiled", raising=False)
            patch.setenv(SWITCH, "1")
        with pytest.raises(AgreedError, match=f"^rank {SIZE - 1}: {said}"):
            call(comm, buffer, algorithm="ring")
    hpcdist.allreduce(comm, buffer, algorithm="ring")
    assert (buffer == SIZE).all()


@pytest.mark.parametrize("switch", ["", "1"])
def test_flags_that_are_broken_on_one_rank_are_used_on_none(comm, monkeypatch, switch):
    monkeypatch.setenv(SWITCH, switch)
    if RANK == SIZE - 1:
        monkeypatch.setitem(sys.modules, "hpcdist.executor.intranode.bounce_kernel", None)
    if switch:
        with pytest.raises(AgreedError, match=f"^rank {SIZE - 1}: {SWITCH}=1, but there is no compiled code"):
            hpcdist.empty(100, "float16", comm)
    else:
        hpcdist.empty(100, "float16", comm)
        assert not transport_of(comm).compiled


@pytest.mark.mpi(min_size=2)
def test_arrays_out_of_alignment_are_left_to_python(comm, monkeypatch):
    monkeypatch.setenv(SWITCH, "1")
    array = np.frombuffer(bytearray(8 * 100 + 1), np.int64, offset=1)
    array[:] = RANK
    plan = hpcdist.plan(comm, array, algorithm="ring")
    assert plan.executor == "python"
    plan()
    assert (array == SIZE * (SIZE - 1) // 2).all()


def test_more_bytes_than_an_int_can_count_are_not_native():
    request = MPI.Request()
    assert _native(request, LARGEST_COUNT)
    assert _native(request, LARGEST_COUNT + 1) is None


def test_without_numba_or_with_it_the_switch_is_0_or_1(comm, monkeypatch):
    monkeypatch.setenv(SWITCH, "yes")
    with pytest.raises(AgreedError, match=f"{SWITCH} must be 0 or 1, not 'yes'"):
        hpcdist.plan(comm, np.zeros(100), algorithm="ring")
    with pytest.raises(AgreedError, match=f"{SWITCH} must be 0 or 1, not 'yes'"):
        hpcdist.empty(100, "float64", comm)
