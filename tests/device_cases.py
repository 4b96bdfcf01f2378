"""What is special to buffers in device memory: cases for the folders whose fixture `memory` is that of a device."""

import os
import time

import numpy as np
import pytest
from buffers import bits, bits_of_numbers, check, distinct
from collective_cases import COMM, LAST, RANK, SIZE, assert_same_bits, assert_same_error
from matrix import WHOLE

import hpcdist
from hpcdist import algorithms
from hpcdist.collectives.decide import SEGMENTS
from hpcdist.device import awareness, paths
from hpcdist.device.paths import AUTO, AWARE, PEER, STAGED
from hpcdist.errors import AgreedError
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.mpi.library import libraries
from hpcdist.tuning.table import Bracket, Rule, Selection

NEVER_DIRECT = {STAGED: "staged through host memory", AWARE: "this MPI takes device memory (HPCDIST_CUDA_AWARE=1)"}


@pytest.fixture
def auto(monkeypatch, memory):
    """No path is asked for; MPI is known to take device memory only on the aware path."""
    monkeypatch.delenv(paths.ENVIRONMENT)
    return AWARE if memory.path == AWARE else STAGED


@pytest.fixture
def unknown(monkeypatch, tmp_path):
    """Nothing is known of MPI."""
    monkeypatch.delenv(awareness.ENVIRONMENT)
    monkeypatch.setenv("XDG_CACHE_HOME", COMM.bcast(str(tmp_path)))


def same_everywhere(said):
    return COMM.allgather(said) == [said] * SIZE


def reduced(comm, memory, buffer, **how):
    """The result of a plan for a buffer of distinct values, which is right, and the plan."""
    values = distinct(SIZE, buffer.size, "int64")
    memory.fill(buffer, values[RANK])
    plan = hpcdist.plan(comm, buffer, **how)
    plan()
    np.testing.assert_array_equal(memory.get(buffer), values.sum(axis=0))
    return plan


def test_a_thread_goes_on_with_runs(comm, memory):
    values = distinct(SIZE, 30_000, "int64")
    for algorithm in ("ring", "auto"):
        buffer = memory.zeros(30_000, "int64")
        plan = hpcdist.plan(comm, buffer, algorithm=algorithm, segment_nbytes=8192)
        for _ in range(3):
            memory.fill(buffer, values[RANK])
            plan.start(progress="thread")
            while plan.running:
                time.sleep(0.001)
            np.testing.assert_array_equal(memory.get(buffer), values.sum(axis=0))
        plan.close()


# --- which path ---


@pytest.mark.every_size
def test_a_plan_says_which_path_it_takes_and_why(comm, memory):
    plan = reduced(comm, memory, memory.zeros(1000, "int64"))
    assert (plan.path, plan.why_path) == (memory.path, f"HPCDIST_PATH={memory.path}")
    assert same_everywhere((plan.path, plan.why_path, plan.algorithm, plan.why))


def test_auto_is_peer_and_shared_on_one_node(comm, memory, auto):
    plan = reduced(comm, memory, memory.zeros(1000, "int64"))
    assert (plan.path, plan.why_path) == (PEER, "the ranks of one node, which can open each other's device memory")
    assert plan.algorithm == ("shared" if SIZE > 1 else plan.algorithm)


def test_a_path_that_was_asked_for_counts_more_than_the_environment(comm, memory):
    plan = reduced(comm, memory, memory.zeros(1000, "int64"), path=STAGED, algorithm="ring")
    assert plan.path == STAGED
    assert plan.why_path == ("HPCDIST_PATH=staged" if memory.path == STAGED else "it was asked for")


@pytest.mark.every_size
def test_memory_that_cannot_be_opened_is_staged_and_named(comm, memory, auto):
    buffer = memory.pooled(1000, "int64") if RANK == LAST else memory.zeros(1000, "int64")
    plan = reduced(comm, memory, buffer)
    assert plan.path == STAGED
    assert f"rank {LAST}: it" in plan.why_path
    assert same_everywhere((plan.path, plan.why_path))
    assert plan.algorithm in algorithms.ALLREDUCE
    assert hpcdist.plan(comm, memory.zeros(1000, "int64"), buffer).path == STAGED


