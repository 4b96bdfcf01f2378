"""What of shared memory needs no MPI: the schedule, the room, and the reduction of one rank in NumPy."""

import numpy as np
import pytest
from buffers import bits, distinct, in_order, special

from hpcdist import algorithms, verify
from hpcdist.algorithms.shared import between_nodes, own_chunks
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.schedule.layout import Layout
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


@pytest.mark.parametrize("topology", SHAPES, ids=str)
def test_the_ranks_of_a_node_own_the_whole_buffer_once(topology):
    schedule = algorithms.allreduce("shared", len(topology), topology)
    layout = Layout.near_equal(schedule, 10_007)
    for node in set(topology):
        ranks = [rank for rank, where in enumerate(topology) if where == node]
        cuts = [tuple(map(layout.start, own_chunks(schedule, topology, rank))) for rank in ranks]
        assert [first for first, _ in cuts] == [0, *(end for _, end in cuts[:-1])]
        assert cuts[-1][1] == 10_007


@pytest.mark.parametrize("topology", SHAPES, ids=str)
def test_messages_go_between_nodes_only_and_from_the_owners_part(topology):
    schedule = algorithms.allreduce("shared", len(topology), topology)
    for step in between_nodes(schedule, topology).steps:
        for row in step.rows():
            first, end = own_chunks(schedule, topology, row.src)
            assert topology[row.src] != topology[row.dst]
            assert first <= row.src_chunk
            assert row.src_chunk + row.count <= end


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pieces_are_combined_in_order_whatever_their_number(dtype, op):
    from hpcdist.executor.intranode.stages import PIECE, reduce_in_pieces

    for size in (1, 2, 5):
        for count in (0, 1, PIECE // 4 + 1, PIECE):
            values = distinct(size, count, dtype, op)
            results = [np.zeros(count, DTYPES[dtype]) for _ in range(3)]
            reduce_in_pieces(list(values), results, op)
            for result in results:
                np.testing.assert_array_equal(bits(result), bits(in_order(values, op)))


def test_a_result_may_replace_the_inputs():
    from hpcdist.executor.intranode.stages import reduce_in_pieces

    values = special(3, 5000, "float64")
    wanted = in_order(values, "sum")
    reduce_in_pieces(list(values), list(values), "sum")
    for row in values:
        np.testing.assert_array_equal(row, wanted)
