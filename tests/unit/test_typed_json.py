"""JSON that every reader takes: no infinities, no NaN; what must not change on its way is refused instead."""

import json
import math

import pytest

from hpcdist.util import typed_json


def strict(text):
    def refuse(word):
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_are_none_are_null_wherever_they_stand():
    document = {"a": math.inf, "b": [1.5, -math.inf, {"c": math.nan}], "d": (math.nan,), "e": "Infinity", "f": None}
    assert strict(typed_json.text(document)) == {
        "a": None, "b": [1.5, None, {"c": None}], "d": [None], "e": "Infinity", "f": None,
    }  # fmt: skip
    assert strict(typed_json.text([1, 2.5], None)) == [1, 2.5]
    assert typed_json.text({}).endswith("\n")


@pytest.mark.parametrize("value", [math.inf, math.nan, {1, 2}, object()])
def test_what_must_not_change_is_refused(value):
    with pytest.raises(ValueError, match=r"^the facts are not what JSON can hold: "):
        typed_json.exact({"best": [value]}, "the facts")


def test_what_json_can_hold_comes_back_as_it_will_be_read():
    assert typed_json.exact({"a": (1, 2), "b": None}, "the facts") == {"a": [1, 2], "b": None}


@pytest.mark.parametrize("depth", [0, 1, 2, 9])
def test_lines_are_the_same_document_with_a_line_for_each_member_down_to_a_depth(depth):
    document = {"a": [{"b": [1, 2.5]}, {}], "ä\n": [], "c": None}
    told = typed_json.lines(document, depth)
    assert json.loads(told) == document
    assert len(told.splitlines()) == {0: 1, 1: 5, 2: 8, 9: 13}[depth]


def test_lines_hold_no_number_that_json_does_not():
    assert typed_json.lines({"a": [math.inf, [math.nan, 1.0]]}, 1) == '{\n "a": [null, [null, 1.0]]\n}\n'
