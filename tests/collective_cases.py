"""What the collectives must do, wherever the buffers are: cases for the folders that have a fixture `memory`.

With messages on both sides of the size up to which an MPI buffers them.
"""

import gc
import weakref

import numpy as np
import pytest
from buffers import bits, check, distinct, special
from matrix import WHOLE
from mpi4py import MPI

import hpcdist
from hpcdist import algorithms
from hpcdist.collectives.plan import CACHED_BUFFERS
from hpcdist.collectives.plan_cache import CACHED_PLANS
from hpcdist.device.paths import HOST
from hpcdist.errors import AgreedError, ArgumentError
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.transport.mpi import transport_of

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
LAST = SIZE - 1
AROUND_EAGER = {"64 B": 8, "4 KiB": 512, "32 KiB": 4096, "1 MiB": 131072}  # float64 elements
FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind != "i"]
SCATTERING = ["ring", "direct"] + ["halving_doubling", "binary_blocks"] * (SIZE & (SIZE - 1) == 0)


def assert_same_bits(array, comm=COMM):
    first = comm.bcast(bits(array))
    np.testing.assert_array_equal(bits(array), first)


def assert_same_error(call, *needed):
    """That all ranks raise an ArgumentError with one and the same text, and that the communicator still works."""
    with pytest.raises(ArgumentError) as raised:
        call()
    text = str(raised.value)
    assert COMM.allgather(text) == [text] * SIZE
    for part in needed:
        assert part in text
    assert hpcdist.allreduce(COMM, np.array([RANK]))[0] == SIZE * (SIZE - 1) // 2


# --- results ---


@pytest.mark.every_size
@pytest.mark.paired(times=2)
@pytest.mark.parametrize("count", AROUND_EAGER.values(), ids=AROUND_EAGER)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_a_plan_gives_every_rank_the_sum_each_time_it_runs(comm, memory, name, count):
    values = distinct(SIZE, count, "int64")
    buffer = memory.zeros(count, "int64")
    plan = hpcdist.plan(comm, buffer, algorithm=name, segment_nbytes=65536)
    assert plan.path == memory.path
    for run in range(1, 4):
        memory.fill(buffer, values[RANK] * run)
        plan()
        np.testing.assert_array_equal(memory.get(buffer), values.sum(axis=0) * run)
    plan.close()


@pytest.mark.parametrize("name", [*algorithms.ALLREDUCE, "auto", "hierarchical:tree+ring"])
def test_a_result_out_of_place_leaves_the_input_alone(comm, memory, name):
    values = distinct(SIZE, 1000, "int64")
    buffer, out = memory.put(values[RANK]), memory.zeros(1000, "int64")
    assert hpcdist.allreduce(comm, buffer, algorithm=name, out=out) is out
    np.testing.assert_array_equal(memory.get(out), values.sum(axis=0))
    np.testing.assert_array_equal(memory.get(buffer), values[RANK])


@pytest.mark.every_size
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_counts_that_leave_ranks_without_elements_work(comm, memory, name):
    for count in sorted({0, 1, SIZE - 1, SIZE + 1}):
        values = distinct(SIZE, count, "float64")
        result = hpcdist.allreduce(comm, memory.put(values[RANK]), algorithm=name)
        check(memory.get(result), values, "sum")


@pytest.mark.paired(times=2)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_operation_is_right_and_the_same_on_all_ranks(comm, memory, dtype, op):
    for name in ("ring", "recursive_doubling", "binary_blocks"):
        values = distinct(SIZE, 13, dtype, op)
        result = memory.get(hpcdist.allreduce(comm, memory.put(values[RANK]), op, name))
        check(result, values, op)
        assert_same_bits(result)


@pytest.mark.every_size
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_all_ranks_get_the_same_bits_of_sums_that_depend_on_the_order(comm, memory, name):
    values = np.random.default_rng(7).normal(size=(SIZE, 10_007)).astype(np.float32)
    nodes = [rank % 2 for rank in range(SIZE)]
    buffer = memory.put(values[RANK])
    hpcdist.plan(comm, buffer, algorithm=name, topology=nodes, segment_nbytes=4096)()
    result = memory.get(buffer)
    check(result, values, "sum")
    assert_same_bits(result)


@pytest.mark.paired(times=2)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_zeros_of_both_signs_infinities_and_nans_end_the_same_on_all_ranks(comm, memory, name, dtype):
    for op in OPS:
        for count in (1, 257):
            buffer = memory.put(special(SIZE, count, dtype, seed=count)[RANK])
            assert_same_bits(memory.get(hpcdist.allreduce(comm, buffer, op, name)))


