"""JSON read into types: what does not fit is refused with file, place and value."""

from dataclasses import dataclass

import msgspec
import pytest

from hpcdist.util.typed_json import decode


class Point(msgspec.Struct):
    x: int
    name: str = ""


@dataclass
class Line:
    points: list[Point]


def test_what_fits_is_read_into_structs_and_dataclasses():
    read = decode('{"points": [{"x": 1}, {"x": 2, "name": "b"}]}', Line, "a.json")
    assert read == Line([Point(1), Point(2, "b")])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"points": [{"x": 1}, {"x": "2"}]}', "a.json: points[1].x: Expected `int`, got `str`; found '2'"),
        ('{"points": [{"x": true}]}', "a.json: points[0].x: Expected `int`, got `bool`; found True"),
        ('{"points": {"x": 1}}', "a.json: points: Expected `array`, got `object`; found {'x': 1}"),
        ("{}", "a.json: Object missing required field `points`; found {}"),
        ("7", "a.json: Expected `object`, got `int`; found 7"),
    ],
)
def test_what_does_not_fit_is_named_with_place_and_value(text, said):
    with pytest.raises(ValueError, match=r"^a\.json: ") as raised:
        decode(text, Line, "a.json")
    assert str(raised.value) == said


@pytest.mark.parametrize("text", ["", "{", b"\xff", "[" * 100_000, '{"points": [1,]}'])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError, match=r"^a\.json: no JSON that can be read"):
        decode(text, Line, "a.json")


def test_long_values_are_cut():
    with pytest.raises(ValueError, match="found") as raised:
        decode(f'{{"points": "{"x" * 1000}"}}', Line, "a.json")
    assert len(str(raised.value)) < 150
