"""The collectives on NumPy buffers over a real MPI: the shared cases, and what is special to host memory."""

import numpy as np
import psutil
import pytest
from collective_cases import *  # noqa: F403
from collective_cases import COMM, LAST, RANK, SIZE, assert_same_error
from mpi4py import MPI

import hpcdist
from hpcdist import algorithms
from hpcdist.collectives.decide import LARGEST_MESSAGE
from hpcdist.collectives.plan import CACHED_BUFFERS
from hpcdist.transport.mpi import transport_of

pytestmark = pytest.mark.mpi


@pytest.mark.every_size
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


# --- what a plan says of itself ---


def test_a_plan_knows_its_algorithm_segment_topology_and_reason(comm):
    plan = hpcdist.plan(comm, np.zeros(4), algorithm="tree", segment_nbytes=4096)
    assert (plan.algorithm, plan.segment_nbytes, plan.why) == ("tree", 4096, "it was asked for")
    assert plan.topology == (0,) * SIZE
    assert plan.schedule.size == SIZE


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("nbytes", [1, 8, 15])
def test_a_segment_has_one_element_at_least_and_no_more_than_it_may(comm, nbytes):
    buffer = np.full(50, RANK + 1)
    plan = hpcdist.plan(comm, buffer, algorithm="ring", segment_nbytes=nbytes)
    assert {operation.count for operation in plan.bound.program.operations} == {1}
    plan()
    assert (buffer == SIZE * (SIZE + 1) // 2).all()


@pytest.mark.every_size
def test_auto_is_the_same_algorithm_on_all_ranks_and_says_why(comm):
    several = [rank % 2 for rank in range(SIZE)]  # on one node they would be passed through shared memory
    for count in (1, 1 << 18):
        plan = hpcdist.plan(comm, np.zeros(count), topology=several)
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


@pytest.mark.every_size
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


@pytest.mark.every_size
@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("field", ALIKE)
def test_a_plan_on_which_ranks_differ_raises_the_same_error_on_all(field):
    buffer, op, algorithm = arguments(field)
    assert_same_error(
        lambda: hpcdist.plan(COMM, buffer, op=op, algorithm=algorithm),
        f"{spans(LAST - 1)}{field}={ALIKE[field]!r}; rank {LAST}: {field}={DIFFERENT[field]!r}",
    )


@pytest.mark.every_size
@pytest.mark.mpi(min_size=2)
def test_ranks_that_make_different_calls_hear_of_it():
    def call():
        if RANK == 0:
            hpcdist.bcast(COMM, np.zeros(3))
        else:
            hpcdist.reduce(COMM, np.zeros(3))

    assert_same_error(call, "rank 0: call='bcast'", "call='reduce'")


@pytest.mark.every_size
@pytest.mark.mpi(min_size=2)
def test_ranks_that_name_different_roots_hear_of_it():
    assert_same_error(lambda: hpcdist.bcast(COMM, np.zeros(3), root=int(RANK == 0)), "rank 0: root=1", "root=0")


@pytest.mark.every_size
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
    "a list": (lambda: [0.0] * 12, "buffer must be a NumPy or CuPy array, not list"),
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


def test_a_plan_is_found_at_a_glance_until_it_is_dropped_and_never_for_other_arguments(comm):
    transport, total = transport_of(comm), SIZE * (SIZE + 1) // 2
    first = np.full((2, 3), RANK + 1, np.int64)
    for shape in ((2, 3), (6,), (3, 2)):  # the same memory in other shapes
        hpcdist.allreduce(comm, first.reshape(shape))
        assert len(transport.seen) == 1
        assert first.tolist() == [[total] * 3] * 2
        first[:] = RANK + 1
    (plan,) = transport.seen.values()
    hpcdist.allreduce(comm, first, op="max")
    assert first.tolist() == [[SIZE] * 3] * 2
    first[:] = RANK + 1
    hpcdist.allreduce(comm, first)
    assert first.tolist() == [[total] * 3] * 2
    others = [np.ones((2, 3), np.int64) for _ in range(CACHED_BUFFERS)]
    for other in others:
        hpcdist.allreduce(comm, other)
    assert plan not in transport.seen.values()
    assert {plan.sight is not None for plan in transport.seen.values()} == {True}
    assert len(transport.seen) == CACHED_BUFFERS + 1  # with that of the maximum


def test_bad_arguments_are_seen_where_good_ones_were_known(comm):
    buffer, out = np.ones((4, 4), np.float32), np.ones((4, 4), np.float32)
    hpcdist.allreduce(comm, buffer)
    hpcdist.allreduce(comm, buffer, out=out)
    read_only = buffer.view()
    read_only.flags.writeable = False
    hpcdist.allreduce(comm, read_only, out=out)  # which is fine
    bad = [
        ({"buffer": buffer.T}, "contiguous"),
        ({"buffer": read_only}, "read-only"),
        ({"op": ["sum"]}, "there is no operation"),
        ({"out": out.reshape(16)}, "but buffer is"),
        ({"out": out.view(np.int32)}, "but buffer is"),
        ({"out": buffer}, "overlaps"),
    ]
    for change, said in bad:
        with pytest.raises(hpcdist.ArgumentError, match=said):
            hpcdist.allreduce(comm, **{"buffer": buffer, **(change if RANK == LAST else {})})
    np.testing.assert_array_equal(hpcdist.allreduce(comm, np.ones(3)), [SIZE] * 3)


@pytest.mark.every_size
def test_a_call_after_one_that_was_interrupted_is_refused_on_all_ranks(comm, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    buffer = np.zeros(4)
    hpcdist.allreduce(comm, buffer, algorithm="ring")
    hpcdist.allreduce(comm, buffer, algorithm="ring")
    (plan,) = transport_of(comm).seen.values()
    monkeypatch.setattr(plan.bound._runner, "run", interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        hpcdist.allreduce(comm, buffer, algorithm="ring")
    with pytest.raises(hpcdist.ArgumentError, match="an earlier call like this one was interrupted"):
        hpcdist.allreduce(comm, buffer, algorithm="ring")
    np.testing.assert_array_equal(hpcdist.allreduce(comm, np.ones(3), algorithm="tree"), [SIZE] * 3)


@pytest.mark.mpi(min_size=2)
def test_arrays_that_lie_at_different_places_are_not_known_at_a_glance(comm):
    """The last rank makes the same call twice, of which the others mean one to be with arrays of another kind."""
    ordinary, shared = np.empty(100, np.int64), hpcdist.empty(100, "int64", comm)
    mixed = ordinary if RANK == LAST else shared
    for _ in range(3):
        for buffer in (ordinary, mixed, mixed, ordinary):
            buffer[:] = RANK + 1
            hpcdist.allreduce(comm, buffer)
            assert (buffer == SIZE * (SIZE + 1) // 2).all()
