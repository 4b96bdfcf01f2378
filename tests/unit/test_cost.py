"""Prices: the published table is met, and every short cut gives what the long way gives."""

from dataclasses import replace

import numpy as np
import pytest

from hpcdist import algorithms
from hpcdist.algorithms.double_binary_trees import best_blocks
from hpcdist.schedule.ir import Step
from hpcdist.simulate import cost
from hpcdist.simulate.cost import Model

# 5 us a message, 12.5 GB/s, 5 ps to reduce a byte
TABLE_MODEL = Model(alpha=5e-6, beta=1 / 12.5e9, gamma=5e-12)
SIZES = {64 << 10: 1e-6, 1 << 20: 1e-6, 64 << 20: 1e-4}  # nbytes -> the last digit printed [s]
# ring, halving-doubling with fold, binary blocks: in us, us and ms
TABLE = {
    12: ((120, 60, 51), (269, 364, 212), (10.3, 20.8, 11.1)),
    96: ((961, 91, 81), (1121, 413, 243), (11.9, 22.0, 11.1)),
    600: ((6001, 122, 182), (6163, 446, 356), (17.0, 22.2, 12.1)),
    31: ((310, 71, 100), (467, 385, 399), (11.0, 21.5, 20.5)),
    33: ((330, 81, 330), (488, 401, 488), (11.1, 21.9, 11.1)),
}
NAMES = ("ring", "halving_doubling", "binary_blocks")


def published(size, name):
    """(nbytes, seconds, last digit) of one algorithm."""
    column = NAMES.index(name)
    for (nbytes, digit), prices in zip(SIZES.items(), TABLE[size], strict=True):
        yield nbytes, prices[column] * (1e-3 if nbytes == 64 << 20 else 1e-6), digit


@pytest.mark.parametrize("size", TABLE)
@pytest.mark.parametrize("name", ["ring", "halving_doubling"])
def test_the_published_prices_are_met_to_the_last_digit(name, size):
    schedule = algorithms.allreduce(name, size)
    for nbytes, seconds, digit in published(size, name):
        assert cost.predict(schedule, nbytes, TABLE_MODEL) == pytest.approx(seconds, abs=0.51 * digit)


@pytest.mark.parametrize("size", TABLE)
def test_the_published_prices_of_binary_blocks_are_met_within_what_the_two_models_let_overlap(size):
    """The table lets a rank receive while it still reduces, which costs us up to 2 % more.

    And it lets a block pass anything on only when all before it is over. Here each rank has a clock of its own, so that
    with many blocks (31 and 600) those that are done go on, and the end comes up to a quarter earlier.
    """
    lowest = 0.75 if size in (31, 600) else 1.0
    for nbytes, seconds, digit in published(size, "binary_blocks"):
        price = cost.predict(algorithms.binary_blocks(size), nbytes, TABLE_MODEL)
        assert lowest * (seconds - digit / 2) <= price <= 1.02 * (seconds + digit / 2)


@pytest.mark.parametrize("size", [2, 3, 8, 13])
def test_the_price_of_a_ring_is_its_formula(size):
    model, nbytes = Model(3e-6, 2e-10, 7e-11), 10**6
    share = (size - 1) / size * nbytes
    seconds = 2 * (size - 1) * model.alpha + 2 * share * model.beta + share * model.gamma
    assert cost.predict(algorithms.ring(size), nbytes, model) == pytest.approx(seconds)


@pytest.mark.parametrize("size", [2, 3, 7, 12, 33])
def test_the_price_of_circulant_is_that_of_its_bytes_and_of_at_most_two_messages_a_step(size):
    model, nbytes = Model(3e-6, 2e-10, 7e-11), 10**6
    share, steps = (size - 1) / size * nbytes, 2 * (size - 1).bit_length()
    in_bytes = share * (2 * model.beta + model.gamma)
    price = cost.predict(algorithms.circulant(size), nbytes, model)
    assert in_bytes + steps * model.alpha <= price <= 1.000001 * (in_bytes + 2 * steps * model.alpha)


@pytest.mark.parametrize("size", [12, 96, 127, 1000])
@pytest.mark.parametrize("blocks", [8, 64])
def test_the_price_of_double_binary_trees_is_that_of_their_pipeline(size, blocks):
    """Two messages a step in both phases, each with as many steps as blocks and levels, but for the ends."""
    model, nbytes, levels = Model(3e-6, 2e-10, 0.0), 10**8, int(np.log2(size))
    step = 2 * (model.alpha + model.beta * nbytes / (2 * blocks))
    price = cost.predict(algorithms.double_binary_trees(size, blocks), nbytes, model)
    assert 2 * blocks * step <= price <= 2 * (blocks + levels) * step