@pytest.mark.usefixtures("auto")
def test_memory_that_cannot_be_opened_though_it_seemed_so_is_staged(comm, memory, monkeypatch):
    def fails(share, dtype):
        raise RuntimeError("no peer access")

    if RANK == LAST:
        monkeypatch.setattr(memory.accelerator, "opened", fails)
    plan = reduced(comm, memory, memory.zeros(1000, "int64"))
    assert plan.path == (STAGED if SIZE > 1 else PEER)
    if SIZE > 1:
        assert f"rank {LAST}: cannot open the memory of rank 0: no peer access" in plan.why_path
        assert same_everywhere(plan.why_path)


@pytest.mark.every_size
def test_peer_and_aware_are_refused_for_memory_that_cannot_be_opened(memory):
    buffer = memory.pooled(12, "float64") if RANK == LAST else memory.zeros(12)
    assert_same_error(
        lambda: hpcdist.plan(COMM, buffer, path=PEER), f"path='peer' is not possible: rank {LAST}: it", "'staged'"
    )
    good = memory.zeros(12)
    assert_same_error(lambda: hpcdist.plan(COMM, good, buffer, path=PEER), f"not possible: rank {LAST}: ")
    if memory.path == AWARE:
        assert_same_error(lambda: hpcdist.plan(COMM, buffer, path=AWARE), f"not possible: rank {LAST}: it", "'staged'")


@pytest.mark.every_size
def test_aware_is_refused_where_it_is_not_known_that_mpi_takes_device_memory(comm, memory, unknown, monkeypatch):
    buffer = memory.zeros(12)
    assert_same_error(lambda: hpcdist.plan(comm, buffer, path=AWARE), "it is not known that", "hpcdist doctor")
    monkeypatch.setenv(paths.ENVIRONMENT, AWARE)
    assert_same_error(lambda: hpcdist.allreduce(comm, buffer), "it is not known that", "hpcdist doctor")
    monkeypatch.setenv(awareness.ENVIRONMENT, "0")
    assert_same_error(lambda: hpcdist.plan(comm, buffer, path=AWARE), "HPCDIST_CUDA_AWARE=0")
    monkeypatch.setenv(awareness.ENVIRONMENT, "yes")
    assert_same_error(lambda: hpcdist.plan(comm, buffer), "HPCDIST_CUDA_AWARE must be 0 or 1, not 'yes'")


@pytest.mark.every_size
def test_a_verdict_of_the_doctor_is_believed(comm, memory, unknown):
    if memory.path != AWARE:
        pytest.skip("this MPI cannot be handed device memory")
    COMM.Barrier()
    if RANK == 0:
        awareness.remember(next(iter(libraries()), ""), os.environ, True)
    COMM.Barrier()
    plan = reduced(comm, memory, memory.zeros(1000, "int64"), path=AWARE)
    assert plan.path == AWARE


def test_a_path_that_there_is_not_is_refused(memory, monkeypatch):
    buffer = memory.zeros(12)
    assert_same_error(
        lambda: hpcdist.plan(COMM, buffer, path="fast"), "there is no path 'fast'; choose from auto, staged"
    )
    monkeypatch.setenv(paths.ENVIRONMENT, "fast")
    assert_same_error(lambda: hpcdist.allreduce(COMM, buffer), "there is no path 'fast' (HPCDIST_PATH)")


def test_host_memory_has_no_path_to_choose(memory):
    assert hpcdist.plan(COMM, np.zeros(12)).path == "host"
    assert_same_error(
        lambda: hpcdist.plan(COMM, np.zeros(12), path=STAGED), "path='staged' is for buffers in device memory"
    )


