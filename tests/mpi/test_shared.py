"""Arrays of hpcdist.empty: all-reduces in memory that the ranks of a node share, with compiled flags and without."""

import gc
import importlib.util
import os
import re
import threading
import time

import numpy as np
import pytest
from buffers import bits, bits_of_numbers, check, distinct, in_order, special
from mpi4py import MPI

import hpcdist
from hpcdist import algorithms
from hpcdist.collectives.decide import LEAST_WITHOUT_FLAGS
from hpcdist.errors import AgreedError, ArgumentError
from hpcdist.kernels.jit import SWITCH
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.transport import shared_memory
from hpcdist.transport.mpi import transport_of

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
LAST = SIZE - 1
FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind != "i"]
NODES = {
    "one node": [0] * SIZE,
    "two nodes": [int(rank > SIZE // 2) for rank in range(SIZE)],
    "cyclic": [rank % 3 for rank in range(SIZE)],
    "a node each": list(range(SIZE)),
}


@pytest.fixture(params=["flags", "messages"])
def waiting(request, monkeypatch):
    """How ranks wait for each other: by compiled flags, or as without Numba."""
    if request.param == "messages":
        monkeypatch.setenv(SWITCH, "0")
    elif importlib.util.find_spec("numba") is None:
        pytest.skip("needs Numba")
    return request.param


@pytest.fixture
def comm(waiting):
    """A communicator that no other test has arrays on."""
    duplicate = COMM.Dup()
    yield duplicate
    duplicate.Free()


def filled(comm, values):
    """This rank's row of `values` in an array that is shared."""
    array = hpcdist.empty(values[0].shape, values.dtype, comm)
    array[...] = values[comm.rank]
    return array


def same_everywhere(array, comm):
    return all(other == array.tobytes() for other in comm.allgather(array.tobytes()))


def left(comm):
    """How many allocations of a communicator are still there."""
    return len(transport_of(comm).home.windows)


# --- results ---


@pytest.mark.every_size
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_result_is_that_of_the_ranks_in_order_bit_for_bit(comm, dtype):
    array = hpcdist.empty(20_011, dtype, comm)
    for count in sorted({0, 1, SIZE - 1, SIZE + 1, 20_011}):
        buffer = array[:count]
        for op in OPS:
            values = distinct(SIZE, count, dtype, op)
            buffer[:] = values[RANK]
            plan = hpcdist.plan(comm, buffer, op=op, algorithm="shared")
            plan()
            np.testing.assert_array_equal(bits_of_numbers(buffer), bits_of_numbers(in_order(values, op)))
            if count < 1000:  # beyond, the values of a 16-bit type are no longer all finite
                check(buffer, values, op)
            plan.close()


@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_of_both_signs_infinities_and_nans_end_the_same_on_all_ranks(comm, dtype):
    array = hpcdist.empty(20_011, dtype, comm)
    for count in (1, 257, 20_011):
        with np.errstate(invalid="ignore"):  # ml_dtypes warns of NaNs that are cast
            values = special(SIZE, count, dtype, seed=count)
        for op in OPS:
            buffer = array[:count]
            buffer[:] = values[RANK]
            hpcdist.allreduce(comm, buffer, op, "shared")
            assert same_everywhere(buffer, comm)
            with np.errstate(invalid="ignore"):
                got, wanted = buffer.astype(np.float64), in_order(values, op).astype(np.float64)
            np.testing.assert_array_equal(got, wanted)
            if op in ("sum", "avg", "prod"):  # which of two zeros is the larger, or which of two NaNs wins, is open
                number = ~np.isnan(wanted)
                np.testing.assert_array_equal(np.signbit(got[number]), np.signbit(wanted[number]))


def test_sums_of_zeros_and_of_one_nan_keep_sign_and_payload(comm):
    nan = np.array([0x7FC0_1234], np.uint32).view(np.float32)
    values = np.full((SIZE, 5000), -0.0, np.float32)
    values[np.arange(5000) % SIZE, np.arange(5000)] = np.where(np.arange(5000) % 3 == 0, nan, -0.0)
    buffer = filled(comm, values)
    hpcdist.allreduce(comm, buffer)
    np.testing.assert_array_equal(bits(buffer), bits(in_order(values, "sum")))
    assert (bits(buffer[::3]) == 0x7FC0_1234).all()


@pytest.mark.every_size
@pytest.mark.paired(times=2)
@pytest.mark.parametrize("topology", NODES.values(), ids=NODES)
@pytest.mark.parametrize("outer", ["", ":ring"])
def test_several_nodes_share_memory_inside_and_send_messages_between(comm, topology, outer):
    for op, dtype, count in (("sum", "int64", 2011), ("avg", "float32", 5), ("prod", "bfloat16", 100)):
        values = distinct(SIZE, count, dtype, op)
        buffer = filled(comm, values)
        name = f"shared{outer}"
        plan = hpcdist.plan(comm, buffer, op=op, algorithm=name, topology=topology, segment_nbytes=8192)
        for _ in range(3):
            buffer[:] = values[RANK]
            plan()
            check(buffer, values, op)
        assert same_everywhere(buffer, comm)
        assert plan.algorithm == name
        assert plan.schedule.name == ("one_shot" if plan.executor == "bounce_buffers" else name)
        plan.close()


def test_an_array_has_any_shape(comm):
    for shape in ((), (1,), (3, 4, 5), (0, 7), 12):
        buffer = hpcdist.empty(shape, np.int64, comm)
        assert buffer.shape == np.empty(shape).shape
        buffer[...] = RANK
        assert hpcdist.allreduce(comm, buffer) is buffer
        assert (buffer == SIZE * LAST // 2).all()


def test_a_result_out_of_place_leaves_the_input_alone(comm):
    values = distinct(SIZE, 3000, "int64")
    out, shared = hpcdist.empty(3000, "int64", comm), filled(comm, values)
    for buffer in (shared, values[RANK].copy()):
        for topology in NODES.values():
            out[:] = -1
            plan = hpcdist.plan(comm, buffer, out, algorithm="shared", topology=topology)
            plan()
            plan.close()
            np.testing.assert_array_equal(out, values.sum(axis=0))
            np.testing.assert_array_equal(buffer, values[RANK])
        out[:] = -1
        assert hpcdist.allreduce(comm, buffer, algorithm="shared", out=out) is out
        np.testing.assert_array_equal(out, values.sum(axis=0))


@pytest.mark.parametrize("topology", [*NODES.values(), [*range(SIZE)]], ids=[*NODES, "each alone"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int64"])
def test_what_is_read_where_the_input_lies_is_combined_into_the_result(comm, dtype, topology):
    for op in ("sum", "max"):
        values = distinct(SIZE, 1300, dtype, op)
        buffer, out = filled(comm, values), hpcdist.empty(1300, values.dtype, comm)
        for name in ("shared", "shared:ring"):
            out[:] = 0
            plan = hpcdist.plan(comm, buffer, out, op=op, algorithm=name, topology=topology)
            plan()
            check(out, values, op)
            np.testing.assert_array_equal(buffer, values[RANK])
            plan.close()


# --- races ---


@pytest.mark.every_size
@pytest.mark.parametrize("topology", NODES.values(), ids=NODES)
@pytest.mark.parametrize("count", [1, 50_000])
def test_runs_back_to_back_see_no_value_of_another_run(comm, count, topology):
    values = distinct(SIZE, count, "int64")
    buffer, total = hpcdist.empty(count, "int64", comm), values.sum(axis=0)
    plan = hpcdist.plan(comm, buffer, algorithm="shared", topology=topology)
    for run in range(1, 25):
        buffer[:] = values[RANK] * run
        plan()
        wrong = np.flatnonzero(buffer != total * run)
        buffer[:] = -1  # at once: no other rank may still look
        assert not wrong.size, (run, wrong)
    plan.close()


def test_a_run_started_and_polled_ends_as_a_blocking_one(comm):
    values = distinct(SIZE, 20_000, "int64")
    buffer = hpcdist.empty(20_000, "int64", comm)
    for topology in NODES.values():
        plan = hpcdist.plan(comm, buffer, algorithm="shared", topology=topology)
        for _ in range(5):
            buffer[:] = values[RANK]
            plan.start(progress="calls")  # by a thread it could end before the next line but one
            if plan.running:
                with pytest.raises(RuntimeError, match="still running"):
                    plan()
            if RANK % 2:
                while not plan.test():
                    pass
            plan.wait()
            assert plan.test()
            np.testing.assert_array_equal(buffer, values.sum(axis=0))
        plan.close()


def test_nothing_is_complete_before_all_ranks_have_started(comm):
    buffer = hpcdist.empty(100, "int64", comm)
    buffer[:] = RANK
    plan = hpcdist.plan(comm, buffer, algorithm="shared")
    if RANK != LAST:
        plan.start()
        assert not any(plan.test() for _ in range(100))
    COMM.Barrier()
    if RANK == LAST:
        plan.start()
    plan.wait()
    assert (buffer == SIZE * LAST // 2).all()


@pytest.mark.every_size
def test_plans_started_in_another_order_on_each_rank_do_not_mix(comm):
    values = distinct(SIZE, 4000, "int64").reshape(SIZE, 4, 1000)
    buffers = filled(comm, values)
    plans = [hpcdist.plan(comm, buffer, algorithm="shared") for buffer in buffers]
    for turn in range(5):
        buffers[...] = values[RANK]
        for plan in (plans[RANK % 4 :] + plans[: RANK % 4])[:: -1 if turn % 2 else 1]:
            plan.start()
        unfinished = list(plans)
        while unfinished:
            unfinished = [plan for plan in unfinished if not plan.test()]
        np.testing.assert_array_equal(buffers, values.sum(axis=0))


def test_plans_in_turn_on_overlapping_parts_of_one_array(comm):
    values = distinct(SIZE, 3000, "int64")
    buffer = hpcdist.empty(3000, "int64", comm)
    low, high = buffer[:2000], buffer[1000:]
    plans = [hpcdist.plan(comm, part, op="max", algorithm="shared") for part in (low, high)]
    for turn in range(10):
        buffer[:] = values[RANK] + turn
        for plan in plans:
            plan()
        np.testing.assert_array_equal(buffer, values.max(axis=0) + turn)


def test_a_rank_that_waits_in_shared_memory_lets_its_messages_go_on(comm):
    """The others get rank 0's large message only while MPI has its turn there."""
    big = np.arange(1 << 20) + (RANK == 0)
    buffer = hpcdist.empty(10, "int64", comm)
    buffer[:] = 1
    plan = hpcdist.plan(comm, buffer, algorithm="shared")
    requests = [comm.Isend(big, rank) for rank in range(1, SIZE)] if RANK == 0 else []
    if RANK:
        comm.Recv(big, 0)
        assert big[-1] == 1 << 20
    plan()
    MPI.Request.Waitall(requests)
    assert (buffer == SIZE).all()


# --- who is registered ---


@pytest.mark.every_size
def test_auto_takes_shared_for_arrays_that_are(comm, waiting):
    for count in (1, LEAST_WITHOUT_FLAGS):
        plan = hpcdist.plan(comm, hpcdist.empty(count, "float64", comm))
        small = waiting == "messages" and count == 1
        assert (plan.algorithm == "shared") == (SIZE > 1 and not small)
        assert ("faster in messages" in plan.why) == small
        assert comm.allgather((plan.algorithm, plan.why)) == [(plan.algorithm, plan.why)] * SIZE


def test_algorithms_of_messages_work_on_shared_arrays_as_on_others(comm):
    values = distinct(SIZE, 5000, "int64")
    buffer = hpcdist.empty(5000, "int64", comm)
    for name in algorithms.ALLREDUCE:
        buffer[:] = values[RANK]
        plan = hpcdist.plan(comm, buffer, algorithm=name)
        plan()
        assert (plan.algorithm, plan.why) == (name, "it was asked for")
        np.testing.assert_array_equal(buffer, values.sum(axis=0))


def test_slices_count_if_all_ranks_take_the_same(comm):
    values = distinct(SIZE, 6000, "int64")
    buffer = hpcdist.empty((3, 4000), "int64", comm)
    part = buffer.reshape(-1)[1003:7003]
    part[:] = values[RANK]
    buffer[0, :1003] = buffer[1, 3003:] = 5
    plan = hpcdist.plan(comm, part, algorithm="shared")
    plan()
    np.testing.assert_array_equal(part, values.sum(axis=0))
    assert (buffer[0, :1003] == 5).all()
    assert (buffer[1, 3003:] == 5).all()


def unequal(kind, comm):
    """A buffer of 10000 elements that all ranks but the last have at the same place; and why they are not alike."""
    shared, other = hpcdist.empty(10_001, "int64", comm), hpcdist.empty(10_001, "int64", comm)
    last = {"not shared": np.empty(10_000, np.int64), "elsewhere": shared[1:], "another": other[:-1]}[kind]
    return last if RANK == LAST else shared[:-1]


WHY = {
    "not shared": f"the result of rank {LAST} does not lie in an array of hpcdist.empty",
    "elsewhere": f"rank {LAST} at byte 8",
    "another": "arrays of different calls of hpcdist.empty",
}


@pytest.mark.every_size
@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", WHY)
def test_ranks_whose_arrays_are_not_alike_do_not_work_in_them_and_say_why(comm, waiting, kind):
    values = distinct(SIZE, 10_000, "int64")
    buffer = unequal(kind, comm)
    buffer[:] = values[RANK]
    plan = hpcdist.plan(comm, buffer)
    assert plan.executor == ("bounce_buffers" if waiting == "flags" else "python")
    assert WHY[kind] in plan.why
    plan()
    np.testing.assert_array_equal(buffer, values.sum(axis=0))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", WHY)
def test_one_line_calls_notice_where_the_arrays_lie_each_time(comm, waiting, kind):
    values = distinct(SIZE, 10_000, "int64")
    alike, different = hpcdist.empty(10_000, "int64", comm), unequal(kind, comm)
    for _ in range(3):
        for buffer in (alike, different, np.empty(10_000, np.int64), different, alike[:], alike[::-1][::-1]):
            buffer[:] = values[RANK]
            hpcdist.allreduce(comm, buffer)
            np.testing.assert_array_equal(buffer, values.sum(axis=0))
    bounced = [collective.decision.bounced for collective in transport_of(comm).cache.values()]
    assert sorted(bounced) == ([False, True, True] if waiting == "flags" else [False, False, False])
    if waiting == "messages":
        with pytest.raises(ArgumentError) as raised:
            hpcdist.allreduce(comm, different, algorithm="shared")
        assert comm.allgather(str(raised.value)) == [str(raised.value)] * SIZE
        assert WHY[kind] in str(raised.value)


@pytest.mark.mpi(min_size=2)
def test_shared_is_refused_for_arrays_that_are_not(comm, waiting):
    several, zeros = NODES["a node each"], np.zeros(5)
    for call in (
        lambda: hpcdist.plan(comm, zeros, algorithm="shared", topology=several),
        lambda: hpcdist.plan(comm, hpcdist.empty(5, "float64", comm), zeros, algorithm="shared:ring", topology=several),
        *([lambda: hpcdist.allreduce(comm, zeros, algorithm="shared")] if waiting == "messages" else []),
    ):
        with pytest.raises(ArgumentError, match=r"no rank's result lies in an array of hpcdist\.empty; and .*Make"):
            call()
    with pytest.raises(ArgumentError, match="no reduce-scatter called 'shared'"):
        hpcdist.reduce_scatter(comm, np.zeros(5), algorithm="shared")


@pytest.mark.mpi(min_size=2)
def test_an_input_shared_on_some_ranks_only_is_not_worked_on_where_it_lies(comm):
    values = distinct(SIZE, 2000, "int64")
    out, shared = hpcdist.empty(2000, "int64", comm), filled(comm, values)
    buffer = values[RANK].copy() if RANK == LAST else shared
    plan = hpcdist.plan(comm, buffer, out)
    assert "the ranks' inputs do not lie at the same place" in plan.why
    plan()
    np.testing.assert_array_equal(out, values.sum(axis=0))


@pytest.mark.every_size
def test_sub_communicators_share_the_arrays_of_the_whole(comm):
    half = comm.Split(RANK % 2, -RANK)
    mine = half.allgather(RANK)
    values = distinct(SIZE, 3000, "int64")
    buffer = filled(comm, values)
    plans = [hpcdist.plan(c, buffer, op="max", algorithm="shared") for c in (half, comm)]
    for _ in range(5):
        buffer[:] = values[RANK]
        plans[0]()
        np.testing.assert_array_equal(buffer, values[mine].max(axis=0))
        comm.Barrier()
        plans[1]()
        np.testing.assert_array_equal(buffer, values.max(axis=0))
    half.Free()


@pytest.mark.mpi(min_size=2)
def test_an_array_of_a_part_is_no_array_of_the_whole(comm):
    half = comm.Split(RANK % 2)
    buffer = hpcdist.empty(10, "int64", half)
    buffer[:] = RANK
    plan = hpcdist.plan(comm, buffer)
    assert "arrays of different calls of hpcdist.empty" in plan.why
    plan()
    assert (buffer == SIZE * LAST // 2).all()
    half.Free()


# --- lifetime ---


def test_memory_is_given_back_once_no_rank_refers_to_it(comm):
    array = hpcdist.empty(1000, "float64", comm)
    kept = array[10:20] if RANK == LAST else None
    array[:] = RANK
    hpcdist.allreduce(comm, array)  # cached with its buffers
    del array
    assert hpcdist.release(comm) == 0
    if kept is not None:
        assert (kept == SIZE * LAST / 2).all()
    del kept
    assert hpcdist.release(comm) == 8192
    assert hpcdist.release(comm) == 0


def test_a_loop_that_allocates_and_forgets_does_not_leak(comm):
    first = hpcdist.empty(10, "int64", comm)
    first[:] = RANK
    for number in range(20):
        array = hpcdist.empty(100, "int64", comm)
        array[:] = RANK + number
        hpcdist.allreduce(comm, array)
        plan = hpcdist.plan(comm, array, op="max", algorithm="shared")
        plan()
        plan.close()
        assert array[0] == SIZE * LAST // 2 + SIZE * number
        assert left(comm) <= 6
    assert (first == RANK).all()


def test_a_plan_keeps_its_array_until_it_is_closed(comm):
    buffer = hpcdist.empty(1000, "int64", comm)
    plan = hpcdist.plan(comm, buffer, algorithm="shared")
    buffer[:] = 1
    del buffer
    assert hpcdist.release(comm) == 0
    plan()
    plan.close()
    with pytest.raises(RuntimeError, match="it was closed"):
        plan()
    assert hpcdist.release(comm) == 8192


def test_arrays_outlive_their_communicator_and_garbage_is_collected_alone(waiting):
    comm = COMM.Dup()
    array = hpcdist.empty(100, "int64", comm)
    plan = hpcdist.plan(comm, array, algorithm="shared")
    array[:] = 1
    plan()
    comm.Free()
    with pytest.raises(RuntimeError, match="it was closed"):
        plan()
    assert (array == SIZE).all()
    plan.close()
    if RANK == 0:
        del array, plan
        gc.collect()
    COMM.Barrier()


@pytest.mark.parametrize("op", ["sum", "avg"])
def test_a_closed_plan_of_messages_gives_its_array_back(comm, op):
    array = hpcdist.empty(1000, "float64", comm)
    array[:] = RANK
    plan = hpcdist.plan(comm, array, algorithm="ring", op=op)
    plan()
    plan.close()
    del array
    assert hpcdist.release(comm) == 8192


@pytest.mark.parametrize("algorithm", ["shared", "ring"])
def test_arrays_of_one_line_calls_go_with_their_communicator(waiting, algorithm):
    comm = COMM.Dup()
    array = hpcdist.empty(1000, "float64", comm)
    array[:] = RANK
    hpcdist.allreduce(comm, array, algorithm=algorithm)
    home = transport_of(comm).home
    del array
    comm.Free()
    assert home.windows == []


@pytest.mark.parametrize("kind", ["line", "bcast", "plan", "plan of messages", "kept plan", "empty", "plan of empty"])
def test_a_communicator_that_is_freed_gives_everything_back(waiting, kind):
    x, kept = np.ones(20_000, np.float32), []
    for _ in range(3):
        comm = COMM.Dup()
        transport = transport_of(comm)
        y = hpcdist.empty(5000, np.float32, comm) if "empty" in kind else x
        y[:] = 1
        if kind == "bcast":
            hpcdist.bcast(comm, y)
        elif kind in ("line", "empty"):
            hpcdist.allreduce(comm, y)
        else:
            plan = hpcdist.plan(comm, y, algorithm="ring" if kind == "plan of messages" else "auto")
            plan()
            kept += [plan] if kind == "kept plan" else []
            del plan
        del y
        home = transport.home
        comm.Free()
        assert transport.freed
        assert not transport.plans
        assert home is None or home.windows == []


def test_a_plan_still_running_is_not_closed(comm):
    buffer = hpcdist.empty(100, "int64", comm)
    buffer[:] = 1
    plan = hpcdist.plan(comm, buffer, algorithm="shared")
    started = SIZE > 1 and RANK == LAST
    if started:
        plan.start()
    if SIZE > 1:
        with pytest.raises(AgreedError, match=f"rank {LAST}: the plan is still running"):
            plan.close()
    plan.wait() if started else plan()
    plan.close()
    plan.close()
    assert (buffer == SIZE).all()


def test_a_tag_used_again_by_another_plan_works(comm):
    values = distinct(SIZE, 500, "int64")
    for turn in range(5):
        buffer = filled(comm, values)
        plan = hpcdist.plan(comm, buffer, algorithm="ring" if turn % 2 else "shared")
        for _ in range(turn + 1):
            buffer[:] = values[RANK]
            plan()
            np.testing.assert_array_equal(buffer, values.sum(axis=0))
        plan.close()


def test_more_plans_than_a_page_has_flags(comm, monkeypatch):
    monkeypatch.setattr(shared_memory, "SLOTS", 4)
    buffer = hpcdist.empty((12, 10), "int64", comm)
    plans = [hpcdist.plan(comm, part, algorithm="shared") for part in buffer]
    buffer[...] = 1
    for plan in plans[::-1]:
        plan()
    assert (buffer == SIZE).all()


# --- arguments and room ---


@pytest.mark.parametrize(
    ("shape", "dtype", "said"),
    [
        (-1, "float64", "negative size"),
        ((3, 2.5), "float64", "make no array"),
        (3, "complex128", "dtype complex128 is not supported; choose from float64"),
        (3, "nonsense", "make no array"),
    ],
)
def test_arguments_that_make_no_array_are_refused_on_all_ranks(comm, shape, dtype, said):
    with pytest.raises(ArgumentError, match=f"rank {LAST}: .*{said}"):
        hpcdist.empty(shape if RANK == LAST else 3, dtype if RANK == LAST else "float64", comm)
    assert hpcdist.empty(3, "float64", comm).shape == (3,)


@pytest.mark.mpi(min_size=2)
def test_ranks_that_ask_for_different_sizes_hear_of_it(comm):
    with pytest.raises(ArgumentError, match=f"rank {LAST}: count=11"):
        hpcdist.empty(11 if RANK == LAST else 10, "float64", comm)


def test_an_array_for_which_there_is_no_room_is_refused_with_numbers(comm, monkeypatch):
    hpcdist.empty(1, "float64", comm)
    before = left(comm)
    monkeypatch.setattr(shared_memory, "free_memory", lambda where: (3 << 20, 8 << 30))
    with pytest.raises(AgreedError) as raised:
        hpcdist.empty(1 << 20, "float64", comm)
    text = str(raised.value)
    assert "an array of 8 MiB takes 8 MiB for each of" in text
    assert "/dev/shm has 3 MiB free" in text
    assert comm.allgather(text) == [text] * SIZE
    monkeypatch.setattr(shared_memory, "free_memory", lambda where: (8 << 30, 1 << 20))
    with pytest.raises(AgreedError, match="1 MiB is available"):
        hpcdist.empty(1 << 20, "float64", comm)
    assert left(comm) <= before


def test_memory_that_mpi_cannot_make_on_one_rank_is_an_error_on_all(comm, monkeypatch):
    def window_of(home, nbytes):
        raise OSError("No space left") if RANK == LAST else MemoryError("no memory")

    hpcdist.empty(1, "float64", comm)
    with monkeypatch.context() as patch:
        patch.setattr(shared_memory, "Window", window_of)
        with pytest.raises(AgreedError, match=f"rank {LAST}: MPI made no shared memory for an array of 8 KiB: OSError"):
            hpcdist.empty(1024, "float64", comm)
    assert hpcdist.empty(1024, "float64", comm).nbytes == 8192


def test_room_taken_by_others_at_the_same_moment_is_an_error_and_no_crash(comm, monkeypatch):
    monkeypatch.setattr(shared_memory, "_populate", lambda memory: RANK != LAST)
    with pytest.raises(AgreedError, match=f"rank {LAST}: the room for an array of 8 KiB was taken"):
        hpcdist.empty(1024, "float64", comm)
    monkeypatch.undo()
    assert left(comm) == 0
    assert hpcdist.empty(1024, "float64", comm).nbytes == 8192


def test_more_than_dev_shm_can_hold_is_refused(comm):
    free = os.statvfs("/dev/shm")
    with pytest.raises(AgreedError, match="of shared memory, but"):
        hpcdist.empty(free.f_blocks * free.f_frsize + (1 << 40), "float64", comm)


# --- the watchdog ---


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("topology", [NODES["one node"], NODES["two nodes"]], ids=["one node", "two nodes"])
def test_who_is_waited_for_is_told(comm, tmp_path, topology):
    """Rank 0 waits in its run; a thread of it writes down what the watchdog sees, for which the last rank waits."""
    seen = comm.bcast(tmp_path / "seen")
    buffer = hpcdist.empty(10_000, "float64", comm)
    plan = hpcdist.plan(comm, buffer, algorithm="shared", topology=topology)
    assert plan.bound.progress() is None

    def look():
        while plan.bound.progress() is None or not re.search("have its input ready|receive", plan.bound.describe()):
            time.sleep(0.001)
        seen.with_suffix(".new").write_text(plan.bound.describe())
        seen.with_suffix(".new").rename(seen)

    if RANK == 0:
        threading.Thread(target=look).start()
    while RANK == LAST and not seen.exists():
        time.sleep(0.001)
    plan()
    assert f"rank 0 of {SIZE} in shared (sum, float64, 80000 bytes, run 1), step" in seen.read_text()
    assert plan.bound.progress() is None
    assert "between two runs" in plan.bound.describe()