@pytest.mark.parametrize("size", [31, 127, 600])
def test_the_default_number_of_blocks_is_the_best_where_bytes_cost_as_much_as_a_message_to_everybody(size):
    nbytes, best = size * TABLE_MODEL.alpha / TABLE_MODEL.beta, best_blocks(size)
    tried = range(1, 2 * best, 1 + best // 10)
    prices = [cost.predict(algorithms.double_binary_trees(size, b), nbytes, TABLE_MODEL) for b in tried]
    assert cost.predict(algorithms.double_binary_trees(size), nbytes, TABLE_MODEL) < 1.01 * min(prices)


@pytest.mark.parametrize(("size", "nbytes"), [(127, 8 << 20), (511, 16 << 20), (1023, 64 << 20)])
def test_double_binary_trees_beat_the_classics_where_a_number_of_ranks_has_many_powers_of_two(size, nbytes):
    classics = ("ring", "halving_doubling", "binary_blocks", "recursive_doubling")
    prices = [cost.predict(algorithms.allreduce(name, size), nbytes, TABLE_MODEL) for name in classics]
    assert cost.predict(algorithms.double_binary_trees(size), nbytes, TABLE_MODEL) < min(prices)


@pytest.mark.parametrize("size", [6, 12, 31, 33, 600])
def test_circulant_is_the_cheapest_for_large_buffers_where_ranks_are_no_power_of_two(size):
    prices = {}
    for name in algorithms.ALLREDUCE:
        if name != "hierarchical":
            prices[name] = cost.predict(algorithms.allreduce(name, size), 64 << 20, TABLE_MODEL)
    assert prices.pop("circulant") < min(prices.values())


def test_without_ranks_to_talk_to_nothing_costs_anything():
    for name in algorithms.ALLREDUCE:
        assert cost.predict(algorithms.allreduce(name, 1), 10**9) == 0


@pytest.mark.paired(times=6)
@pytest.mark.parametrize("topology", [None, "one node", "a node each"])
@pytest.mark.parametrize("size", [2, 3, 4, 8, 12])
@pytest.mark.parametrize("burst", [0.0, 1e5])
@pytest.mark.parametrize("name", ["ring", "direct", "halving_doubling", "recursive_doubling", "binary_blocks"])
def test_ranks_that_are_alike_are_priced_and_counted_as_if_each_were_looked_at(name, size, topology, burst):
    nodes = {None: None, "one node": (0,) * size, "a node each": tuple(range(size))}[topology]
    schedule = algorithms.allreduce(name, size)
    prices = {
        "node_alpha": 1e-6,
        "node_beta": 3e-11,
        "pair_beta": 2e-10,
        "lone_alpha": 2e-6,
        "gap": 1e-6,
        "burst": burst,
    }
    model = Model(5e-6, 1e-10, 1e-11, **prices)
    one_by_one = replace(schedule, alike=False)
    assert cost.predict(schedule, 10**6, model, nodes) == pytest.approx(cost.predict(one_by_one, 10**6, model, nodes))
    for short, long in zip(cost.count(schedule), cost.count(one_by_one), strict=True):
        np.testing.assert_array_equal(short, long)


def test_messages_inside_a_node_have_prices_of_their_own():
    model = Model(1.0, 1e-3, 0.0, node_alpha=0.25, node_beta=1e-6)
    exchange = algorithms.recursive_doubling(2)
    assert cost.predict(exchange, 1000, model, (0, 1)) == pytest.approx(2.0)
    assert cost.predict(exchange, 1000, model, (0, 0)) == pytest.approx(0.251)


@pytest.mark.parametrize("size", [3, 4, 7, 8])
def test_bytes_between_two_that_send_to_each_other_have_a_price_of_their_own(size):
    model = Model(0.0, 1e-9, 0.0, pair_beta=3e-9)
    share = 2 * (size - 1) / size * 10**6
    assert cost.predict(algorithms.ring(size), 10**6, model) == pytest.approx(1e-9 * share)
    assert cost.predict(algorithms.direct(size), 10**6, model) == pytest.approx(3e-9 * share)
    assert cost.predict(algorithms.recursive_doubling(4), 10**6, model) == pytest.approx(2 * 3e-3)
    assert cost.predict(algorithms.recursive_doubling(4), 10**6, model, (0, 0, 0, 0)) == pytest.approx(2 * 1e-3)


def test_a_message_alone_has_a_price_of_its_own():
    """Of seven ranks fold first: three messages at once, of which four would be those of all."""
    model = Model(10.0, 0.0, 0.0, lone_alpha=4.0)
    assert cost.predict(algorithms.tree(2), 8, model) == pytest.approx(4.0 + 4.0)
    assert cost.predict(algorithms.ring(2), 8, model) == pytest.approx(10.0 + 10.0)
    assert cost.predict(algorithms.recursive_doubling(3), 8, model) == pytest.approx(4.0 + 7.0 + 4.0)
    assert cost.predict(algorithms.tree(2), 8, model, (0, 0)) == pytest.approx(10.0 + 10.0)  # inside a node


def test_further_messages_of_a_rank_in_a_step_have_a_price_of_their_own():
    model = Model(10.0, 0.0, 0.0, gap=1.0)
    for size in (3, 5, 8):
        assert cost.predict(algorithms.direct(size), 8, model) == pytest.approx(2 * (10 + (size - 2)))
        assert cost.predict(algorithms.ring(size), 8, model) == pytest.approx(2 * (size - 1) * 10)
    inside = (0,) * 5  # where every message has its full price
    assert cost.predict(algorithms.direct(5), 8, model, inside) == pytest.approx(2 * 4 * 10)


def test_a_further_message_never_costs_more_than_the_first():
    assert cost.predict(algorithms.direct(4), 8, Model(1.0, 0.0, 0.0, gap=5.0)) == pytest.approx(2 * 3)


def test_what_messages_take_of_shared_cores_is_shared_by_all_ranks():
    """One of four ranks sends three messages, the others one each; half of the price is time on shared cores."""
    messages = np.array([3, 1, 1, 1, 0])
    alone = Model(10.0, 0.0, 0.0, gap=4.0).start(messages, 10.0)
    assert alone.tolist() == [10 + 2 * 4, 10, 10, 10, 0]
    shared = Model(10.0, 0.0, 0.0, gap=4.0, lone_alpha=5.0).start(messages, 10.0)
    mean = 2 / 5
    assert shared == pytest.approx([10 + 4 * (2 + mean) / 2, *3 * [10 + 4 * mean / 2], 0])
    alike = np.full(4, 3)
    assert Model(10.0, gap=4.0, lone_alpha=1.0).start(alike, 10.0) == pytest.approx(
        Model(10.0, gap=4.0).start(alike, 10.0)
    )


def test_a_message_alone_never_costs_more_than_beside_others():
    assert Model(alpha=1.0, lone_alpha=2.0).alpha_beside(0) == 1
    assert Model(alpha=1.0).alpha_beside(0) == 1


def stepwise(nbytes_of_steps, alpha, beta, burst, burst_beta):
    """The time [s] in which a link carries a message in each step, followed byte by byte in small ticks."""
    tick, now, tokens, most = alpha / 1000, 0.0, 0.0, burst
    for nbytes in nbytes_of_steps:
        ready, left = now + alpha, float(nbytes)
        while now < ready - tick / 2 or left > 0:
            now, tokens = now + tick, min(most, tokens + tick / beta)
            if now >= ready - tick / 2:
                gone = min(left, tokens, tick / burst_beta if burst_beta else left)
                left, tokens = left - gone, tokens - gone
    return now


@pytest.mark.parametrize("burst_beta", [0.0, 2e-4, 9e-4])
@pytest.mark.parametrize("burst", [100.0, 3_000.0, 1e9])
@pytest.mark.parametrize("nbytes", [40, 4_000, 40_000])
@pytest.mark.parametrize("name", ["ring", "halving_doubling"])
def test_links_that_were_idle_let_a_burst_through(name, nbytes, burst, burst_beta):
    """A token bucket, which fills while a message is made ready."""
    schedule, model = algorithms.allreduce(name, 4), Model(1.0, 1e-3, 0.0, burst=burst, burst_beta=burst_beta)
    sent = [step.rows_of(0).count[step.rows_of(0).src == 0].sum() * nbytes / 4 for step in schedule.steps]
    expected = stepwise(sent, model.alpha, model.beta, burst, burst_beta)
    assert cost.predict(schedule, nbytes, model) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("burst_beta", [0.0, 5e-4, 1e-3, 2e-3])
def test_a_burst_never_makes_a_link_faster_than_its_rate_and_never_slower(burst_beta):
    model = Model(0.0, 1e-3, 0.0, burst=1e9, burst_beta=burst_beta)
    assert cost.predict(algorithms.ring(4), 4000, model) == pytest.approx(6.0)
    assert cost.predict(replace(algorithms.ring(4), alike=False), 4000, model) == pytest.approx(6.0)


def test_the_ranks_of_a_node_share_what_its_link_lets_through_at_once():
    """Inside the node a second goes by; then two messages of 1000 bytes find 1500 that the link has saved up."""
    model = Model(0.5, 1e-3, 0.0, node_alpha=1.0, node_beta=0.0, burst=1e9)
    schedule = algorithms.recursive_doubling(4)
    assert cost.predict(schedule, 1000, model, (0, 0, 1, 1)) == pytest.approx(1.0 + 0.5 + 0.5)


def test_a_pair_never_costs_less_than_one_way():
    assert Model(beta=2e-9, pair_beta=1e-9).pair_surcharge == 0
    assert Model(beta=2e-9).pair_surcharge == 0


def test_only_bytes_between_two_that_send_to_each_other_cost_more():
    plain, pairs = Model(0, 1e-9, 0), Model(0, 1e-9, 0, pair_beta=3e-9)
    more = {
        (name, size): cost.predict(schedule, 1 << 20, pairs) - cost.predict(schedule, 1 << 20, plain)
        for name, size in (("ring", 5), ("ring", 2), ("halving_doubling", 6))
        if (schedule := algorithms.allreduce(name, size))
    }
    assert more["ring", 5] == 0
    assert more["ring", 2] == pytest.approx(2e-9 * (1 << 20))
    # two of six send all they have to a neighbour, one way; the other four exchange 2 * 3/4 of the buffer
    assert more["halving_doubling", 6] == pytest.approx(2e-9 * 1.5 * (1 << 20))


def test_the_ranks_of_a_node_share_its_link():
    """Four ranks, two on each node: in the step between the nodes two messages go through each link."""
    model = Model(1.0, 1e-3, 0.0, node_alpha=0.0, node_beta=0.0)
    schedule = algorithms.recursive_doubling(4)
    assert cost.predict(schedule, 1000, model, (0, 0, 1, 1)) == pytest.approx(1.0 + 2.0)


def test_hierarchical_is_cheaper_where_nodes_are_slow_to_reach():
    model = Model(50e-6, 1e-9, 0.0, node_alpha=1e-6, node_beta=1e-11)
    nodes = tuple(rank // 8 for rank in range(32))
    flat = cost.predict(algorithms.ring(32), 1 << 24, model, nodes)
    assert cost.predict(algorithms.hierarchical(32, nodes), 1 << 24, model, nodes) < flat


def test_very_large_worlds_of_ranks_that_are_alike_are_counted():
    counts = cost.count(algorithms.ring(2048))
    assert counts.steps == 2 * 2047
    assert (counts.sent == 2 * 2047).all()
    assert (cost.count(algorithms.halving_doubling(1 << 14)).messages == 28).all()


def test_what_would_take_minutes_is_refused():
    with pytest.raises(ValueError, match=r"ring on 20000 ranks has about .* transfers: too many"):
        cost.predict(algorithms.ring(20_000), 1 << 20, topology=tuple(rank // 8 for rank in range(20_000)))


@pytest.mark.parametrize("name", ["ring", "double_binary_trees:40", "hierarchical", "circulant"])
@pytest.mark.parametrize("model", [Model(1e-6, 2e-10, 3e-11, pair_beta=3e-10), Model(1e-6, 2e-10, 3e-11, burst=9e4)])
def test_a_price_is_that_of_all_steps_one_by_one(name, model):
    """Steps of one pattern are counted and priced once."""
    nodes = tuple(rank // 3 for rank in range(14))
    schedule = algorithms.allreduce(name, 14, nodes)
    without = replace(schedule, steps=tuple(Step(step.make) for step in schedule.steps))
    for topology in (nodes, None):
        price, counts = cost.predict(schedule, 1 << 20, model, topology), cost.count(schedule)
        assert price == pytest.approx(cost.predict(without, 1 << 20, model, topology), rel=1e-12)
        for one, other in zip(counts, cost.count(without), strict=True):
            np.testing.assert_array_equal(one, other)


def test_a_model_is_rebuilt_from_its_fields():
    model = Model(1e-6, 2e-10, 3e-11, node_beta=4e-11)
    assert Model.from_dict(model.as_dict()) == model


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"alpah": 1.0}, "has no alpah; it has alpha, beta, gamma"),
        ({"alpha": -1.0}, "alpha must be a number of seconds >= 0, not -1.0"),
        ({"beta": float("nan")}, "beta must be a number"),
        ({"gamma": float("inf")}, "gamma must be a number"),
        ({"burst": -1.0}, "burst must be a number of bytes >= 0, not -1.0"),
        ({"beta": "fast"}, "beta must be a number of seconds >= 0, not 'fast'"),
    ],
)
def test_a_model_of_nonsense_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Model.from_dict(fields)