@pytest.mark.every_size
@pytest.mark.mpi(min_size=2)
def test_ranks_that_ask_for_different_paths_hear_of_it(memory, auto, monkeypatch):
    buffer = memory.zeros(12)
    asked = STAGED if RANK == LAST else AUTO
    assert_same_error(lambda: hpcdist.plan(COMM, buffer, path=asked), f"rank {LAST}: path='staged'", "path='auto'")
    for _ in range(2):
        hpcdist.allreduce(COMM, buffer)  # both calls are known everywhere
        with monkeypatch.context() as patch:
            patch.setenv(paths.ENVIRONMENT, asked)
            assert_same_error(lambda: hpcdist.allreduce(COMM, buffer), f"rank {LAST}: path='staged'", "path='auto'")
            patch.setenv(paths.ENVIRONMENT, STAGED)
            hpcdist.allreduce(COMM, buffer)


def test_segments_are_those_of_the_path(comm, memory):
    assert hpcdist.plan(comm, memory.zeros(12), algorithm="ring").segment_nbytes == SEGMENTS[memory.path]
    assert hpcdist.plan(comm, memory.zeros(12), algorithm="ring", segment_nbytes=4096).segment_nbytes == 4096


@pytest.mark.every_size
def test_a_table_is_asked_for_this_memory_and_path(comm, memory):
    if memory.path == PEER:
        pytest.skip("is shared, whatever a table says")
    rules = [
        Rule(SIZE, 1, "int64", (Bracket(None, name, nbytes),), memory=kind, path=path)
        for name, nbytes, kind, path in (
            ("direct", 1024, memory.accelerator.kind, PEER),
            ("tree", 4096, memory.accelerator.kind, memory.path),
            ("ring", 2048, "host", "host"),
        )
    ]
    plan = reduced(comm, memory, memory.zeros(1000, "int64"), selection=Selection(tuple(rules)))
    assert (plan.algorithm, plan.segment_nbytes) == ("tree", 4096)


# --- the algorithm "shared" ---


@pytest.mark.parametrize("dtype", DTYPES)
def test_shared_reduces_in_the_order_of_the_ranks(comm, memory, dtype):
    if memory.path != PEER:
        pytest.skip("works in the memory of others")
    for count in sorted({0, 1, SIZE - 1, SIZE + 1, 5003}):
        for op in OPS if WHOLE or count == SIZE + 1 else OPS[(count + len(dtype)) % 5 :][:1]:
            values = distinct(SIZE, count, dtype, op)
            buffer, out = memory.put(values[RANK]), memory.put(values[RANK])
            plan = hpcdist.plan(comm, buffer, op=op, algorithm="shared")
            plan()
            hpcdist.allreduce(comm, buffer, "max", "shared", out=out)
            shared = hpcdist.empty(count, dtype, comm)
            shared[:] = values[RANK]
            hpcdist.plan(comm, shared, op=op, algorithm="shared")()
            if op == "avg" and shared.itemsize == 2:  # rounded before it is divided as well
                if count < 1000:  # beyond, the values of a 16-bit type are no longer all finite
                    check(memory.get(buffer), values, op)
                assert_same_bits(memory.get(buffer), comm)
            else:
                np.testing.assert_array_equal(bits_of_numbers(memory.get(buffer)), bits_of_numbers(shared))
            np.testing.assert_array_equal(bits(memory.get(out)), bits(memory.get(buffer)))
            plan.close()


def test_shared_is_refused_where_ranks_do_not_read_each_others_memory(memory, monkeypatch):
    monkeypatch.setenv(paths.ENVIRONMENT, AWARE if memory.path == AWARE else STAGED)
    buffer = memory.zeros(12)
    for call in (hpcdist.plan, hpcdist.allreduce):
        assert_same_error(
            lambda: call(COMM, buffer, algorithm="shared"),  # noqa: B023
            "algorithm='shared' works in memory that the ranks of a node share, but the path of the data is ",
            "Name another algorithm.",
        )


# --- arguments that cannot be used ---


@pytest.mark.every_size
@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("cached", [False, True], ids=["first", "cached"])
def test_host_and_device_memory_cannot_be_mixed(memory, cached):
    if cached:
        hpcdist.allreduce(COMM, memory.zeros(12))
        hpcdist.allreduce(COMM, np.zeros(12))
    buffer = np.zeros(12) if RANK == LAST else memory.zeros(12)
    said = f"rank {LAST}: memory='host'"
    assert_same_error(lambda: hpcdist.allreduce(COMM, buffer), said, f"memory='{memory.accelerator.kind}'")
    assert_same_error(lambda: hpcdist.plan(COMM, buffer), said)