def test_no_alignment_of_a_buffer_changes_a_bit(comm, memory):
    values = special(SIZE, 100, "float32")
    whole = memory.zeros(200, "float32")
    part = whole[RANK % 5 : RANK % 5 + 100]
    memory.fill(part, values[RANK])
    hpcdist.allreduce(comm, part, algorithm="recursive_doubling")
    assert_same_bits(memory.get(part))


def test_a_plan_for_a_part_of_an_array_touches_no_other_part(comm, memory):
    values = distinct(SIZE, 6000, "int64")
    whole = memory.zeros(10_000, "int64")
    part = whole[1003:7003]
    for name in ("auto", "ring"):
        memory.fill(part, values[RANK])
        hpcdist.plan(comm, part, algorithm=name)()
        wanted = np.zeros(10_000, np.int64)
        wanted[1003:7003] = values.sum(axis=0)
        np.testing.assert_array_equal(memory.get(whole), wanted)


def test_buffers_of_any_shape_are_combined_element_by_element(comm, memory):
    values = distinct(SIZE, 24, "int32").reshape(SIZE, 2, 3, 4)
    result = hpcdist.allreduce(comm, memory.put(values[RANK]))
    assert result.shape == (2, 3, 4)
    np.testing.assert_array_equal(memory.get(result), values.sum(axis=0))


@pytest.mark.every_size
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_a_run_started_and_polled_ends_as_a_blocking_one(comm, memory, name):
    values = distinct(SIZE, 20_000, "int64")
    buffer = memory.put(values[RANK])
    plan = hpcdist.plan(comm, buffer, algorithm=name, segment_nbytes=8192)
    plan.start()
    if RANK % 2:
        while not plan.test():
            pass
    plan.wait()
    assert plan.test()
    np.testing.assert_array_equal(memory.get(buffer), values.sum(axis=0))
    plan.close()


# --- the relatives ---


