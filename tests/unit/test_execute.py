"""The executor on ranks as threads: every algorithm, type and operation, without MPI and without buffered sends."""

import gc
import weakref

import numpy as np
import pytest
from buffers import bits, check, distinct, special

from hpcdist import algorithms
from hpcdist.executor.bind import BoundProgram
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.schedule.ir import Rows, Schedule, Step
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.transport import TransferError
from hpcdist.transport.threads import ThreadWorld

FLOATS = [name for name, dtype in DTYPES.items() if dtype.kind != "i"]
BUFFERED = 1 << 30
SIZES = (*range(1, 17), 24, 32)


def bind(schedule, transport, buffer, segment=1 << 20, **how):
    """This rank's part of `schedule`, bound."""
    source = how.get("source")
    layout = Layout.near_equal(schedule, buffer.size, 0 if source is None else source.size)
    program = lower(schedule, transport.rank, layout, segment, average=how.get("op") == "avg")
    return BoundProgram(program, transport, buffer, **how)


def run(schedule, values, *, op="sum", segment=1 << 20, eager=0):
    """Run once on copies of `values` [size, count]; every rank's result [size, count]."""
    results = values.copy()
    ThreadWorld(schedule.size, eager).run(
        lambda transport: bind(schedule, transport, results[transport.rank], segment, op=op)()
    )
    return results


def assert_same_bits(results):
    np.testing.assert_array_equal(bits(results), np.broadcast_to(bits(results[0]), results.shape))


def two_per_node(size):
    """Nodes of two, dealt out in turn, the last one smaller if size is odd."""
    nodes = (size + 1) // 2
    return [rank % nodes for rank in range(size)]


def counts(size):
    """Counts around the number of ranks, fewer where there are many; no chunk is like the others in the last."""
    return sorted({0, 1, size - 1, size, 3 * size + 1} if size <= 8 else {size - 1, 3 * size + 1})


@pytest.mark.paired(times=2)
@pytest.mark.parametrize(
    ("size", "eager"), [*((size, 0) for size in SIZES), *((size, BUFFERED) for size in (2, 3, 5, 8, 13, 24))]
)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_every_rank_gets_the_sum(name, size, eager):
    schedule = algorithms.allreduce(name, size, two_per_node(size))
    for count in counts(size):
        values = distinct(size, count, "int64")
        results = run(schedule, values, eager=eager, segment=2)
        np.testing.assert_array_equal(results, np.broadcast_to(values.sum(axis=0), results.shape))


@pytest.mark.paired(times=4)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_every_type_and_operation_is_right_and_the_same_on_all_ranks(name, dtype, op):
    for size, count in ((2, 1), (3, 7), (5, 13)):
        values = distinct(size, count, dtype, op)
        results = run(algorithms.allreduce(name, size, two_per_node(size)), values, op=op)
        check(results[0], values, op)
        assert_same_bits(results)


@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
@pytest.mark.parametrize("size", [3, 6, 8])
def test_all_ranks_get_the_same_bits_of_sums_that_depend_on_the_order(name, size):
    values = np.random.default_rng(size).normal(size=(size, 1000)).astype(np.float32)
    results = run(algorithms.allreduce(name, size, two_per_node(size)), values, segment=64)
    assert_same_bits(results)
    check(results[0], values, "sum")


@pytest.mark.paired(times=3)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_zeros_of_both_signs_infinities_and_nans_end_the_same_on_all_ranks(name, dtype, op):
    for size, segment in ((4, 1), (4, 100), (5, 37)):
        values = special(size, 97, dtype)
        results = run(algorithms.allreduce(name, size, two_per_node(size)), values, op=op, segment=segment)
        assert_same_bits(results)
        assert np.isnan(results[0][np.isnan(values).any(axis=0)]).all()


@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_a_zero_keeps_its_sign(name):
    values = np.full((5, 6), -0.0)
    values[2, 3:] = 0.0
    results = run(algorithms.allreduce(name, 5, two_per_node(5)), values)
    np.testing.assert_array_equal(np.signbit(results), [[True] * 3 + [False] * 3] * 5)