@pytest.mark.parametrize("cached", [False, True], ids=["first", "cached"])
def test_input_and_result_must_be_in_the_same_memory(memory, cached):
    here, there = memory.zeros(12), np.zeros(12)
    if cached:
        hpcdist.allreduce(COMM, memory.zeros(12), out=memory.zeros(12))
        hpcdist.allreduce(COMM, np.zeros(12), out=np.zeros(12))
    for buffer, out, said in (
        (here, there, "out is in host memory, but buffer is in the memory of "),
        (there, here, "but buffer is in host memory"),
    ):
        last = out if RANK == LAST else (memory.zeros(12) if buffer is here else np.zeros(12))
        for call in (lambda: hpcdist.plan(COMM, buffer, last), lambda: hpcdist.allreduce(COMM, buffer, out=last)):  # noqa: B023
            assert_same_error(call, f"rank {LAST}: out is in ", said)


UNUSABLE = {
    "every other element": (lambda memory: memory.zeros(24)[::2], "is not contiguous (strides (16,))"),
    "complex numbers": (lambda memory: memory.put(np.zeros(12, complex)), "buffer has dtype complex128; supported are"),
}


@pytest.mark.parametrize("cached", [False, True], ids=["first", "cached"])
@pytest.mark.parametrize("what", UNUSABLE)
def test_a_device_buffer_that_cannot_be_used_on_one_rank_is_refused_on_all(memory, what, cached):
    make, said = UNUSABLE[what]
    if cached:
        hpcdist.allreduce(COMM, memory.zeros(12))
    buffer = make(memory) if RANK == LAST else memory.zeros(12)
    assert_same_error(lambda: hpcdist.allreduce(COMM, buffer), f"rank {LAST}: ", said)
    assert_same_error(lambda: hpcdist.plan(COMM, buffer), f"rank {LAST}: ", said)


def test_a_result_that_overlaps_the_input_is_refused(memory):
    whole = memory.zeros(20)
    assert_same_error(lambda: hpcdist.plan(COMM, whole[:12], whole[8:]), "out overlaps buffer")
    hpcdist.plan(COMM, whole[:10], whole[10:], algorithm="ring")()


# --- cached calls ---


def test_one_line_calls_notice_where_the_buffers_are_each_time(comm, memory, auto):
    values = distinct(SIZE, 3000, "int64")
    plain, pooled, host = memory.zeros(3000, "int64"), memory.pooled(3000, "int64"), np.empty(3000, np.int64)
    mixed, shared = pooled if RANK == LAST else plain, hpcdist.empty(3000, "int64", comm)
    elsewhere = host if RANK == LAST else shared
    for _ in range(3):
        for buffer in (plain, elsewhere, mixed, host, pooled, shared, mixed, elsewhere):
            on_host = isinstance(buffer, np.ndarray)
            if on_host:
                buffer[:] = values[RANK]
            else:
                memory.fill(buffer, values[RANK])
            assert hpcdist.allreduce(comm, buffer) is buffer
            np.testing.assert_array_equal(buffer if on_host else memory.get(buffer), values.sum(axis=0))


def test_a_failure_to_bind_on_one_rank_is_one_on_all(comm, memory, monkeypatch):
    def fails(*arguments):
        raise MemoryError("no device memory")

    with monkeypatch.context() as patch:
        if RANK == LAST:
            patch.setattr(memory.accelerator, "stream", fails)
        for call in (hpcdist.plan, hpcdist.allreduce):
            with pytest.raises(AgreedError, match=f"^rank {LAST}: the buffers cannot be bound: MemoryError: no device"):
                call(comm, memory.zeros(12), algorithm="ring")
    reduced(comm, memory, memory.zeros(1000, "int64"), algorithm="ring")
