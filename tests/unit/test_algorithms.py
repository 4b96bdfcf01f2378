"""Every algorithm is proven for many sizes, and its steps and bytes, counted from the data, are those it states."""

import math
from collections import defaultdict

import numpy as np
import pytest
from matrix import WHOLE

from hpcdist import algorithms, verify
from hpcdist.algorithms.binary_blocks import blocks
from hpcdist.algorithms.double_binary_trees import best_blocks, height
from hpcdist.schedule.algebra import mirror, owned_in_order, place, relabel, then
from hpcdist.simulate import cost

SIZES = range(1, 34)
FLAT = [name for name in algorithms.ALLREDUCE if name != "hierarchical"]
NBYTES = 1 << 20


def largest_power(size):
    return 2 ** int(math.log2(size))


def lg(size):
    """log2 of the largest power of two <= size."""
    return int(math.log2(size))


def topologies(size):
    """Unequal nodes, nodes dealt out in turn, a node of one rank, and one rank per node."""
    numbers = np.random.default_rng(size)
    yield [0] * size
    yield list(range(size))
    yield [rank % 3 for rank in range(size)]
    yield [rank // 4 for rank in range(size)]
    yield [0, *[1] * (size - 1)]
    yield numbers.integers(0, 4, size).tolist()


# --- proofs ---


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_an_all_reduce_is_proven(name, size):
    verify(algorithms.allreduce(name, size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("table", [algorithms.SCATTER_REDUCE, algorithms.ALL_GATHER], ids=["reduce", "gather"])
def test_the_phases_are_proven(table, size):
    for phase in table.values():
        verify(phase(size))


@pytest.mark.parametrize("size", SIZES)
def test_the_relatives_are_proven(size):
    verify(algorithms.pairwise(size))
    for root in {0, size // 2, size - 1}:
        verify(algorithms.reduce(size, root))
        verify(algorithms.bcast(size, root))
    for make in (algorithms.reduce_scatter, algorithms.allgather):
        for name in ("ring", "direct"):
            schedule = make(name, size)
            assert schedule.contract.owner.tolist() == list(range(size))
            verify(schedule)


@pytest.mark.parametrize("size", SIZES)
def test_hierarchical_is_proven_on_nodes_of_any_shape(size):
    for topology in topologies(size):
        verify(algorithms.hierarchical(size, topology))


@pytest.mark.paired(times=3)
@pytest.mark.parametrize("outer", FLAT)
@pytest.mark.parametrize("inner", algorithms.SCATTER_REDUCE)
def test_hierarchical_is_proven_with_any_algorithms_inside_and_between_nodes(inner, outer):
    for size in (1, 2, 7, 13, 24):
        for topology in topologies(size):
            verify(algorithms.allreduce(f"hierarchical:{inner}+{outer}", size, topology))


@pytest.mark.paired(times=2)
@pytest.mark.parametrize("name", ["halving_doubling", "binary_blocks", "circulant", "recursive_doubling", "tree"])
@pytest.mark.parametrize("size", [63, 96, 127, 257, 600, 1000, 2049, 4095])
def test_logarithmic_algorithms_are_proven_at_large_sizes(name, size):
    verify(algorithms.allreduce(name, size))


@pytest.mark.parametrize("name", ["binary_blocks", "recursive_doubling"] if WHOLE else ["binary_blocks"])
def test_a_world_of_4096_is_proven(name):
    verify(algorithms.allreduce(name, 4096))


@pytest.mark.parametrize("name", ["ring", "direct"])
@pytest.mark.parametrize("size", [64, 127, 600])
def test_linear_algorithms_are_proven_at_large_sizes(name, size):
    verify(algorithms.allreduce(name, size))


@pytest.mark.parametrize("size", [63, 64, 96, 127, 257, 600, 1023])
def test_double_binary_trees_are_proven_at_large_sizes(size):
    verify(algorithms.double_binary_trees(size))


@pytest.mark.parametrize("size", [*SIZES, 100])
@pytest.mark.parametrize("count", [1, 2, 5, 32])
def test_double_binary_trees_are_proven_in_any_number_of_blocks(size, count):
    verify(algorithms.double_binary_trees(size, count))


@pytest.mark.parametrize("topology", [[r // 8 for r in range(256)], [r % 37 for r in range(500)]])
def test_hierarchical_is_proven_at_large_sizes(topology):
    verify(algorithms.hierarchical(len(topology), topology))


# --- steps and bytes, as the docstrings state them ---


def steps(name, size):
    folds = 2 * (size != largest_power(size))
    return {
        "ring": 2 * (size - 1),
        "halving_doubling": 2 * lg(size) + folds,
        "recursive_doubling": lg(size) + folds,
        "direct": 2 if size > 1 else 0,
        "tree": 2 * math.ceil(math.log2(size)),
        "binary_blocks": 2 * steps_of_blocks([len(block) for block in blocks(size)]),
        "circulant": 2 * math.ceil(math.log2(size)),
        "double_binary_trees": 2 * (lg(size) + best_blocks(size) - 1) if size > 1 else 0,
    }[name]


def steps_of_blocks(lengths):
    """t(b) = max(log2(b), t(next smaller)) + 1, and log2(b) for the smallest."""
    first, *smaller = lengths
    return max(lg(first), steps_of_blocks(smaller)) + 1 if smaller else lg(first)


def sent(name, size):
    """Buffers sent by each rank, or the most that any rank sends where they differ."""
    power = largest_power(size)
    return {
        "ring": 2 * (size - 1) / size,
        "halving_doubling": 2 * (power - 1) / power + (size != power),
        "recursive_doubling": lg(size) + (size != power),
        "direct": 2 * (size - 1) / size,
        "tree": math.ceil(math.log2(size)),
        "binary_blocks": 2.0,
        "circulant": 2 * (size - 1) / size,
        "double_binary_trees": {1: 0.0, 2: 1.0, 3: 1.5}.get(size, 2.0),
    }[name]


@pytest.mark.parametrize("size", [*SIZES, 64, 96, 100])
@pytest.mark.parametrize("name", FLAT)
def test_steps_and_bytes_are_those_stated(name, size):
    schedule = algorithms.allreduce(name, size)
    counts = cost.count(schedule)
    buffers = counts.sent / schedule.chunks
    assert counts.steps == steps(name, size)
    assert buffers.max() == pytest.approx(sent(name, size)) or (
        name == "binary_blocks" and buffers.max() <= sent(name, size)
    )
    assert counts.sent.sum() == counts.received.sum()
    assert counts.sent_bytes(NBYTES, schedule.chunks) == pytest.approx(buffers * NBYTES)


@pytest.mark.parametrize("size", SIZES)
def test_ring_and_direct_send_no_byte_more_than_they_must(size):
    """2 (size - 1) / size of the buffer per rank is the lower bound, and each rank adds (size - 1) / size of it."""
    for name in ("ring", "direct"):
        counts = cost.count(algorithms.allreduce(name, size))
        assert (counts.sent == 2 * (size - 1)).all()
        assert (counts.reduced == size - 1).all()
        assert (counts.messages == 2 * (size - 1)).all()


@pytest.mark.parametrize("size", [*SIZES, 96, 127, 600])
def test_circulant_sends_no_byte_more_than_it_must_in_the_fewest_steps(size):
    counts = cost.count(algorithms.circulant(size))
    assert counts.steps == 2 * math.ceil(math.log2(size))
    assert (counts.sent == 2 * (size - 1)).all()
    assert (counts.reduced == size - 1).all()
    assert counts.messages.max() <= 2 * counts.steps


def test_circulant_hands_on_half_of_what_is_left_and_cuts_runs_that_go_around():
    steps = [list(step.rows()) for step in algorithms.SCATTER_REDUCE["circulant"](6).steps]
    assert [{(row.dst - row.src) % 6 for row in rows} for rows in steps] == [{3}, {2}, {1}]
    around = [row for row in steps[0] if row.src == 1]
    assert [str(row) for row in around] == ["1->4 c4..5+", "1->4 c0+"]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("count", [1, 3])
def test_double_binary_trees_send_what_they_state(size, count):
    counts = cost.count(algorithms.double_binary_trees(size, count))
    assert counts.steps == (2 * (height(size) + count - 1) if size > 1 else 0)
    assert counts.messages.sum() == counts.sent.sum() == 4 * count * (size - 1)  # each edge of two trees, up and down
    assert counts.messages.max() <= 4 * count
    assert counts.reduced.sum() == 2 * count * (size - 1)


@pytest.mark.parametrize("size", [*SIZES, 96, 127, 600])
def test_nobody_is_an_inner_node_of_both_trees_and_nobody_has_three_children(size):
    schedule = algorithms.SCATTER_REDUCE["double_binary_trees"](size, 1)
    rows = [row for step in schedule.steps for row in step.rows()]
    inner = [{row.dst for row in rows if row.src_chunk == tree} for tree in (0, 1)]
    assert not inner[0] & inner[1]
    for tree in (0, 1):
        sources = [row.src for row in rows if row.src_chunk == tree]
        assert sorted([*sources, schedule.contract.owner[tree]]) == list(range(size))  # all but the root have a parent
        assert max(np.bincount([row.dst for row in rows if row.src_chunk == tree], minlength=1)) <= 2


@pytest.mark.parametrize("size", [2, 3, 6, 7, 8, 100, 1023])
def test_the_first_tree_is_in_order_so_that_its_sums_are_in_the_order_of_ranks(size):
    """Children on the left hold lower ranks only, those on the right higher ones."""
    held = {rank: {rank} for rank in range(size)}
    for step in algorithms.SCATTER_REDUCE["double_binary_trees"](size, 1).steps:
        for row in [row for row in step.rows() if row.src_chunk == 0]:
            lower, upper = sorted((held[row.src], held[row.dst]), key=min)
            assert max(lower) < min(upper)
            held[row.dst] = lower | upper


def test_in_the_long_run_all_inner_nodes_of_a_tree_pass_on_in_every_step():
    steps = algorithms.SCATTER_REDUCE["double_binary_trees"](7, 9).steps
    assert {len(step.rows()) for step in steps[1:-1]} == {12}  # each edge of both trees
    assert [len(step.rows()) for step in (steps[0], steps[-1])] == [8, 4]  # leaves only, roots only


@pytest.mark.parametrize("size", [2, 4, 8, 64])
def test_at_powers_of_two_halving_doubling_sends_the_least_in_the_fewest_steps(size):
    counts = cost.count(algorithms.halving_doubling(size))
    assert (counts.sent == 2 * (size - 1)).all()
    assert (counts.messages == 2 * lg(size)).all()
    assert (counts.reduced == size - 1).all()


@pytest.mark.parametrize("size", [3, 6, 12, 13, 31, 33, 96, 600])
def test_binary_blocks_sends_what_it_states_in_each_block(size):
    """Nothing is folded away: who has a smaller block below gives its sums back, too."""
    for phase, reduces in ((algorithms.SCATTER_REDUCE, True), (algorithms.ALL_GATHER, False)):
        schedule = phase["binary_blocks"](size)
        buffers = cost.count(schedule).sent / schedule.chunks
        all_blocks = blocks(size)
        for block in all_blocks:
            whole = block != (all_blocks[0] if reduces else all_blocks[-1])
            n = len(block)
            np.testing.assert_allclose(buffers[block.start : block.stop], 1.0 if whole else (n - 1) / n)


def test_binary_blocks_hands_sums_to_the_next_larger_block_only():
    """As in Gloo: a rank of the block of 16 sends to 64 / 16 = 4 ranks of the block of 64, and each hears one."""
    in_blocks = blocks(600)
    assert [len(block) for block in in_blocks] == [512, 64, 16, 8]
    large, small = in_blocks[1], in_blocks[2]
    rows = [row for step in algorithms.SCATTER_REDUCE["binary_blocks"](600).steps for row in step.rows()]
    handed = [row for row in rows if row.src in small and row.dst not in small]
    assert sorted(row.dst for row in handed) == list(large)
    assert np.bincount([row.src for row in handed])[small.start :].tolist() == [4] * 16


@pytest.mark.parametrize(("nodes", "each"), [(2, 4), (4, 3), (8, 8)])
def test_hierarchical_sends_little_between_nodes_and_the_least_in_all(nodes, each):
    size, topology = nodes * each, [rank // each for rank in range(nodes * each)]
    schedule = algorithms.hierarchical(size, topology)
    across = np.zeros(size)
    for step in schedule.steps:
        for row in step.rows():
            across[row.src] += row.count * (topology[row.src] != topology[row.dst]) / schedule.chunks
    counts = cost.count(schedule)
    assert counts.steps == 2 * (each - 1) + 2 * lg(nodes)
    np.testing.assert_allclose(across, 2 * (nodes - 1) / (nodes * each))
    np.testing.assert_allclose(counts.sent / schedule.chunks, 2 * (size - 1) / size)


@pytest.mark.parametrize("size", SIZES)
def test_pairwise_sends_each_part_once(size):
    counts = cost.count(algorithms.pairwise(size))
    assert counts.steps == size
    assert (counts.sent == size - 1).all()


def test_only_the_largest_messages_of_halving_go_to_the_nearest_rank():
    for number, step in enumerate(algorithms.SCATTER_REDUCE["halving_doubling"](16).steps):
        rows = step.rows()
        assert set(np.abs(rows.src - rows.dst).tolist()) == {1 << number}
        assert set(rows.count.tolist()) == {8 >> number}


# --- the promises that counting and lazy rows rest on ---


def all_schedules(size):
    for name in algorithms.ALLREDUCE:
        yield algorithms.allreduce(name, size, [rank % 3 for rank in range(size)])
    for table in (algorithms.SCATTER_REDUCE, algorithms.ALL_GATHER):
        yield from (phase(size) for phase in table.values())
    yield algorithms.pairwise(size)
    yield algorithms.reduce(size, size - 1)
    yield owned_in_order(algorithms.SCATTER_REDUCE["ring"](size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 12, 16, 33])
def test_ranks_that_are_said_to_be_alike_are(size):
    for schedule in all_schedules(size):
        if not schedule.alike:
            continue
        for step in schedule.steps:
            rows = step.rows()
            for rank, weight in ((rows.src, 1), (rows.src, rows.count), (rows.dst, rows.count * rows.reduce)):
                per_rank = np.bincount(rank, np.broadcast_to(weight, len(rows)), size)
                assert len(set(per_rank.tolist())) == 1, f"{schedule.name}: {step}"


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 12, 16, 33])
def test_steps_of_one_pattern_move_as_much_between_the_same_ranks(size):
    for schedule in all_schedules(size):
        moves = defaultdict(set)
        for step in schedule.steps:
            if step.pattern is not None:
                moves[step.pattern].add(tuple(sorted((t.src, t.dst, t.count, t.reduce) for t in step.rows())))
        assert all(len(each) == 1 for each in moves.values()), schedule.name


def test_a_ring_has_two_patterns_and_pipelined_trees_have_few():
    assert len({step.pattern for step in algorithms.ring(50).steps}) == 2
    trees = algorithms.double_binary_trees(64, blocks=100).steps
    assert sum(step.pattern is None for step in trees) < 30 < 200 < len(trees)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 12, 16, 33])
def test_the_rows_of_a_rank_are_its_rows_of_all_and_sends_and_receives_keep_their_order(size):
    for schedule in all_schedules(size):
        for step in schedule.steps:
            everything = list(step.rows())
            for rank in range(size):
                rows = list(step.rows_of(rank))
                for side in ("src", "dst"):
                    own = [row for row in everything if getattr(row, side) == rank]
                    assert [row for row in rows if getattr(row, side) == rank] == own, f"{schedule.name}: {step}"
                assert all(rank in (row.src, row.dst) for row in rows)


def test_the_rows_of_one_rank_of_a_large_ring_cost_only_themselves():
    schedule = algorithms.ring(20_000)
    made = [len(step.make(5)) for step in schedule.steps[:3]]
    assert made == [2, 2, 2]


# --- what is seen ---


def test_the_text_of_a_ring_is_one_line_per_step():
    assert str(algorithms.ring(3)) == "\n".join(
        [
            "ring: 3 ranks, 3 chunks, 4 steps",
            "0: 0->1 c0+  1->2 c1+  2->0 c2+",
            "1: 0->1 c2+  1->2 c0+  2->0 c1+",
            "2: 0->1 c1  1->2 c2  2->0 c0",
            "3: 0->1 c0  1->2 c1  2->0 c2",
        ]
    )


def test_ranges_and_places_that_differ_are_printed():
    assert str(algorithms.halving_doubling(4).steps[0]) == "0->1 c2..3+  1->0 c0..1+  2->3 c2..3+  3->2 c0..1+"
    assert str(algorithms.pairwise(2).steps[1]) == "0->1 c3=>c0  1->0 c2=>c1"


# --- bad arguments ---


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(ValueError, match=r"no all-reduce algorithm called 'rong'; choose from ring, .*hierarchical"):
        algorithms.allreduce("rong", 4)
    with pytest.raises(ValueError, match=r"'recursive_doubling'; choose from ring"):
        algorithms.allreduce("hierarchical:recursive_doubling+ring", 4)


def test_what_follows_the_name_of_a_flat_algorithm_is_an_error():
    with pytest.raises(ValueError, match="'ring:tree'"):
        algorithms.allreduce("ring:tree", 4)


def test_the_number_of_blocks_can_be_part_of_the_name():
    schedule = algorithms.allreduce("double_binary_trees:16", 6)
    assert (schedule.name, schedule.chunks) == ("double_binary_trees:16", 32)


@pytest.mark.parametrize("blocks", ["0", "-1", "x", "1.5", "\u00b2", "5000", "10000000000"])
def test_a_number_of_blocks_that_cannot_be_is_refused(blocks):
    with pytest.raises(ValueError, match=r"is no number of blocks|1 to 4096 blocks, not"):
        algorithms.allreduce(f"double_binary_trees:{blocks}", 4)


def test_a_world_without_ranks_is_refused():
    with pytest.raises(ValueError, match="at least 1 rank, not 0"):
        algorithms.allreduce("ring", 0)


def test_a_topology_of_another_size_is_refused():
    with pytest.raises(ValueError, match="nodes of 2 ranks, but there are 3"):
        algorithms.hierarchical(3, [0, 1])


def test_halving_scatters_to_all_ranks_at_powers_of_two_only():
    with pytest.raises(ValueError, match="on 6 ranks does not leave one chunk at every rank"):
        algorithms.reduce_scatter("halving_doubling", 6)


# --- the algebra ---


def test_phases_of_different_shape_cannot_follow_one_another():
    reduce, gather = algorithms.SCATTER_REDUCE, algorithms.ALL_GATHER
    with pytest.raises(ValueError, match=r"4 ranks but .* has 5"):
        then(reduce["ring"](4), gather["ring"](5))
    with pytest.raises(ValueError, match=r"4 chunks but .* has 1"):
        then(reduce["ring"](4), gather["tree"](4))
    with pytest.raises(ValueError, match="leaves chunks at other ranks"):
        then(reduce["ring"](4), gather["direct"](4))
    with pytest.raises(ValueError, match="allgather then allgather has no contract"):
        then(gather["ring"](4), gather["ring"](4))


def test_phases_with_the_same_owners_can_be_exchanged():
    verify(then(algorithms.SCATTER_REDUCE["direct"](8), owned_in_order(algorithms.ALL_GATHER["ring"](8))))


def test_the_mirror_of_a_scatter_reduce_is_an_all_gather_and_nothing_else_has_one():
    verify(mirror(algorithms.SCATTER_REDUCE["binary_blocks"](13)))
    with pytest.raises(ValueError, match="only a reduce_scatter has a mirror"):
        mirror(algorithms.ring(4))


def test_a_relabelled_schedule_is_proven_and_no_rank_may_play_two_parts():
    verify(relabel(algorithms.ring(4), [2, 0, 3, 1], 4))
    with pytest.raises(ValueError, match="4 different ranks below 5"):
        relabel(algorithms.ring(4), [0, 1, 2, 2], 5)
    with pytest.raises(ValueError, match="4 different ranks below 3"):
        relabel(algorithms.ring(4), [0, 1, 2, 3], 3)


def test_a_schedule_on_a_finer_buffer_is_proven_and_needs_a_cut_for_each_chunk():
    verify(place(algorithms.binary_blocks(12), [0, 1, 3, 4, 6, 7, 9, 10, 12], 12))
    with pytest.raises(ValueError, match="has 4 chunks, so it needs 5 cuts"):
        place(algorithms.ring(4), [0, 1, 2], 2)
