"""What of shared memory needs no MPI: the schedules, their programs, and the reduction of one rank in NumPy."""

import numpy as np
import pytest
from buffers import bits, distinct, in_order, special

from hpcdist import algorithms, verify
from hpcdist.kernels.reduce import DTYPES, OPS, PIECE, combine_in_order
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.schedule.program import HERE, Kind
from hpcdist.schedule.reach import reach
from hpcdist.simulate import cost

SHAPES = [[0], [0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 1], [0, 1, 0, 1, 2], [0, 1, 2], list(range(7)) * 3 + [0] * 20]


@pytest.mark.parametrize("outer", ["", ":ring", ":binary_blocks"])
@pytest.mark.parametrize("topology", SHAPES, ids=str)
def test_shared_is_proven_on_nodes_of_any_sizes(topology, outer):
    schedule = algorithms.allreduce(f"shared{outer}", len(topology), topology)
    verify(schedule)
    assert schedule.name == f"shared{outer}"


@pytest.mark.parametrize("size", range(1, 10))
def test_on_one_node_shared_is_direct(size):
    one, other = algorithms.allreduce("shared", size), algorithms.direct(size)
    assert [str(step) for step in one.steps] == [str(step) for step in other.steps]
    assert cost.predict(one, 1 << 20, cost.DEFAULT) == cost.predict(other, 1 << 20, cost.DEFAULT)


def test_an_outer_algorithm_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="called 'rong'"):
        algorithms.allreduce("shared:rong", 4, [0, 0, 1, 1])


def programs(schedule, topology, count):
    """(rank, its program), those of a node reaching each other's memory."""
    for rank, node in enumerate(topology):
        ranks = [other for other, where in enumerate(topology) if where == node]
        yield rank, lower(schedule, rank, Layout.near_equal(schedule, count), 1 << 20, reachable=reach(schedule, ranks))


@pytest.mark.parametrize("topology", SHAPES, ids=str)
def test_the_ranks_of_a_node_reduce_the_whole_buffer_once(topology):
    """Each element is summed by one rank of a node, from all of them in their order."""
    schedule = algorithms.allreduce("shared", len(topology), topology)
    reduced = {node: np.zeros(10_007, int) for node in topology}
    for rank, program in programs(schedule, topology, 10_007):
        ranks = [other for other, where in enumerate(topology) if where == topology[rank]]
        for op in program.operations:
            if op.kind is Kind.REDUCE and any(place.rank != HERE for place in op.operands):
                assert [rank if place.rank == HERE else place.rank for place in op.operands] == ranks
                assert {place.start for place in op.operands} == {op.start}
                reduced[topology[rank]][op.start : op.stop] += 1
    for node, times in reduced.items():
        assert (times == (topology.count(node) > 1)).all()


@pytest.mark.parametrize("topology", SHAPES, ids=str)
def test_messages_go_between_nodes_only_and_others_are_read_and_written_inside(topology):
    schedule = algorithms.allreduce("shared", len(topology), topology)
    for rank, program in programs(schedule, topology, 10_007):
        for op in program.operations:
            outside = op.kind in (Kind.SEND, Kind.RECV)
            if outside or op.owner != HERE:
                assert outside == (topology[rank] != topology[op.peer])
        barriers = sum(op.kind is Kind.BARRIER for op in program.operations)
        assert barriers == (2 if topology.count(topology[rank]) > 1 else 0)


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("size", range(1, 10))
def test_what_runs_through_bounce_buffers_is_proven(size, pieces):
    verify(algorithms.allreduce("one_shot", size))
    verify(algorithms.allreduce(f"two_shot:{pieces}", size))


def test_no_pieces_are_refused():
    with pytest.raises(ValueError, match="at least 1 piece"):
        algorithms.allreduce("two_shot:0", 4)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pieces_are_combined_in_order_whatever_their_number(dtype, op):
    for size in (2, 5) if op == "avg" else (1, 2, 5):
        for count in (0, 1, PIECE // 4 + 1, PIECE):
            values = distinct(size, count, dtype, op)
            results = [np.zeros(count, DTYPES[dtype]) for _ in range(3)]
            combine_in_order(op, list(values), results, size if op == "avg" else 1)
            for result in results:
                np.testing.assert_array_equal(bits(result), bits(in_order(values, op)))


def test_a_result_may_replace_the_inputs():
    values = special(3, 5000, "float64")
    wanted = in_order(values, "sum")
    combine_in_order("sum", list(values), list(values))
    for row in values:
        np.testing.assert_array_equal(row, wanted)
