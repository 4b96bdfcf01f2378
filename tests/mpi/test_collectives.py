"""The collectives over a real MPI, with messages on both sides of the size up to which an MPI buffers them."""

import gc
import weakref

import numpy as np
import psutil
import pytest
from buffers import bits, check, distinct, special
from mpi4py import MPI

import hpcdist
from hpcdist import algorithms
from hpcdist.collectives import CACHED_BUFFERS, CACHED_PLANS, LARGEST_MESSAGE
from hpcdist.errors import AgreedError, ArgumentError
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.transport.mpi import transport_of

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
LAST = SIZE - 1
AROUND_EAGER = {"64 B": 8, "4 KiB": 512, "32 KiB": 4096, "1 MiB": 131072}  # float64 elements
FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind != "i"]
SCATTERING = ["ring", "direct"] + ["halving_doubling", "binary_blocks"] * (SIZE & (SIZE - 1) == 0)


@pytest.fixture
def comm():
    """A communicator that no other test has plans on."""
    duplicate = COMM.Dup()
    yield duplicate
    duplicate.Free()


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


@pytest.mark.parametrize("count", AROUND_EAGER.values(), ids=AROUND_EAGER)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_a_plan_gives_every_rank_the_sum_each_time_it_runs(comm, name, count):
    values = distinct(SIZE, count, "int64")
    buffer = np.empty(count, np.int64)
    plan = hpcdist.plan(comm, buffer, algorithm=name, segment_nbytes=65536)
    for run in range(1, 4):
        buffer[:] = values[RANK] * run
        plan()
        np.testing.assert_array_equal(buffer, values.sum(axis=0) * run)
    plan.close()


@pytest.mark.parametrize("name", [*algorithms.ALLREDUCE, "auto", "hierarchical:tree+ring"])
def test_a_result_out_of_place_leaves_the_input_alone(comm, name):
    values = distinct(SIZE, 1000, "int64")
    buffer, out = values[RANK].copy(), np.zeros(1000, np.int64)
    assert hpcdist.allreduce(comm, buffer, algorithm=name, out=out) is out
    np.testing.assert_array_equal(out, values.sum(axis=0))
    np.testing.assert_array_equal(buffer, values[RANK])


@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_counts_that_leave_ranks_without_elements_work(comm, name):
    for count in sorted({0, 1, SIZE - 1, SIZE + 1}):
        values = distinct(SIZE, count, "float64")
        result = hpcdist.allreduce(comm, values[RANK].copy(), algorithm=name)
        check(result, values, "sum")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_and_operation_is_right_and_the_same_on_all_ranks(comm, dtype, op):
    for name in ("ring", "recursive_doubling", "binary_blocks"):
        values = distinct(SIZE, 13, dtype, op)
        result = hpcdist.allreduce(comm, values[RANK].copy(), op, name)
        check(result, values, op)
        assert_same_bits(result)


@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_all_ranks_get_the_same_bits_of_sums_that_depend_on_the_order(comm, name):
    values = np.random.default_rng(7).normal(size=(SIZE, 10_007)).astype(np.float32)
    nodes = [rank % 2 for rank in range(SIZE)]
    result = values[RANK].copy()
    hpcdist.plan(comm, result, algorithm=name, topology=nodes, segment_nbytes=4096)()
    check(result, values, "sum")
    assert_same_bits(result)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_zeros_of_both_signs_infinities_and_nans_end_the_same_on_all_ranks(comm, name, dtype):
    for op in OPS:
        for count in (1, 257):
            result = special(SIZE, count, dtype, seed=count)[RANK].copy()
            hpcdist.allreduce(comm, result, op, name)
            assert_same_bits(result)


def test_no_alignment_of_a_buffer_changes_a_bit(comm):
    values = special(SIZE, 100, "float32")
    memory = np.empty(200, np.float32)
    result = memory[RANK % 5 : RANK % 5 + 100]
    result[:] = values[RANK]
    hpcdist.allreduce(comm, result, algorithm="recursive_doubling")
    assert_same_bits(result)


def test_buffers_of_any_shape_are_combined_element_by_element(comm):
    values = distinct(SIZE, 24, "int32").reshape(SIZE, 2, 3, 4)
    result = hpcdist.allreduce(comm, values[RANK].copy())
    assert result.shape == (2, 3, 4)
    np.testing.assert_array_equal(result, values.sum(axis=0))


