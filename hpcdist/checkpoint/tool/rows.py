"""Arrays of a checkpoint by their rows, with no more than a piece in memory beside what was asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hpcdist.checkpoint.layout import Entry
from hpcdist.checkpoint.reader import Checkpoint, Contents


def stand_in(entry: Entry) -> NDArray:
    """An array like the entry's, without memory of its own."""
    return np.broadcast_to(np.empty((), entry.dtype), entry.shape)


def entry_nbytes(entry: Entry) -> int:
    """Bytes of an array."""
    return math.prod(entry.shape) * np.dtype(entry.dtype).itemsize


def state_nbytes(checkpoint: Checkpoint) -> int:
    """Bytes of all arrays of a checkpoint."""
    return sum(entry_nbytes(entry) for entry in checkpoint.manifest.arrays.values())


def empty_rows(entry: Entry, count: int) -> NDArray:
    """Memory for rows of an array; an array without axes is one row."""
    return np.empty((count, *entry.shape[1:]) if entry.shape else (), entry.dtype)


def read_rows(contents: Contents, name: str, first: int, end: int) -> NDArray:
    """Rows first .. end - 1 of an array, checked, whatever pieces they lie in.

    Raises:
        DamagedCheckpoint: one of the pieces is damaged.
    """
    entry = contents.entries[name]
    values = empty_rows(entry, end - first)
    for piece in entry.pieces:
        low, high = max(first, piece.start), min(end, piece.stop)
        if (low, high) == (piece.start, piece.stop):
            contents.read(name, piece, values[low - first : high - first] if entry.shape else values)
        elif low < high:
            whole = read_rows(contents, name, piece.start, piece.stop)
            values[low - first : high - first] = whole[low - piece.start : high - piece.start]
    return values


def in_step(one: Contents, other: Contents, name: str) -> Iterator[tuple[int, NDArray, NDArray]]:
    """Rows of an array of one shape and dtype in two checkpoints that may have cut it differently.

    Yields:
        The first row, and that row and those after it of both, as far as they lie in one piece in both.
    """
    mine, theirs = Cursor(one, name), Cursor(other, name)
    start = 0
    for stop in sorted({piece.stop for contents in (one, other) for piece in contents.entries[name].pieces}):
        yield start, mine.rows(start, stop), theirs.rows(start, stop)
        start = stop


class Cursor:
    """The pieces of an array, each read once, in order."""

    def __init__(self, contents: Contents, name: str) -> None:
        self._contents, self._name = contents, name
        self._left = iter(contents.entries[name].pieces)
        self._values = np.empty(0)
        self._start = self._stop = -1

    def rows(self, start: int, stop: int) -> NDArray:
        """Rows start .. stop - 1, which lie in one piece, not before those asked for earlier."""
        while self._stop < stop:
            piece = next(self._left)
            self._start, self._stop = piece.start, piece.stop
            self._values = np.empty(0)  # gives the memory back before more is asked for
            self._values = read_rows(self._contents, self._name, piece.start, piece.stop)
        return self._values[start - self._start : stop - self._start] if self._values.ndim else self._values
