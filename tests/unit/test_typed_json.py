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