@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_no_segment_size_changes_a_bit(name):
    schedule = algorithms.allreduce(name, 5, two_per_node(5))
    values = distinct(5, 31, "float32")
    whole = run(schedule, values)
    for segment in (1, 2, 3, 7, 30):
        np.testing.assert_array_equal(bits(run(schedule, values, segment=segment)), bits(whole))


def test_a_bound_program_runs_again_on_what_the_buffer_then_holds():
    schedule, values = algorithms.ring(4), distinct(4, 10, "int64")

    def rank_main(transport):
        buffer = values[transport.rank].copy()
        program = bind(schedule, transport, buffer, segment=2)
        seen = []
        for run in range(5):
            program()
            seen.append(buffer.copy())
            buffer[:] = values[transport.rank] * (run + 2)
        return seen

    for seen in ThreadWorld(4).run(rank_main):
        np.testing.assert_array_equal(seen, np.outer(range(1, 6), values.sum(axis=0)))


def test_out_of_place_the_input_is_left_alone_and_read_anew_in_each_run():
    schedule, values = algorithms.halving_doubling(3), distinct(3, 7, "int64")

    def rank_main(transport):
        buffer, out = values[transport.rank].copy(), np.zeros(7, np.int64)
        program = bind(schedule, transport, out, copy_from=buffer)
        program()
        first = out.copy()
        np.testing.assert_array_equal(buffer, values[transport.rank])
        buffer *= 3
        program()
        return first, out

    for first, second in ThreadWorld(3).run(rank_main):
        np.testing.assert_array_equal(first, values.sum(axis=0))
        np.testing.assert_array_equal(second, 3 * values.sum(axis=0))


def test_buffers_of_any_shape_are_combined_element_by_element():
    values = distinct(3, 24, "int32").reshape(3, 2, 3, 4)
    np.testing.assert_array_equal(run(algorithms.ring(3), values), np.broadcast_to(values.sum(axis=0), values.shape))


@pytest.mark.parametrize("eager", [0, BUFFERED], ids=["unbuffered", "buffered"])
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_a_run_started_and_polled_ends_as_a_blocking_one(name, eager):
    schedule, values = algorithms.allreduce(name, 5, two_per_node(5)), distinct(5, 12, "int64")

    def rank_main(transport):
        buffer = values[transport.rank].copy()
        program = bind(schedule, transport, buffer, segment=2)
        for _ in range(2):
            buffer[:] = values[transport.rank]
            program.start()
            if transport.rank % 2:
                while not program.test():
                    pass
            program.wait()
            assert program.test()
        return buffer

    for buffer in ThreadWorld(5, eager).run(rank_main):
        np.testing.assert_array_equal(buffer, values.sum(axis=0))


def test_programs_with_tags_of_their_own_run_beside_each_other():
    names = algorithms.ALLREDUCE
    values = distinct(4, 9 * len(names), "int64").reshape(4, len(names), 9)

    def rank_main(transport):
        buffers = values[transport.rank].copy()
        schedules = [algorithms.allreduce(name, 4) for name in names]
        programs = [bind(s, transport, b, tag=t) for t, (s, b) in enumerate(zip(schedules, buffers, strict=True))]
        for program in programs:
            program.start()
        unfinished = programs[transport.rank :] + programs[: transport.rank]
        while unfinished:
            unfinished = [program for program in unfinished if not program.test()]
        return buffers

    for buffers in ThreadWorld(4).run(rank_main):
        np.testing.assert_array_equal(buffers, values.sum(axis=0))


def test_a_program_that_runs_cannot_be_started_again():
    def rank_main(transport):
        program = bind(algorithms.ring(2), transport, np.arange(4))
        if transport.rank == 0:
            program.start()
            with pytest.raises(RuntimeError, match="still running"):
                program.start()
            program.wait()
        else:
            program()

    ThreadWorld(2).run(rank_main)


def test_a_program_given_up_cannot_run():
    program = bind(algorithms.ring(1), ThreadWorld(1).run(lambda t: t)[0], np.arange(4))
    program.free()
    with pytest.raises(RuntimeError, match="closed"):
        program()


