"""All-reduces of ordinary arrays on one node, which pass through bounce buffers that its ranks share."""

import random
import re
import threading
import time

import numpy as np
import pytest
from buffers import bits_of_numbers, check, distinct, in_order, special
from matrix import SELECTED, WHOLE
from mpi4py import MPI

import hpcdist
from hpcdist import algorithms
from hpcdist.errors import ArgumentError
from hpcdist.kernels.jit import SWITCH
from hpcdist.kernels.reduce import DTYPES, OPS, binary
from hpcdist.transport import shared_memory
from hpcdist.transport.mpi import transport_of
from hpcdist.tuning.table import Bracket, Rule, Selection

pytest.importorskip("numba")

from hpcdist.executor.intranode import bounce_kernel, bounce_layout

pytestmark = pytest.mark.mpi(min_size=2)

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
LAST = SIZE - 1
SEVERAL = list(range(SIZE))  # a topology of a node for each rank


def around(nbytes, itemsize):
    """Counts of elements on both sides of a size."""
    return {nbytes // itemsize + more for more in (-1, 0, 1)}


# --- results ---


@pytest.mark.every_size
@pytest.mark.parametrize("dtype", ["int32", "bfloat16", "float64"] if SELECTED else DTYPES)  # one of each size
def test_the_result_is_that_of_the_ranks_in_order_bit_for_bit(comm, dtype):
    itemsize = DTYPES[dtype].itemsize
    few = {0, 1, SIZE - 1, SIZE + 1, *around(bounce_layout.SMALL, itemsize), 3 * bounce_layout.PIECE // itemsize + 1}
    more = set() if SELECTED else around(bounce_layout.PIECE, itemsize) | around(3 * bounce_layout.PIECE, itemsize)
    for count in sorted(few | more):
        for op in OPS if count == SIZE + 1 or (WHOLE and count < 3000) else OPS[count % 5 :][:1]:
            values = distinct(SIZE, count, dtype, op)
            framed = np.zeros(count + 2, DTYPES[dtype])
            buffer = framed[1:-1]
            plan = hpcdist.plan(comm, buffer, op=op)
            assert plan.executor == "bounce_buffers"
            for _ in range(4):  # the slots are taken in turn
                buffer[:] = values[RANK]
                plan()
                np.testing.assert_array_equal(bits_of_numbers(buffer), bits_of_numbers(in_order(values, op)))
            assert not framed[[0, -1]].astype(bool).any()
            if count < 1000:  # beyond, the values of a 16-bit type are no longer all finite
                check(buffer, values, op)
            plan.close()


@pytest.mark.parametrize("dtype", [name for name, dtype in DTYPES.items() if dtype.kind != "i"])
def test_zeros_of_both_signs_infinities_and_nans_end_the_same_on_all_ranks(comm, dtype):
    for count in (1, 257, 20_011):
        with np.errstate(invalid="ignore"):  # ml_dtypes warns of NaNs that are cast
            values = special(SIZE, count, dtype, seed=count)
        for op in OPS:
            buffer = values[RANK].copy()
            hpcdist.allreduce(comm, buffer, op)
            assert len(set(comm.allgather(buffer.tobytes()))) == 1
            with np.errstate(invalid="ignore"):
                got, wanted = buffer.astype(np.float64), in_order(values, op).astype(np.float64)
            np.testing.assert_array_equal(got, wanted)


def test_the_input_is_left_as_it_is_when_the_result_goes_elsewhere(comm):
    for count in (5, 5000, 200_001):
        values = distinct(SIZE, count, "int64")
        buffer, out = values[RANK].copy(), np.zeros(count, np.int64)
        plan = hpcdist.plan(comm, buffer, out)
        for _ in range(5):
            out[:] = -1
            plan()
            np.testing.assert_array_equal(out, values.sum(axis=0))
            np.testing.assert_array_equal(buffer, values[RANK])


def test_arrays_of_several_dimensions_and_arrays_that_are_not_aligned_on_one_rank(comm):
    values = distinct(SIZE, 60_000, "float64")
    raw = np.zeros(8 * 60_000 + 1, np.uint8)
    odd = raw[1:].view(np.float64) if RANK == LAST else np.zeros(60_000)
    for buffer in (np.zeros((3, 100, 200)), odd.reshape(200, 300)):
        plan = hpcdist.plan(comm, buffer)
        for _ in range(3):
            buffer.reshape(-1)[:] = values[RANK]
            plan()
            np.testing.assert_array_equal(buffer.reshape(-1), in_order(values, "sum"))


def test_both_ways_of_copying_give_the_same_over_many_pieces(comm):
    """So many that trials of each way come several times, and at different places of a run."""
    values = distinct(SIZE, 5 * bounce_layout.PIECE // 8 + 3, "int64")
    buffer, total = np.zeros_like(values[0]), values.sum(axis=0)
    plan = hpcdist.plan(comm, buffer)
    for _ in range(3 * bounce_kernel.EVERY // 6):
        buffer[:] = values[RANK]
        plan()
        assert np.array_equal(buffer, total)


def test_small_arrays_of_hpcdist_empty_pass_through_them_too(comm):
    for count in (1, bounce_layout.SMALL // 8, bounce_layout.SMALL // 8 + 1):
        values = distinct(SIZE, count, "int64")
        buffer = hpcdist.empty(count, "int64", comm)
        plan = hpcdist.plan(comm, buffer)
        assert plan.algorithm == "shared"
        assert (plan.executor == "bounce_buffers") == (buffer.nbytes <= bounce_layout.SMALL)
        for _ in range(5):
            buffer[:] = values[RANK]
            plan()
            np.testing.assert_array_equal(buffer, values.sum(axis=0))


# --- ranks that are not in step ---


@pytest.mark.every_size
@pytest.mark.parametrize("count", [3, 5000, 100_000])
def test_ranks_that_come_late_at_random(comm, count):
    values, luck = distinct(SIZE, count, "int64"), random.Random(f"{count}/{RANK}")
    buffer, total = np.zeros(count, np.int64), values.sum(axis=0)
    plan = hpcdist.plan(comm, buffer)
    for run in range(200):
        buffer[:] = values[RANK] + run
        if luck.random() < 0.1:
            time.sleep(luck.random() * 0.003)
        plan()
        assert np.array_equal(buffer, total + SIZE * run)


@pytest.mark.every_size
def test_plans_started_in_another_order_on_each_rank_do_not_mix(comm):
    values = distinct(SIZE, 4 * 50_000, "int64").reshape(SIZE, 4, 50_000)
    buffers = values[RANK].copy()
    plans = [hpcdist.plan(comm, buffer) for buffer in buffers]
    for turn in range(5):
        buffers[...] = values[RANK]
        for plan in (plans[RANK % 4 :] + plans[: RANK % 4])[:: -1 if turn % 2 else 1]:
            plan.start()
        unfinished = list(plans)
        while unfinished:
            unfinished = [plan for plan in unfinished if not plan.test()]
        np.testing.assert_array_equal(buffers, values.sum(axis=0))


def test_one_line_calls_of_all_sizes_in_turn_have_one_bounce_buffer(comm):
    luck, late = random.Random(0), random.Random(RANK)
    hpcdist.allreduce(comm, np.zeros(bounce_layout.PIECE))
    windows = len(transport_of(comm).home.windows)
    for _ in range(150):
        count, op = luck.choice([1, 500, 5000, 40_000, 150_000]), luck.choice(["sum", "max"])
        values = distinct(SIZE, count, "int64") + luck.randrange(1000)
        buffer = values[RANK].copy()
        if late.random() < 0.1:
            time.sleep(late.random() * 0.003)
        hpcdist.allreduce(comm, buffer, op)
        np.testing.assert_array_equal(buffer, binary(op).reduce(values, axis=0))
    assert len(transport_of(comm).home.windows) == windows


def test_a_larger_call_does_not_take_the_bounce_buffer_from_smaller_ones(comm):
    """One rank binds the small call anew after that, to another array; the others go on with what they have."""
    values = distinct(SIZE, 2000, "int64")
    arrays = [np.zeros(2000, np.int64) for _ in range(2)]
    for turn in range(6):
        buffer = arrays[turn % 2 if RANK == 0 else 0]
        buffer[:] = values[RANK] + turn
        hpcdist.allreduce(comm, buffer)
        np.testing.assert_array_equal(buffer, values.sum(axis=0) + SIZE * turn)
        hpcdist.allreduce(comm, np.zeros(20_000 << turn))


def test_a_closed_plan_leaves_its_bounce_buffer_to_the_next(comm):
    hpcdist.plan(comm, np.zeros(bounce_layout.PIECE)).close()
    windows = len(transport_of(comm).home.windows)
    for count in (10, 5000, 100_000, 10):
        values = distinct(SIZE, count, "int64")
        buffer = values[RANK].copy()
        plan = hpcdist.plan(comm, buffer)
        plan()
        np.testing.assert_array_equal(buffer, values.sum(axis=0))
        plan.close()
    assert len(transport_of(comm).home.windows) == windows


# --- when they are taken ---


def test_what_closed_plans_have_left_is_given_back(comm):
    hpcdist.release(comm)
    plans = [hpcdist.plan(comm, np.zeros(count)) for count in (10, 5000, 200_000)]
    assert hpcdist.release(comm) == 0
    for plan in plans:
        plan.close()
    assert hpcdist.release(comm) >= 3 * bounce_layout.PIECE
    assert len(transport_of(comm).home.windows) == 0
    hpcdist.allreduce(comm, np.zeros(5000))


@pytest.mark.parametrize("place", ["elsewhere", "at places that differ"])
def test_a_call_that_was_interrupted_is_not_taken_up_again(comm, monkeypatch, place):
    """The others are done, the last rank was stopped at its end; to bind another array would bring it out of step."""
    values = distinct(SIZE, 5000, "int64")
    whole = hpcdist.empty(6000, "int64", comm)
    buffer = values[RANK].copy() if place == "elsewhere" else whole[RANK : RANK + 5000]
    buffer[:] = values[RANK]
    hpcdist.allreduce(comm, buffer)
    (plan,) = (plan for collective in transport_of(comm).cache.values() for plan in collective.plans.values())
    if RANK == LAST:

        def interrupted(*arguments):
            run(*arguments)
            raise KeyboardInterrupt

        run = plan.bound._run_kernel
        monkeypatch.setattr(plan.bound, "_run_kernel", interrupted)
        with pytest.raises(KeyboardInterrupt):
            hpcdist.allreduce(comm, buffer)
    else:
        hpcdist.allreduce(comm, buffer)
    with pytest.raises(ArgumentError, match=f"rank {LAST}: an earlier call like this one was interrupted"):
        hpcdist.allreduce(comm, values[RANK].copy() if place == "elsewhere" else buffer)
    other = np.ones(7)
    hpcdist.allreduce(comm, other)
    assert (other == SIZE).all()


def test_auto_takes_them_on_one_node_and_says_so(comm):
    for count in (1, 5000):
        plan = hpcdist.plan(comm, np.zeros(count))
        assert (plan.algorithm, plan.path) == ("shared", "host")
        assert plan.why == "all ranks are on one node, and the buffers pass through memory that they share"
        assert comm.allgather(plan.why) == [plan.why] * SIZE
    assert hpcdist.plan(comm, np.zeros(5), topology=SEVERAL).algorithm in algorithms.ALLREDUCE


def test_without_numba_messages_are_sent(comm, monkeypatch):
    monkeypatch.setenv(SWITCH, "0")
    plan = hpcdist.plan(comm, np.zeros(5000))
    assert plan.algorithm in algorithms.ALLREDUCE
    assert "not through bounce buffers: they need compiled code on all ranks" in plan.why
    with pytest.raises(ArgumentError, match="cannot pass through bounce buffers: they need compiled code"):
        hpcdist.plan(comm, np.zeros(5000), algorithm="shared")


def test_without_room_messages_are_sent_but_a_buffer_that_is_there_is_used(comm, monkeypatch):
    hpcdist.plan(comm, np.zeros(5000)).close()
    monkeypatch.setattr(shared_memory, "free_memory", lambda where: (1000, 1 << 40))
    plan = hpcdist.plan(comm, np.zeros(5000))
    assert plan.algorithm == "shared"
    plan()
    plan = hpcdist.plan(comm, np.zeros(5000))
    assert plan.algorithm in algorithms.ALLREDUCE
    assert "not through bounce buffers: a bounce buffer takes" in plan.why
    assert comm.allgather(plan.why) == [plan.why] * SIZE
    with pytest.raises(ArgumentError, match="/dev/shm has 1000 B free"):
        hpcdist.plan(comm, np.zeros(5000), algorithm="shared")


@pytest.mark.parametrize("bytes_free", [1000, 200_000])
def test_without_room_for_flags_messages_are_sent(comm, monkeypatch, bytes_free):
    """Whether it is lacking for both, or for the flags beside the buffer."""
    monkeypatch.setattr(shared_memory, "free_memory", lambda where: (bytes_free * SIZE, 1 << 40))
    plan = hpcdist.plan(comm, np.zeros(8000))
    assert plan.algorithm in algorithms.ALLREDUCE
    assert "not through bounce buffers: a bounce buffer takes" in plan.why
    plan()


def table(algorithm):
    rule = Rule(SIZE, 1, "float64", (Bracket(None, algorithm),))
    return Selection((rule,), path="a table")


def test_a_table_may_prefer_messages(comm):
    plan = hpcdist.plan(comm, np.zeros(5000), selection=table("ring"))
    assert (plan.algorithm, "a table says so" in plan.why) == ("ring", True)
    plan = hpcdist.plan(comm, np.zeros(5000), selection=table("shared"))
    assert (plan.algorithm, "a table says so" in plan.why) == ("shared", True)
    plan = hpcdist.plan(comm, np.zeros(5000, np.float32), selection=table("ring"))
    assert (plan.algorithm, "no rule for" in plan.why) == ("shared", True)


@pytest.mark.parametrize("name", ["shared", "shared:ring"])
def test_a_table_of_another_day_may_ask_for_what_cannot_be_had(comm, monkeypatch, name):
    monkeypatch.setenv(SWITCH, "0")
    plan = hpcdist.plan(comm, np.zeros(5000), selection=table(name))
    assert plan.algorithm in algorithms.ALLREDUCE
    assert f"a table says {name}, but there are no bounce buffers here; lowest predicted time" in plan.why


# --- the watchdog ---


@pytest.mark.parametrize("count", [10, 100_000])
def test_who_is_waited_for_is_told(comm, tmp_path, count):
    """Rank 0 waits in its run; a thread of it writes down what the watchdog sees, for which the last rank waits."""
    seen = comm.bcast(tmp_path / "seen")
    plan = hpcdist.plan(comm, np.zeros(count))
    assert plan.bound.progress() is None

    def look():
        while plan.bound.progress() is None or not re.search(f"rank {LAST} to have come", plan.bound.describe()):
            time.sleep(0.001)
        seen.with_suffix(".new").write_text(plan.bound.describe())
        seen.with_suffix(".new").rename(seen)

    if RANK == 0:
        threading.Thread(target=look).start()
    while RANK == LAST and not seen.exists():
        time.sleep(0.001)
    plan()
    pieces = max(1, -(-8 * count // bounce_layout.PIECE))
    name = "one_shot" if 8 * count <= bounce_layout.SMALL else f"two_shot:{pieces}"
    wanted = f"{name} (sum, float64, run 1): waits for rank {LAST} to have come to piece 1 of {pieces}"
    assert wanted in seen.read_text()
    assert plan.bound.progress() is None