@pytest.mark.every_size
@pytest.mark.parametrize("count", [0, 1, SIZE - 1, 1000, 40_000])
def test_reduce_scatter_leaves_part_r_at_rank_r(comm, memory, count):
    values = distinct(SIZE, count, "int64")
    for name in SCATTERING:
        for op in ("sum", "avg", "max"):
            part = hpcdist.reduce_scatter(comm, memory.put(values[RANK]), op, name)
            check(memory.get(part), values[:, count * RANK // SIZE : count * (RANK + 1) // SIZE], op)


@pytest.mark.every_size
@pytest.mark.parametrize("count", [0, 1, SIZE - 1, 1000, 40_000])
def test_allgather_brings_part_r_of_rank_r_to_all(comm, memory, count):
    values = distinct(SIZE, count, "float32")
    wanted = np.concatenate([hpcdist.own_part(values[rank], rank, SIZE) for rank in range(SIZE)])
    for name in SCATTERING:
        result = hpcdist.allgather(comm, memory.put(values[RANK]), name)
        np.testing.assert_array_equal(memory.get(result), wanted)


@pytest.mark.every_size
@pytest.mark.parametrize("root", sorted({0, SIZE // 2, LAST}))
def test_bcast_brings_what_the_root_has_to_all(comm, memory, root):
    for count in (0, 1, 40_000):
        values = distinct(SIZE, count, "float64")
        result = hpcdist.bcast(comm, memory.put(values[RANK]), root)
        np.testing.assert_array_equal(memory.get(result), values[root])


@pytest.mark.every_size
@pytest.mark.parametrize("root", sorted({0, SIZE // 2, LAST}))
def test_reduce_leaves_the_result_at_the_root(comm, memory, root):
    for op in OPS:
        values = distinct(SIZE, 1000, "float64", op)
        result = hpcdist.reduce(comm, memory.put(values[RANK]), op, root)
        if root == RANK:
            check(memory.get(result), values, op)


@pytest.mark.every_size
@pytest.mark.parametrize("each", [0, 1, 3, 5000])
def test_alltoall_moves_every_part_to_its_rank_and_place(comm, memory, each):
    values = distinct(SIZE, each * SIZE, "int64")
    buffer, out = memory.put(values[RANK]), memory.put(np.full(each * SIZE, -1))
    assert hpcdist.alltoall(comm, buffer, out) is out
    np.testing.assert_array_equal(memory.get(out), values.reshape(SIZE, SIZE, each)[:, RANK].ravel())
    np.testing.assert_array_equal(memory.get(buffer), values[RANK])


# --- several communicators, plans and messages at once ---


@pytest.mark.every_size
def test_sub_communicators_work_by_themselves_and_beside_the_whole(comm, memory):
    half = comm.Split(RANK % 2, -RANK)
    mine = half.allgather(RANK)
    values = distinct(SIZE, 5000, "int64")
    inside, across = memory.put(values[RANK]), memory.put(values[RANK])
    plan = hpcdist.plan(comm, across, algorithm="ring")
    plan.start()
    hpcdist.allreduce(half, inside, algorithm="halving_doubling" if RANK % 2 else "ring")
    plan.wait()
    np.testing.assert_array_equal(memory.get(inside), values[mine].sum(axis=0))
    np.testing.assert_array_equal(memory.get(across), values.sum(axis=0))
    half.Free()


@pytest.mark.every_size
def test_plans_on_one_and_several_communicators_run_at_the_same_time(comm, memory):
    other = comm.Dup()
    names = algorithms.ALLREDUCE
    values = distinct(SIZE, 3000 * len(names), "int64").reshape(SIZE, len(names), 3000)
    buffers = memory.put(values[RANK])
    places = [comm if number % 2 else other for number in range(len(names))]
    plans = [hpcdist.plan(c, buffers[n], algorithm=name) for n, (c, name) in enumerate(zip(places, names, strict=True))]
    for plan in plans:
        plan.start()
    unfinished = plans[RANK % len(plans) :] + plans[: RANK % len(plans)]
    while unfinished:
        unfinished = [plan for plan in unfinished if not plan.test()]
    np.testing.assert_array_equal(memory.get(buffers), values.sum(axis=0))
    other.Free()


def test_messages_of_the_user_on_the_same_communicator_are_not_touched(comm, memory):
    """A receive of anything from anyone stays open during a plan's runs, and gets the user's message alone."""
    letter = np.full(1, -1)
    request = comm.Irecv(letter, MPI.ANY_SOURCE, MPI.ANY_TAG)
    plan = hpcdist.plan(comm, memory.put(np.arange(5000) + RANK), algorithm="ring")
    for _ in range(3):
        plan()
    assert letter[0] == -1
    comm.Barrier()
    comm.Send(np.array([RANK]), (RANK + 1) % SIZE, plan.collective.tag)
    plan()
    status = MPI.Status()
    request.Wait(status)
    assert letter[0] == (RANK - 1) % SIZE
    assert status.tag == plan.collective.tag
    plan.close()


def test_hundreds_of_plans_can_be_open_and_closed_ones_give_their_tags_back(comm, memory):
    number = 300 if WHOLE or memory.path == HOST else 60
    values = distinct(SIZE, number, "int64")
    total = np.repeat(values.sum(axis=0), 2).reshape(number, 2)
    buffers = memory.put(np.repeat(values[RANK], 2).reshape(number, 2))
    plans = [hpcdist.plan(comm, buffers[row], algorithm="recursive_doubling") for row in range(number)]
    assert len({plan.collective.tag for plan in plans}) == number
    for plan in plans[::-1]:
        plan()
    np.testing.assert_array_equal(memory.get(buffers), total)
    for plan in plans[::2]:
        plan.close()
    for plan in plans[1::2]:
        plan()
    np.testing.assert_array_equal(memory.get(buffers)[1::2], SIZE * total[1::2])
    again = hpcdist.plan(comm, buffers[0], algorithm="ring")
    assert again.collective.tag in {plan.collective.tag for plan in plans[::2]}


def test_a_closed_plan_cannot_run(comm, memory):
    plan = hpcdist.plan(comm, memory.zeros(4))
    plan.close()
    with pytest.raises(RuntimeError, match="closed"):
        plan()


@pytest.mark.every_size
def test_a_plan_still_running_on_some_rank_is_not_closed_on_any(comm, memory):
    values = distinct(SIZE, 1000, "int64")
    buffer = memory.put(values[RANK])
    plan = hpcdist.plan(comm, buffer, algorithm="ring")
    started = SIZE > 1 and RANK == LAST
    if started:
        plan.start()
    if SIZE > 1:
        with pytest.raises(AgreedError, match=f"rank {LAST}: the plan is still running"):
            plan.close()
    plan.wait() if started else plan()
    plan.close()
    np.testing.assert_array_equal(memory.get(buffer), values.sum(axis=0))


def test_a_plan_closed_twice_gives_its_tag_back_once(comm, memory):
    plan = hpcdist.plan(comm, memory.zeros(4), algorithm="ring")
    plan.close()
    plan.close()
    buffers = [memory.put(np.full(4, RANK + 1.0)), memory.put(np.full(4, 100.0 * (RANK + 1)))]
    plans = [hpcdist.plan(comm, buffer, algorithm="ring") for buffer in buffers]
    for plan in plans[:: -1 if RANK else 1]:
        plan.start()
    for plan in plans:
        plan.wait()
    total = SIZE * (SIZE + 1) // 2
    assert [memory.get(buffer).tolist() for buffer in buffers] == [[total] * 4, [100 * total] * 4]


def test_a_started_plan_that_is_dropped_finishes_in_memory_that_is_kept(comm, memory):
    plan = hpcdist.plan(comm, memory.zeros(1 << 16), algorithm="ring")
    kept = weakref.ref(plan.bound)
    plan.start(progress="calls")
    running = plan.running
    del plan
    gc.collect()
    assert (kept() is not None) or not running
    if kept() is not None:
        kept().wait()
    comm.Barrier()


def test_a_plan_whose_communicator_was_freed_can_be_closed(memory):
    comm = COMM.Dup()
    plan = hpcdist.plan(comm, memory.zeros(4), algorithm="ring")
    plan()
    comm.Free()
    plan.close()
    with pytest.raises(RuntimeError, match="it was closed"):
        plan()


def test_a_communicator_can_be_freed_after_its_plans_were_used(memory):
    for _ in range(3):
        comm = COMM.Dup()
        hpcdist.allreduce(comm, memory.zeros(10))
        hpcdist.plan(comm, memory.zeros(10))()
        comm.Free()
    result = hpcdist.allreduce(COMM, memory.put(np.array([1.0])))
    assert memory.get(result)[0] == SIZE


# --- cached calls ---


@pytest.mark.parametrize("failed", [False, True])
def test_a_tag_whose_messages_may_still_come_is_not_used_again(comm, memory, monkeypatch, failed):
    def interrupted():
        raise KeyboardInterrupt

    transport = transport_of(comm)
    hpcdist.allreduce(comm, memory.zeros(4), algorithm="ring")
    (collective,) = transport.cache.values()
    (plan,) = collective.plans.values()
    if failed and RANK == LAST:
        monkeypatch.setattr(plan.bound._runner, "run", interrupted, raising=False)
        with pytest.raises(KeyboardInterrupt):
            plan()
    collective.free()
    transport.cache.clear()
    assert (transport.take_tag() == collective.tag) is not failed


@pytest.mark.every_size
def test_cached_calls_bind_the_addresses_that_change_on_some_ranks_only(comm, memory):
    values = distinct(SIZE, 2000, "int64")
    for name in ("ring", "auto"):
        fixed = memory.zeros(2000, "int64")
        for run in range(1, 3 * CACHED_BUFFERS):
            buffer = fixed if RANK % 2 else memory.zeros(2000, "int64")
            memory.fill(buffer, values[RANK] * run)
            hpcdist.allreduce(comm, buffer, algorithm=name)
            np.testing.assert_array_equal(memory.get(buffer), values.sum(axis=0) * run)


def test_cached_calls_are_right_in_memory_that_was_freed_and_given_out_again(comm, memory):
    """A cached plan keeps its buffers, so that no other array can have their address; later, any may."""
    values = distinct(SIZE, 500, "int64")
    for run in range(1, 4 * CACHED_BUFFERS):
        buffer, out = memory.put(values[RANK] * run), memory.zeros(500, "int64")
        hpcdist.allreduce(comm, buffer, out=out)
        del buffer
        gc.collect()
        np.testing.assert_array_equal(memory.get(out), values.sum(axis=0) * run)


def test_more_kinds_of_calls_than_are_cached_work(comm, memory):
    values = distinct(SIZE, CACHED_PLANS + 20, "int64")
    for count in [*range(1, CACHED_PLANS + 20), 1, 2, 3]:
        result = hpcdist.allreduce(comm, memory.put(values[RANK, :count]), algorithm="recursive_doubling")
        np.testing.assert_array_equal(memory.get(result), values[:, :count].sum(axis=0))