@pytest.mark.parametrize("op", ["sum", "avg"])
def test_a_program_given_up_lets_go_of_its_memory(op):
    buffers = [np.arange(4), np.arange(4)]
    kept = [weakref.ref(buffer) for buffer in buffers]
    program = bind(algorithms.ring(1), ThreadWorld(1).run(lambda t: t)[0], buffers[0], copy_from=buffers[1], op=op)
    program()
    program.free()
    buffers.clear()
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
    assert program.progress() is None
    assert "between two runs" in program.describe()


def test_a_message_of_the_wrong_length_is_an_error_that_names_both_lengths():
    """Ranks with different counts, which the collectives refuse before they bind anything."""

    def rank_main(transport):
        program = bind(algorithms.recursive_doubling(2), transport, np.zeros(4 + transport.rank))
        with pytest.raises(TransferError) as raised:
            program()
        for again in (program, program.start, program.test, program.wait):
            with pytest.raises(RuntimeError, match="cannot run: its last run ended"):
                again()
        return str(raised.value)

    first, second = ThreadWorld(2).run(rank_main)
    assert "rank 1 sent 40 bytes where 32 were due" in first
    assert "rank 0 sent 32 bytes where 40 were due" in second


def test_a_schedule_that_waits_in_a_circle_times_out_in_the_threads():
    """The thread world itself can see a rank wait for a message that never comes."""

    def rank_main(transport):
        transport.receive(np.zeros(1), 1 - transport.rank, 0).start()
        request = transport.receive(np.zeros(1), 1 - transport.rank, 1)
        request.start()
        request.wait()

    with pytest.raises(TimeoutError, match="no message from rank 1 to rank 0"):
        ThreadWorld(2, patience=0.05).run(rank_main)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 13])
@pytest.mark.parametrize("segment", [1, 100])
def test_alltoall_moves_every_part_to_its_rank_and_place(size, segment):
    values = distinct(size, 3 * size, "int64")

    def rank_main(transport):
        out, source = np.full(3 * size, -1), values[transport.rank].copy()
        bind(algorithms.pairwise(size), transport, out, segment, source=source)()
        np.testing.assert_array_equal(source, values[transport.rank])
        return out

    results = ThreadWorld(size).run(rank_main)
    wanted = values.reshape(size, size, 3).transpose(1, 0, 2).reshape(size, -1)
    np.testing.assert_array_equal(results, wanted)


@pytest.mark.parametrize("op", ["sum", "avg"])
@pytest.mark.parametrize("root", range(5))
def test_reduce_leaves_the_result_at_the_root(root, op):
    values = distinct(5, 11, "int64")
    check(run(algorithms.reduce(5, root), values, op=op)[root], values, op)


@pytest.mark.parametrize("root", range(5))
def test_bcast_brings_what_the_root_has_to_all(root):
    values = distinct(5, 11, "int64")
    results = run(algorithms.bcast(5, root), values)
    np.testing.assert_array_equal(results, np.broadcast_to(values[root], results.shape))


@pytest.mark.parametrize("op", ["sum", "avg"])
@pytest.mark.parametrize("name", ["ring", "direct", "halving_doubling", "binary_blocks"])
def test_reduce_scatter_leaves_part_r_at_rank_r(name, op):
    values = distinct(4, 11, "int64")
    results = run(algorithms.reduce_scatter(name, 4), values, op=op)
    parts = [results[rank, 11 * rank // 4 : 11 * (rank + 1) // 4] for rank in range(4)]
    check(np.concatenate(parts), values, op)


@pytest.mark.parametrize("name", ["ring", "direct", "halving_doubling", "binary_blocks"])
def test_allgather_brings_part_r_of_rank_r_to_all(name):
    values = distinct(4, 11, "int64")
    results = run(algorithms.allgather(name, 4), values)
    wanted = np.concatenate([values[rank, 11 * rank // 4 : 11 * (rank + 1) // 4] for rank in range(4)])
    np.testing.assert_array_equal(results, np.broadcast_to(wanted, results.shape))


def test_a_step_whose_receives_overwrite_what_it_sends_reads_the_state_before_it():
    """Two ranks swap a chunk in place: neither may see the other's before its own has left."""
    swap = Schedule("swap", 2, 1, (Step.of(Rows.of([0, 1], [1, 0], 0, reduce=False)),))
    values = distinct(2, 6, "int64")
    np.testing.assert_array_equal(run(swap, values, segment=2), values[::-1])
