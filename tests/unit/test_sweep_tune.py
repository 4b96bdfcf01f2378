"""From measurements to a selection table."""

import pytest
from sweep_records import pair, record

from hpcdist.sweep import tune
from hpcdist.tuning.table import Bracket


def measured(times):
    """Records from {algorithm: {nbytes: microseconds}}."""
    return [row for name, line in times.items() for nbytes, us in line.items() for row in pair(name, nbytes, (us, us))]


@pytest.mark.parametrize(
    ("tree", "bound"),
    [
        ((3, 9), 512),  # three times as fast at one end as it is slow at the other: halfway
        ((3, 27), 406),  # slower than the ring by more than it was faster
        ((9, 27), 256),  # a tie, in which the tree has the benefit of the doubt
        ((9.2, 27), 256),
    ],
)
def test_winners_meet_where_they_cross_on_logarithmic_scales(tree, bound):
    small, large = tree
    records = measured({"ring": {64: 9, 256: 9, 1024: 3}, "tree": {64: 3, 256: small, 1024: large}})
    (rule,) = tune.rules(records)
    assert (rule.size, rule.nodes, rule.dtype) == (8, 2, "float32")
    assert rule.choose == (Bracket(bound, "tree", 65536), Bracket(None, "ring", 65536))


def test_winners_of_which_one_was_not_measured_at_both_sizes_meet_halfway():
    records = measured({"ring": {1024: 3}, "tree": {64: 3, 256: 3, 1024: 27}})
    assert tune.brackets(records) == (Bracket(512, "tree", 65536), Bracket(None, "ring", 65536))


def test_neighbouring_sizes_keep_a_bound_between_them():
    records = measured({"ring": {8: 9, 9: 1}, "tree": {8: 1, 9: 1.06}})
    assert tune.brackets(records) == (Bracket(8, "tree", 65536), Bracket(None, "ring", 65536))


def test_one_winner_is_one_bracket():
    records = measured({"ring": {8: 1, 16: 1}, "tree": {8: 2, 16: 2}})
    assert tune.brackets(records) == (Bracket(None, "ring", 65536),)


def test_a_lead_within_the_noise_changes_nothing():
    records = measured({"ring": {8: 10, 16: 10, 32: 10}, "tree": {8: 20, 16: 9.9, 32: 20}})
    assert [bracket.algorithm for bracket in tune.brackets(records)] == ["ring"]


def test_both_placements_count():
    records = [*pair("ring", 8, (1.0, 9.0)), *pair("tree", 8, (2.0, 2.0))]
    assert [bracket.algorithm for bracket in tune.brackets(records)] == ["tree"]


def test_an_algorithm_that_was_measured_once_more_neither_wins_nor_loses_by_it():
    for other in ({"op": "max"}, {"timing": "sync"}):
        records = [*pair("ring", 8, (10.0, 10.0)), *pair("tree", 8, (12.0, 12.0))]
        for again in (0.1, 1000.0):
            for name in ("ring", "tree"):
                more = [*records, *pair(name, 8, (again, again), **other)]
                assert [bracket.algorithm for bracket in tune.brackets(more)] == ["ring"]
                assert tune.times_of(more) == pytest.approx({("ring", 65536): 10.0, ("tree", 65536): 12.0})


def test_an_algorithm_that_was_measured_in_one_placement_only_is_not_compared_with_others():
    records = [*pair("ring", 8, (10.0, 10.0)), *pair("tree", 8, (12.0, 12.0)), pair("direct", 8, (1.0, 1.0))[0]]
    records += pair("circulant", 8, (11.0, 11.0))
    assert set(tune.times_of(records)) == {(name, 65536) for name in ("ring", "tree", "circulant")}


def test_the_margin_is_on_the_mean_and_not_on_the_product():
    ops = ("sum", "max", "min", "prod")
    times = {"ring": 1.04, "tree": 1.0}  # 17 % apart in the product
    records = [each for name, us in times.items() for op in ops for each in pair(name, 8, (us, us), op=op)]
    assert tune.brackets(records, before=("ring", 65536))[0].algorithm == "ring"


def test_neither_the_library_nor_a_wrong_algorithm_is_chosen():
    records = [
        record("MPI_Allreduce", us=1),
        record("tree", us=2, wrong=1),
        record("tree", 8, us=2),
        record(us=9),
    ]
    (rule,) = tune.rules(records)
    assert rule.choose == (Bracket(None, "ring", 65536),)


def test_no_fixed_algorithm_of_the_library_is_chosen():
    assert [b.algorithm for b in tune.rules([record("library:ring", us=1), record(us=9)])[0].choose] == ["ring"]


def test_the_best_segment_of_each_size_is_in_the_table():
    records = [
        *(record(nbytes=n, us=us, segment_nbytes=65536) for n, us in ((1024, 5), (4096, 9), (65536, 9))),
        *(record(nbytes=n, us=us, segment_nbytes=1 << 20) for n, us in ((4096, 5), (65536, 5))),
        *(record("tree", n, us=7, segment_nbytes=65536) for n in (1024, 4096, 65536)),
    ]
    assert tune.brackets(records) == (Bracket(2048, "ring", 65536), Bracket(None, "ring", 1 << 20))


def test_each_type_and_each_number_of_ranks_has_its_rule():
    records = [record(), record(dtype="float64"), record(ranks=4)]
    keys = [(rule.size, rule.nodes, rule.dtype) for rule in tune.rules(records)]
    assert keys == [(4, 2, "float32"), (8, 2, "float32"), (8, 2, "float64")]


def test_no_records_are_no_rules():
    assert tune.rules([]) == ()


def test_host_memory_and_each_path_of_device_memory_have_rules_of_their_own():
    records = [
        record("ring", us=1, memory="cuda", path="staged"),
        record("tree", us=2, memory="cuda", path="staged"),
        record("shared", us=1, memory="cuda", path="peer"),
        record("ring", us=9),
        record("tree", us=5),
    ]
    rules = tune.rules(records)
    assert [(rule.memory, rule.path, rule.choose[0].algorithm) for rule in rules] == [
        ("host", "host", "tree"),
        ("cuda", "peer", "shared"),
        ("cuda", "staged", "ring"),
    ]
