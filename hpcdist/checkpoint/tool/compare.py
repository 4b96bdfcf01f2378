"""Whether two checkpoints hold the same state bit for bit, however each is laid out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.checkpoint.layout import Entry, piece_nbytes
from hpcdist.checkpoint.reader import Checkpoint, Contents
from hpcdist.checkpoint.tool.progress import Advance
from hpcdist.checkpoint.tool.rows import in_step
from hpcdist.checkpoint.tool.show import flat


def state_differences(one: Checkpoint, other: Checkpoint, advance: Advance) -> Iterator[str]:
    """Every difference of two states, in words: step, names, shapes, dtypes, bytes. All is read and checked.

    Raises:
        DamagedCheckpoint: a piece of one of them is damaged.
    """
    if one.step != other.step:
        yield f"step: {one.step} and {other.step}"
    with Contents(one) as mine, Contents(other) as theirs:
        for name in dict.fromkeys([*mine.entries, *theirs.entries]):
            yield from _array(mine, theirs, name, advance)


def _array(mine: Contents, theirs: Contents, name: str, advance: Advance) -> Iterator[str]:
    kinds = [_kind(contents.entries[name]) if name in contents.entries else "missing" for contents in (mine, theirs)]
    if kinds[0] == kinds[1]:
        yield from _values(mine, theirs, name, mine.entries[name], advance)
        return
    yield f"{name}: {kinds[0]} and {kinds[1]}"
    for contents in (mine, theirs):
        if entry := contents.entries.get(name):  # there is nothing to compare it with
            for piece in entry.pieces:
                contents.check(name, piece)
                advance(piece_nbytes(entry, piece))


def _values(mine: Contents, theirs: Contents, name: str, entry: Entry, advance: Advance) -> Iterator[str]:
    """How the elements of two arrays of one shape and dtype differ."""
    count, first = 0, ""
    for start, here, there in in_step(mine, theirs, name):
        unequal = unequal_elements(here, there)
        advance(2 * here.nbytes)
        if unequal.any() and not first:
            first = _first(entry, start, unequal, here, there)
        count += int(np.count_nonzero(unequal))
    if count:
        total = math.prod(entry.shape)
        yield f"{name}: {count} of {total} element{'s' * (total != 1)} differ{'s' * (count == 1)}, first {first}"


def unequal_elements(one: NDArray, other: NDArray) -> NDArray[np.bool_]:
    """Which elements of two arrays of one shape and dtype have other bytes, flat: -0.0 is not 0.0, a NaN is itself."""
    word = math.gcd(one.itemsize, 8)  # bytes compared at once
    a, b = (np.ascontiguousarray(values).reshape(-1).view(f"u{word}") for values in (one, other))
    unequal = a != b
    return unequal if word == one.itemsize else unequal.reshape(-1, one.itemsize // word).any(axis=1)


def _first(entry: Entry, start: int, unequal: NDArray[np.bool_], here: NDArray, there: NDArray) -> str:
    """Index of the first unequal element, and both values."""
    at = int(np.argmax(unequal))
    values = f"{here.reshape(-1)[at]} and {there.reshape(-1)[at]}"
    if not entry.shape:
        return values
    index = np.unravel_index(start * math.prod(entry.shape[1:]) + at, entry.shape)
    return f"at [{', '.join(map(str, index))}]: {values}"


def _kind(entry: Entry) -> str:
    return f"{entry.dtype}{list(entry.shape)}"


def fact_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    """Every difference of two sets of facts, in words."""
    mine, theirs = flat(dict(one)), flat(dict(other))
    for name in dict.fromkeys([*mine, *theirs]):
        if mine.get(name) != theirs.get(name):
            yield f"fact {name}: {mine.get(name, 'missing')} and {theirs.get(name, 'missing')}"
