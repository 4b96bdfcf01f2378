"""In which order cases take turns, what their samples come to, and when it was."""

from datetime import datetime

from hpcdist.util.sampling import Spread, now, order


def test_each_comes_first_in_its_turn_and_odd_rounds_are_reversed():
    orders = ["".join(order("abc", number)) for number in range(7)]
    assert orders == ["abc", "cba", "bca", "acb", "cab", "bac", "abc"]
    assert order([], 3) == []


def test_a_spread_is_the_median_and_the_middle_80_percent():
    assert Spread.of(range(11)) == Spread(5, 1, 9, 11)
    assert Spread.of([3.0]) == Spread(3, 3, 3, 1)


def test_the_time_of_day_has_a_zone():
    assert datetime.fromisoformat(now()).tzinfo is not None
