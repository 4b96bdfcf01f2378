"""JSON that every reader takes, and JSON read into types, by msgspec: what does not fit is an error that names it."""

from __future__ import annotations

import json
import math
import re
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def text(document: Any, indent: int | None = 1) -> str:
    """A document as JSON, with an end of line. JSON has no infinities and no NaN: numbers that are none are null."""
    try:
        return json.dumps(document, indent=indent, allow_nan=False) + "\n"
    except ValueError:
        return json.dumps(_finite(document), indent=indent, allow_nan=False) + "\n"


def lines(document: Any, depth: int) -> str:
    """A document as `text` writes it, but what is below so many levels in one line."""
    return _lines(document, depth, "\n") + "\n"


def _lines(document: Any, depth: int, end: str) -> str:
    if not depth or not document or not isinstance(document, dict | list):
        return text(document, None)[:-1]
    inner = end + " "
    if isinstance(document, list):
        return f"[{inner}{f',{inner}'.join(_lines(each, depth - 1, inner) for each in document)}{end}]"
    named = (f"{text(name, None)[:-1]}: {_lines(each, depth - 1, inner)}" for name, each in document.items())
    return f"{{{inner}{f',{inner}'.join(named)}{end}}}"


def exact(document: Any, what: str) -> Any:
    """The document as it will be read back, for what must not change on its way.

    Raises: ValueError if JSON cannot hold it, as an infinity, a NaN or an array; says `what` it is.
    """
    try:
        return json.loads(json.dumps(document, allow_nan=False))
    except (TypeError, ValueError) as error:
        odd = "; write null or a text instead of infinities and NaN" if isinstance(error, ValueError) else ""
        raise ValueError(f"{what} are not what JSON can hold: {error}{odd}") from None


def _finite(document: Any) -> Any:
    if isinstance(document, dict):
        return {name: _finite(value) for name, value in document.items()}
    if isinstance(document, list | tuple):
        return [_finite(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


def decode(content: str | bytes, kind: type[T], where: str) -> T:
    """Read JSON into a type.

    Args:
        content: the JSON.
        kind: what it is to be; a msgspec.Struct, a dataclass, or what they are made of.
        where: the file, for errors.

    Raises: ValueError if it is no JSON, or does not fit; the message is "file: place: what was expected; found value".
    """
    try:
        document = msgspec.json.decode(content)
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
