"""JSON read into types, by msgspec; what does not fit is an error that names file, place and value."""

from __future__ import annotations

import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def decode(text: str | bytes, kind: type[T], where: str) -> T:
    """Read JSON into a type.

    Args:
        text: the JSON.
        kind: what it is to be; a msgspec.Struct, a dataclass, or what they are made of.
        where: the file, for errors.

    Raises: ValueError if it is no JSON, or does not fit; the message is "file: place: what was expected; found value".
    """
    try:
        document = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"{where}: no JSON that can be read ({error})") from None
    return convert(document, kind, where)


def convert(document: Any, kind: type[T], where: str) -> T:
    """Make what JSON was read into a type; arguments and errors are those of `decode`."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        expected, _, place = str(error).partition(" - at `$")
        place = place.rstrip("`").lstrip(".")
        found = _at(document, place)
        raise ValueError(f"{where}: {f'{place}: ' if place else ''}{expected}; found {found!r:.60}") from None


def _at(document: Any, place: str) -> Any:
    """The value at a place such as `rules[0].size`, as far as it is told: a member of any name is [...]."""
    for name, index in re.findall(r"(\w+)|\[(\d+)\]", place.partition("[...]")[0]):
        document = document[int(index)] if index else document[name]
    return document
