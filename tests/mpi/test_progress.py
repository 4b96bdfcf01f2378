"""Plans that a thread goes on with while their callers do something else."""

import contextlib
import time

import numpy as np
import pytest
from buffers import distinct
from collective_cases import LAST, RANK, SIZE
from mpi4py import MPI

import hpcdist
from hpcdist.mpi.cvars import Control, value_of

pytestmark = pytest.mark.mpi

COUNTS = (0, 1, 1000, 200_001)


def until_done(*plans):
    """Without a look of the caller's."""
    while any(plan.running for plan in plans):
        time.sleep(0.001)


def buffer_of(values, comm, shared):
    if not shared:
        return values[RANK].copy()
    buffer = hpcdist.empty(values.shape[1], values.dtype, comm)
    buffer[:] = values[RANK]
    return buffer


@pytest.mark.parametrize("algorithm", ["ring", "halving_doubling", "binary_blocks", "direct", "auto"])
@pytest.mark.parametrize("shared", [False, True], ids=["ordinary", "empty"])
def test_a_run_is_completed_by_the_thread_alone(comm, algorithm, shared):
    for count in COUNTS:
        values = distinct(SIZE, count, "int64")
        buffer = buffer_of(values, comm, shared)
        plan = hpcdist.plan(comm, buffer, algorithm=algorithm, segment_nbytes=64 << 10)
        for _ in range(3):
            buffer[:] = values[RANK]
            plan.start(progress="thread")
            until_done(plan)
            np.testing.assert_array_equal(buffer, values.sum(axis=0))
            assert plan.test()
            plan.wait()
        plan.close()


def test_runs_by_the_thread_by_calls_and_at_once_in_any_order(comm):
    values = distinct(SIZE, 30_000, "int64")
    total = values.sum(axis=0)
    buffer = np.zeros_like(values[0])
    for algorithm in ("ring", "auto"):
        plan = hpcdist.plan(comm, buffer, algorithm=algorithm, segment_nbytes=4096)
        for number in range(60):
            buffer[:] = values[RANK]
            how = (number + RANK) % 4  # each rank in its own way
            if how == 3:
                plan()
            else:
                plan.start(progress="thread" if how else "calls")
                if how == 2:
                    while not plan.test():  # and no wait()
                        pass
                else:
                    plan.wait()
            np.testing.assert_array_equal(buffer, total)
        plan.close()


@pytest.mark.every_size
def test_several_plans_at_once_in_another_order_on_each_rank(comm):
    values = distinct(SIZE, 50_000, "int64")
    buffers = [values[RANK] * factor for factor in range(1, 5)]
    plans = [
        hpcdist.plan(comm, buffer, algorithm=name)
        for buffer, name in zip(buffers, ("ring", "binary_blocks", "auto", "ring"), strict=True)
    ]
    order = plans[RANK % 4 :] + plans[: RANK % 4]
    for plan in order:
        plan.start(progress="thread")
    until_done(*plans)
    for factor, buffer in enumerate(buffers, 1):
        np.testing.assert_array_equal(buffer, factor * values.sum(axis=0))


def test_other_calls_of_the_caller_go_on_beside_the_thread(comm):
    values = distinct(SIZE, 100_000, "int64")
    buffer = values[RANK].copy()
    plan = hpcdist.plan(comm, buffer, algorithm="ring", segment_nbytes=8192)
    for _ in range(20):
        buffer[:] = values[RANK]
        plan.start(progress="thread")
        assert comm.allreduce(RANK) == SIZE * (SIZE - 1) // 2
        mine = np.full(100, RANK, np.int64)
        hpcdist.allreduce(comm, mine, "max")
        assert (mine == LAST).all()
        plan.wait()
        np.testing.assert_array_equal(buffer, values.sum(axis=0))
    plan.close()


def test_the_library_allows_threads_still_when_arrays_of_empty_were_made_and_its_variables_read(comm):
    level = MPI.Query_thread()
    hpcdist.empty(10, "float32", comm)
    value_of("mpi_yield_when_idle")
    with contextlib.suppress(LookupError):
        Control("mpi_yield_when_idle")
    assert MPI.Query_thread() == level


@pytest.mark.skipif(SIZE == 1, reason="a lone rank is done at once")
def test_what_the_thread_has_cannot_be_run_again_or_closed(comm):
    buffer = np.zeros(1000)
    plan = hpcdist.plan(comm, buffer, algorithm="ring")
    if RANK == 0:
        plan.start(progress="thread")
        with pytest.raises(RuntimeError, match="still running"):
            plan()
        with pytest.raises(RuntimeError, match="still running"):
            plan.start(progress="thread")
    with pytest.raises(hpcdist.AgreedError, match="still running"):
        plan.close()
    if RANK != 0:
        plan.start(progress="thread")
    plan.wait()
    plan.close()