@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_a_run_started_and_polled_ends_as_a_blocking_one(comm, name):
    values = distinct(SIZE, 20_000, "int64")
    buffer = values[RANK].copy()
    plan = hpcdist.plan(comm, buffer, algorithm=name, segment_nbytes=8192)
    plan.start()
    if RANK % 2:
        while not plan.test():
            pass
    plan.wait()
    assert plan.test()
    np.testing.assert_array_equal(buffer, values.sum(axis=0))
    plan.close()


@pytest.mark.mpi(min_size=2)
@pytest.mark.limit(300)
def test_a_buffer_beyond_two_to_the_31_bytes_is_summed(comm):
    """Its two messages of more than LARGEST_MESSAGE bytes are cut, though whole ones were asked for."""
    if SIZE != 2:
        pytest.skip("two ranks are enough for 2**31 bytes")
    if comm.allreduce(psutil.virtual_memory().available, MPI.MIN) < 8 << 30:
        pytest.skip("needs 8 GiB of free memory")
    count = (1 << 29) + 3
    buffer = np.arange(count, dtype=np.int32)
    assert buffer.nbytes > 1 << 31
    assert buffer[count // 2 :].nbytes > LARGEST_MESSAGE
    buffer += 7 * RANK
    hpcdist.plan(comm, buffer, algorithm="ring", segment_nbytes=0)()
    part = 1 << 26
    for start in range(0, count, part):
        index = np.arange(start, min(start + part, count), dtype=np.int32)
        index *= 2  # wraps, as the sum does
        index += 7
        assert np.array_equal(buffer[start : start + part], index), f"from element {start} on"


# --- the relatives ---


@pytest.mark.parametrize("count", [0, 1, SIZE - 1, 1000, 40_000])
def test_reduce_scatter_leaves_part_r_at_rank_r(comm, count):
    values = distinct(SIZE, count, "int64")
    for name in SCATTERING:
        for op in ("sum", "avg", "max"):
            part = hpcdist.reduce_scatter(comm, values[RANK].copy(), op, name)
            check(part, values[:, count * RANK // SIZE : count * (RANK + 1) // SIZE], op)


@pytest.mark.parametrize("count", [0, 1, SIZE - 1, 1000, 40_000])
def test_allgather_brings_part_r_of_rank_r_to_all(comm, count):
    values = distinct(SIZE, count, "float32")
    wanted = np.concatenate([hpcdist.own_part(values[rank], rank, SIZE) for rank in range(SIZE)])
    for name in SCATTERING:
        result = hpcdist.allgather(comm, values[RANK].copy(), name)
        np.testing.assert_array_equal(result, wanted)


@pytest.mark.parametrize("root", sorted({0, SIZE // 2, LAST}))
def test_bcast_brings_what_the_root_has_to_all(comm, root):
    for count in (0, 1, 40_000):
        values = distinct(SIZE, count, "float64")
        np.testing.assert_array_equal(hpcdist.bcast(comm, values[RANK].copy(), root), values[root])


@pytest.mark.parametrize("root", sorted({0, SIZE // 2, LAST}))
def test_reduce_leaves_the_result_at_the_root(comm, root):
    for op in OPS:
        values = distinct(SIZE, 1000, "float64", op)
        result = hpcdist.reduce(comm, values[RANK].copy(), op, root)
        if root == RANK:
            check(result, values, op)


@pytest.mark.parametrize("each", [0, 1, 3, 5000])
def test_alltoall_moves_every_part_to_its_rank_and_place(comm, each):
    values = distinct(SIZE, each * SIZE, "int64")
    buffer, out = values[RANK].copy(), np.full(each * SIZE, -1)
    assert hpcdist.alltoall(comm, buffer, out) is out
    np.testing.assert_array_equal(out, values.reshape(SIZE, SIZE, each)[:, RANK].ravel())
    np.testing.assert_array_equal(buffer, values[RANK])


# --- several communicators, plans and messages at once ---


def test_sub_communicators_work_by_themselves_and_beside_the_whole(comm):
    half = comm.Split(RANK % 2, -RANK)
    mine = half.allgather(RANK)
    values = distinct(SIZE, 5000, "int64")
    inside, across = values[RANK].copy(), values[RANK].copy()
    plan = hpcdist.plan(comm, across, algorithm="ring")
    plan.start()
    hpcdist.allreduce(half, inside, algorithm="halving_doubling" if RANK % 2 else "ring")
    plan.wait()
    np.testing.assert_array_equal(inside, values[mine].sum(axis=0))
    np.testing.assert_array_equal(across, values.sum(axis=0))
    half.Free()


def test_plans_on_one_and_several_communicators_run_at_the_same_time(comm):
    other = comm.Dup()
    names = algorithms.ALLREDUCE
    values = distinct(SIZE, 3000 * len(names), "int64").reshape(SIZE, len(names), 3000)
    buffers = values[RANK].copy()
    places = [comm if number % 2 else other for number in range(len(names))]
    plans = [hpcdist.plan(c, b, algorithm=n) for c, b, n in zip(places, buffers, names, strict=True)]
    for plan in plans:
        plan.start()
    unfinished = plans[RANK % len(plans) :] + plans[: RANK % len(plans)]
    while unfinished:
        unfinished = [plan for plan in unfinished if not plan.test()]
    np.testing.assert_array_equal(buffers, values.sum(axis=0))
    other.Free()


def test_messages_of_the_user_on_the_same_communicator_are_not_touched(comm):
    """A receive of anything from anyone stays open during a plan's runs, and gets the user's message alone."""
    letter = np.full(1, -1)
    request = comm.Irecv(letter, MPI.ANY_SOURCE, MPI.ANY_TAG)
    buffer = np.arange(5000) + RANK
    plan = hpcdist.plan(comm, buffer, algorithm="ring")
    for _ in range(3):
        plan()
    assert letter[0] == -1
    comm.Barrier()
    comm.Send(np.array([RANK]), (RANK + 1) % SIZE, plan.tag)
    plan()
    status = MPI.Status()
    request.Wait(status)
    assert letter[0] == (RANK - 1) % SIZE
    assert status.tag == plan.tag
    plan.close()


def test_hundreds_of_plans_can_be_open_and_closed_ones_give_their_tags_back(comm):
    values = distinct(SIZE, 300, "int64")
    buffers = np.repeat(values[RANK], 2).reshape(300, 2)
    plans = [hpcdist.plan(comm, buffer, algorithm="recursive_doubling") for buffer in buffers]
    assert len({plan.tag for plan in plans}) == 300
    for plan in plans[::-1]:
        plan()
    np.testing.assert_array_equal(buffers, np.repeat(values.sum(axis=0), 2).reshape(300, 2))
    for plan in plans[::2]:
        plan.close()
    for plan in plans[1::2]:
        plan()
    np.testing.assert_array_equal(buffers[1::2], np.repeat(values.sum(axis=0) * SIZE, 2).reshape(300, 2)[1::2])
    again = hpcdist.plan(comm, buffers[0], algorithm="ring")
    assert again.tag in {plan.tag for plan in plans[::2]}


def test_a_closed_plan_cannot_run(comm):
    plan = hpcdist.plan(comm, np.zeros(4))
    plan.close()
    with pytest.raises(RuntimeError, match="closed"):
        plan()


def test_a_plan_still_running_on_some_rank_is_not_closed_on_any(comm):
    buffer = distinct(SIZE, 1000, "int64")[RANK].copy()
    plan = hpcdist.plan(comm, buffer, algorithm="ring")
    started = SIZE > 1 and RANK == LAST
    if started:
        plan.start()
    if SIZE > 1:
        with pytest.raises(AgreedError, match=f"rank {LAST}: the plan is still running"):
            plan.close()
    plan.wait() if started else plan()
    plan.close()
    np.testing.assert_array_equal(buffer, distinct(SIZE, 1000, "int64").sum(axis=0))


def test_a_plan_closed_twice_gives_its_tag_back_once(comm):
    plan = hpcdist.plan(comm, np.zeros(4), algorithm="ring")
    plan.close()
    plan.close()
    buffers = [np.full(4, RANK + 1.0), np.full(4, 100.0 * (RANK + 1))]
    plans = [hpcdist.plan(comm, buffer, algorithm="ring") for buffer in buffers]
    for plan in plans[:: -1 if RANK else 1]:
        plan.start()
    for plan in plans:
        plan.wait()
    total = SIZE * (SIZE + 1) // 2
    assert [buffer.tolist() for buffer in buffers] == [[total] * 4, [100 * total] * 4]


def test_a_started_plan_that_is_dropped_finishes_in_memory_that_is_kept(comm):
    plan = hpcdist.plan(comm, np.ones(1 << 16), algorithm="ring")
    kept = weakref.ref(plan)
    plan.start()
    running = plan.running
    del plan
    gc.collect()
    assert (kept() is not None) or not running
    if kept() is not None:
        kept().wait()
    comm.Barrier()


def test_a_plan_whose_communicator_was_freed_can_be_closed():
    comm = COMM.Dup()
    plan = hpcdist.plan(comm, np.zeros(4), algorithm="ring")
    plan()
    comm.Free()
    plan.close()
    with pytest.raises(RuntimeError, match="it was closed"):
        plan()


def test_a_communicator_can_be_freed_after_its_plans_were_used():
    for _ in range(3):
        comm = COMM.Dup()
        hpcdist.allreduce(comm, np.zeros(10))
        hpcdist.plan(comm, np.zeros(10))()
        comm.Free()
    assert hpcdist.allreduce(COMM, np.array([1.0]))[0] == SIZE


# --- cached calls ---


@pytest.mark.parametrize("failed", [False, True])
def test_a_tag_whose_messages_may_still_come_is_not_used_again(comm, monkeypatch, failed):
    def interrupted():
        raise KeyboardInterrupt

    transport = transport_of(comm)
    hpcdist.allreduce(comm, np.zeros(4), algorithm="ring")
    (collective,) = transport.cache.values()
    (plan,) = collective.plans.values()
    if failed and RANK == LAST:
        monkeypatch.setattr(plan._runner, "run", interrupted, raising=False)
        with pytest.raises(KeyboardInterrupt):
            plan()
    collective.free()
    transport.cache.clear()
    assert (transport.take_tag() == collective.tag) is not failed


def test_cached_calls_bind_the_addresses_that_change_on_some_ranks_only(comm):
    values = distinct(SIZE, 2000, "int64")
    fixed = np.empty(2000, np.int64)
    others = [np.empty(2000, np.int64) for _ in range(3 * CACHED_BUFFERS)]
    for run, fresh in enumerate(others, 1):
        buffer = fixed if RANK % 2 else fresh
        buffer[:] = values[RANK] * run
        hpcdist.allreduce(comm, buffer, algorithm="ring")
        np.testing.assert_array_equal(buffer, values.sum(axis=0) * run)


def test_more_kinds_of_calls_than_are_cached_work(comm):
    values = distinct(SIZE, CACHED_PLANS + 20, "int64")
    for count in [*range(1, CACHED_PLANS + 20), 1, 2, 3]:
        result = hpcdist.allreduce(comm, values[RANK, :count].copy(), algorithm="recursive_doubling")
        np.testing.assert_array_equal(result, values[:, :count].sum(axis=0))


# --- what a plan says of itself ---


def test_a_plan_knows_its_algorithm_segment_topology_and_reason(comm):
    plan = hpcdist.plan(comm, np.zeros(4), algorithm="tree", segment_nbytes=4096)
    assert (plan.algorithm, plan.segment_nbytes, plan.why) == ("tree", 4096, "it was asked for")
    assert plan.topology == (0,) * SIZE
    assert plan.schedule.size == SIZE


def test_auto_is_the_same_algorithm_on_all_ranks_and_says_why(comm):
    for count in (1, 1 << 18):
        plan = hpcdist.plan(comm, np.zeros(count))
        assert comm.allgather((plan.algorithm, plan.why)) == [(plan.algorithm, plan.why)] * SIZE
        assert plan.algorithm in algorithms.ALLREDUCE
        assert "lowest predicted time" in plan.why


# --- ranks that do not agree: needs two of them ---

ALIKE = {"count": 12, "dtype": "float64", "op": "sum", "algorithm": "ring"}
DIFFERENT = {"count": 13, "dtype": "float32", "op": "max", "algorithm": "tree"}


def arguments(different):
    """What this rank passes: the last one differs in one field."""
    said = {**ALIKE, different: DIFFERENT[different]} if RANK == LAST else ALIKE
    return np.zeros(said["count"], said["dtype"]), said["op"], said["algorithm"]


def spans(last):
    """How an error names ranks 0 .. last."""
    return "rank 0: " if last == 0 else f"ranks 0-{last}: "


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("cached", [False, True], ids=["first", "cached"])
@pytest.mark.parametrize("field", ALIKE)
def test_a_call_on_which_ranks_differ_raises_the_same_error_on_all(field, cached):
    if cached:  # both calls are known everywhere, and only one rank makes the other
        hpcdist.allreduce(COMM, np.zeros(ALIKE["count"]), algorithm="ring")
        both = {**ALIKE, field: DIFFERENT[field]}
        hpcdist.allreduce(COMM, np.zeros(both["count"], both["dtype"]), both["op"], both["algorithm"])
    buffer, op, algorithm = arguments(field)
    assert_same_error(
        lambda: hpcdist.allreduce(COMM, buffer, op, algorithm),
        f"{spans(LAST - 1)}{field}={ALIKE[field]!r}; rank {LAST}: {field}={DIFFERENT[field]!r}",
    )


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("field", ALIKE)
def test_a_plan_on_which_ranks_differ_raises_the_same_error_on_all(field):
    buffer, op, algorithm = arguments(field)
    assert_same_error(
        lambda: hpcdist.plan(COMM, buffer, op=op, algorithm=algorithm),
        f"{spans(LAST - 1)}{field}={ALIKE[field]!r}; rank {LAST}: {field}={DIFFERENT[field]!r}",
    )


@pytest.mark.mpi(min_size=2)
def test_ranks_that_make_different_calls_hear_of_it():
    def call():
        if RANK == 0:
            hpcdist.bcast(COMM, np.zeros(3))
        else:
            hpcdist.reduce(COMM, np.zeros(3))

    assert_same_error(call, "rank 0: call='bcast'", "call='reduce'")


@pytest.mark.mpi(min_size=2)
def test_ranks_that_name_different_roots_hear_of_it():
    assert_same_error(lambda: hpcdist.bcast(COMM, np.zeros(3), root=int(RANK == 0)), "rank 0: root=1", "root=0")


@pytest.mark.mpi(min_size=2)
def test_ranks_that_see_different_topologies_or_segments_hear_of_it():
    nodes = [0] * SIZE if RANK else list(range(SIZE))
    assert_same_error(lambda: hpcdist.plan(COMM, np.zeros(3), topology=nodes), "rank 0: topology=(0, 1")
    assert_same_error(lambda: hpcdist.plan(COMM, np.zeros(3), segment_nbytes=64 << RANK), "rank 0: segment_nbytes=64")


# --- arguments that cannot be used: bad on the last rank only, so that the others learn of it ---


class OnADevice:
    """What a CuPy array looks like from afar."""

    size, dtype = 12, np.dtype("float64")

    @property
    def __cuda_array_interface__(self):
        return {"version": 3}


def read_only():
    array = np.zeros(12)
    array.flags.writeable = False
    return array


UNUSABLE = {
    "every other element": (lambda: np.zeros(24)[::2], "not contiguous (strides (16,))"),
    "a transposed matrix": (lambda: np.zeros((3, 4)).T, "buffer of shape (4, 3) is not contiguous"),
    "complex numbers": (lambda: np.zeros(12, complex), "buffer has dtype complex128; supported are float64"),
    "the other byte order": (lambda: np.zeros(12, ">f8"), "buffer has dtype >f8"),
    "a masked array": (lambda: np.ma.zeros(12), "buffer is a MaskedArray"),
    "a list": (lambda: [0.0] * 12, "buffer must be a NumPy array, not list"),
    "device memory": (OnADevice, "buffer is in device memory"),
    "memory that cannot be written": (read_only, "buffer is read-only"),
}


@pytest.mark.parametrize("cached", [False, True], ids=["first", "cached"])
@pytest.mark.parametrize("what", UNUSABLE)
def test_a_buffer_that_cannot_be_used_on_one_rank_is_refused_on_all(what, cached):
    make, said = UNUSABLE[what]
    if cached:
        hpcdist.allreduce(COMM, np.zeros(12))
    assert_same_error(lambda: hpcdist.allreduce(COMM, make() if RANK == LAST else np.zeros(12)), f"rank {LAST}: ", said)
    assert_same_error(lambda: hpcdist.plan(COMM, make() if RANK == LAST else np.zeros(12)), f"rank {LAST}: ", said)


def test_a_read_only_input_is_good_enough_for_a_result_elsewhere():
    assert (hpcdist.allreduce(COMM, read_only(), out=np.ones(12)) == 0).all()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        (lambda buffer: np.zeros(11), "out is float64[11], but buffer is float64[12]"),
        (lambda buffer: np.zeros(12, np.float32), "out is float32[12], but buffer is float64[12]"),
        (lambda buffer: buffer, "out overlaps buffer"),
        (lambda buffer: np.zeros(24)[::2], "out of shape (12,) is not contiguous"),
        (lambda buffer: read_only(), "out is read-only"),
    ],
    ids=["count", "dtype", "overlap", "strides", "read-only"],
)
def test_a_place_for_the_result_that_cannot_be_used_is_refused_on_all_ranks(out, said):
    buffer = np.zeros(12)
    wrong = out(buffer) if RANK == LAST else np.zeros(12)
    assert_same_error(lambda: hpcdist.plan(COMM, buffer, wrong), f"rank {LAST}: ", said)
    assert_same_error(lambda: hpcdist.allreduce(COMM, buffer, out=wrong), f"rank {LAST}: ", said)


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"op": "mean"}, "there is no operation 'mean'; choose from sum, avg, max, min, prod"),
        ({"algorithm": "rong"}, "no all-reduce algorithm called 'rong'; choose from ring"),
        ({"algorithm": "hierarchical:ring+rong"}, "called 'rong'"),
        ({"op": ["sum"]}, "there is no operation"),
        ({"segment_nbytes": -1}, "segment_nbytes must be a number of bytes (0: whole messages), not -1"),
        ({"segment_nbytes": "4MiB"}, "segment_nbytes must be a number of bytes"),
        ({"topology": [0] * (SIZE + 1)}, f"the topology must be {SIZE} node numbers"),
        ({"topology": 5 if RANK == LAST else [0] * SIZE}, "the topology must be node numbers, one per rank, not 5"),
        ({"topology": []}, f"the topology must be {SIZE} node numbers"),
        ({"topology": "a" * SIZE}, f"the topology must be {SIZE} node numbers"),
        ({"selection": 5}, "the selection table cannot be used"),
        ({"selection": "no/such/table.json"}, "the selection table cannot be used"),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_on_all_ranks(keywords, said):
    algorithm = {"algorithm": "ring"} if "topology" in keywords else {}
    assert_same_error(lambda: hpcdist.plan(COMM, np.zeros(12), **algorithm, **keywords), said)


def test_a_root_that_does_not_exist_is_refused_on_all_ranks():
    assert_same_error(lambda: hpcdist.bcast(COMM, np.zeros(3), root=SIZE), f"no rank {SIZE} to be the root")
    assert_same_error(lambda: hpcdist.reduce(COMM, np.zeros(3), root=-1), "no rank -1 to be the root")


@pytest.mark.mpi(min_size=2)
def test_an_alltoall_that_cannot_be_cut_into_equal_parts_is_refused_on_all_ranks():
    buffer, out = np.zeros(SIZE + 1), np.zeros(SIZE + 1)
    assert_same_error(lambda: hpcdist.alltoall(COMM, buffer, out), f"{SIZE + 1} elements cannot be cut into {SIZE}")


def test_auto_is_refused_where_there_is_nothing_to_choose_from():
    assert_same_error(
        lambda: hpcdist.reduce_scatter(COMM, np.zeros(4), algorithm="auto"), "name one for reduce_scatter"
    )


def test_an_alltoall_without_a_place_for_the_result_is_refused():
    assert_same_error(lambda: hpcdist.alltoall(COMM, np.zeros(SIZE), None), "needs out")
    hpcdist.alltoall(COMM, np.zeros(SIZE), np.empty(SIZE))  # from here on the call is a cached one
    assert_same_error(lambda: hpcdist.alltoall(COMM, np.zeros(SIZE), None), "needs out")


def test_something_that_is_no_communicator_is_refused():
    with pytest.raises(TypeError, match="mpi4py intracommunicator, not NoneType"):
        hpcdist.allreduce(None, np.zeros(3))
    with pytest.raises(ValueError, match="COMM_NULL"):
        hpcdist.allreduce(MPI.COMM_NULL, np.zeros(3))
