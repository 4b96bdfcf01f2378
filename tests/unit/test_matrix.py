"""The pairing of test cases: few, but every value of every axis, and as often as was asked for."""

from collections import Counter
from itertools import product
from types import SimpleNamespace

import matrix
import pytest


class Case:
    """A test item with a value on each of several axes."""

    def __init__(self, nodeid, params, **paired):
        self.nodeid, self.callspec = nodeid, SimpleNamespace(params=params)
        self.markers = {"paired": SimpleNamespace(kwargs=paired)}

    def get_closest_marker(self, name):
        return self.markers.get(name)


def cases(name, lengths, **paired):
    axes = [range(length) for length in lengths]
    return [Case(f"{name}[{params}]", dict(enumerate(params)), **paired) for params in product(*axes)]


def selected(items, monkeypatch, name=""):
    monkeypatch.setattr(matrix, "WHOLE", name == "full")
    monkeypatch.setattr(matrix, "SELECTED", name == "every_size")
    dropped = []
    hook = SimpleNamespace(pytest_deselected=lambda items: dropped.extend(items))
    left = list(items)
    matrix.pytest_collection_modifyitems(SimpleNamespace(hook=hook), left)
    assert sorted(map(id, left + dropped)) == sorted(map(id, items))
    return left


@pytest.mark.parametrize(
    ("lengths", "times", "count"), [((6, 5), 1, 6), ((6, 5), 2, 12), ((9, 6, 5), 1, 9), ((4,), 3, 4)]
)
def test_every_value_is_shown_as_often_as_asked_in_the_fewest_cases(monkeypatch, lengths, times, count):
    left = selected(cases("test", lengths, times=times), monkeypatch)
    shown = Counter(value for case in left for value in case.callspec.params.items())
    assert len(left) == count
    for axis, length in enumerate(lengths):
        for value in range(length):
            assert shown[axis, value] >= min(times, len(left) if len(lengths) > 1 else 1)


def test_each_test_has_pairs_of_its_own_and_their_order_stays(monkeypatch):
    items = [*cases("one", (3, 2)), *cases("other", (2, 2))]
    left = selected(items, monkeypatch)
    assert [case.nodeid.partition("[")[0] for case in left] == ["one"] * 3 + ["other"] * 2
    assert left == [item for item in items if item in left]


def test_the_whole_matrix_has_all(monkeypatch):
    items = cases("test", (6, 5))
    assert selected(items, monkeypatch, "full") == items


def test_where_only_what_depends_on_the_number_of_ranks_is_run_it_is_paired(monkeypatch):
    one, other = cases("one", (3, 2)), cases("other", (2, 2))
    for case in other:
        case.markers["every_size"] = SimpleNamespace(args=())
    assert selected([*one, *other], monkeypatch, "every_size") == selected(other, monkeypatch)
