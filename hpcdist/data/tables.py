"""Samples and labels from files that other programs write: NumPy's .npz and .npy, and CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from hpcdist.data.dataset import SPLITS, DataError, Samples

ROWS = 4096  # of a CSV file that are converted together


@dataclass(frozen=True)
class Source:
    """What a file holds: parts with their samples, and how its labels are called where they are not 0, 1, 2, ...

    Attributes:
        parts: By name, "train" and "test" or "all": x [n, ...] real numbers, y [n] integers from 0.
        names: Of the classes; none if labels are classes already.
    """

    parts: dict[str, Samples]
    names: list[str] = field(default_factory=list)


def read(path: Path, labels: Path | None = None, column: str | None = None) -> Source:
    """Read an .npz, .npy or .csv file.

    Args:
        path: Of the file.
        labels: Of the labels, for samples in an .npy file.
        column: Name or number of the labels' column in a CSV file; the last unless given.

    Raises:
        OSError: It cannot be read.
        DataError: It holds no samples and labels; says what and where.
    """
    if path.suffix == ".npz":
        return _of_arrays(path, _loaded(path))
    if path.suffix == ".npy" and labels:
        return _of_arrays(path, {"x": np.load(path, mmap_mode="r"), "y": np.load(labels, mmap_mode="r")})
    if path.suffix == ".csv":
        with open(path, newline="", encoding="utf-8-sig") as file:
            return _Table(path, file, column).source()
    what = (
        "samples alone; give the .npy file of their labels, too" if path.suffix == ".npy" else "of no kind known here"
    )
    raise DataError(f"{path} is {what}: HDF5 as it is, .npz, .npy and .csv")


# --- NumPy ---


def _loaded(path: Path) -> dict[str, NDArray]:
    try:
        with np.load(path) as file:
            return {name.removesuffix(".npy"): file[name] for name in file.files}
    except ValueError as error:  # objects, which would be unpickled
        raise DataError(f"{path} cannot be read as arrays of numbers: {error}") from None


def _of_arrays(path: Path, arrays: dict[str, NDArray]) -> Source:
    """Of arrays x and y, or of train_x, train_y, test_x and test_y; - / and . are as good as _, X as x."""
    by_name = {name.lower().translate(str.maketrans("-/.", "___")): values for name, values in arrays.items()}
    both = [f"{split}_{name}" for split in SPLITS for name in "xy"]
    if all(name in by_name for name in both):
        parts = {split: (by_name[f"{split}_x"], by_name[f"{split}_y"]) for split in SPLITS}
    elif all(name in by_name for name in "xy"):
        parts = {"all": (by_name["x"], by_name["y"])}
    else:
        raise DataError(f"{path} has {', '.join(arrays) or 'nothing'}; it must have x and y, or {', '.join(both)}")
    for split, (x, y) in parts.items():
        _check(f"{path}: {split}", x, y)
    names = _names(path, np.concatenate([y for _, y in parts.values()]))
    return Source({split: (x, _classes(y, names)) for split, (x, y) in parts.items()}, names)


def _check(what: str, x: NDArray, y: NDArray) -> None:
    """See that samples and labels go together, and that all samples are numbers."""
    if x.ndim < 2 or x.dtype.kind not in "fiu" or 0 in x.shape:
        raise DataError(f"{what}: x is {x.dtype} {x.shape}; samples must be real numbers, [n, ...]")
    if y.shape != x.shape[:1]:
        raise DataError(f"{what}: y is {y.shape}, but x {x.shape}; there must be one label for each sample, [n]")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = np.argwhere(~np.isfinite(x))[0]
        where = ", ".join(map(str, bad))
        raise DataError(f"{what}: x[{where}] is {x[tuple(bad)]}; all samples must be finite")


def _names(path: Path, labels: NDArray) -> list[str]:
    """Of the classes in their order; none if the labels are 0, 1, 2, ... themselves."""
    if labels.dtype.kind == "f":
        odd = np.flatnonzero(labels != np.rint(labels))
        if odd.size:
            raise DataError(f"{path}: label {odd[0]} is {labels[odd[0]]}; labels must be integers or text")
        labels = labels.astype(np.int64)
    elif labels.dtype.kind not in "biuSU":
        raise DataError(f"{path}: labels are {labels.dtype}; they must be integers or text")
    found = np.unique(labels)
    if found.dtype.kind in "biu" and np.array_equal(found, np.arange(len(found))):
        return []
    return [str(name.decode() if isinstance(name, bytes) else name) for name in found.tolist()]


def _classes(labels: NDArray, names: Sequence[str]) -> NDArray[np.int64]:
    if not names:
        return labels.astype(np.int64)
    whole = labels.astype(np.int64) if labels.dtype.kind == "f" else labels
    number = {name: place for place, name in enumerate(names)}
    texts = (str(label.decode() if isinstance(label, bytes) else label) for label in whole.tolist())
    return np.array([number[text] for text in texts], np.int64)


# --- CSV ---


class _Table:
    """A CSV file: a sample in each row, its label in one column; a first row that has no numbers is its header."""

    def __init__(self, path: Path, file: TextIO, column: str | None) -> None:
        self.path = path
        self._rows = csv.reader(file)
        first = next(self._rows, None)
        if not first:
            raise DataError(f"{path} is empty")
        self.width = len(first)
        self.header = None if any(map(_is_number, first)) else first
        self._pending = [] if self.header else [(1, first)]
        self.label = self._place(column)

    def _place(self, column: str | None) -> int:
        if column is None:
            return self.width - 1
        if self.header and column in self.header:
            return self.header.index(column)
        if column.lstrip("-").isdecimal() and -self.width <= int(column) < self.width:
            return int(column) % self.width
        named = f": {', '.join(self.header)}" if self.header else ", and no header"
        raise DataError(f"{self.path} has no column {column!r} for labels; it has {self.width} columns{named}")

    def source(self) -> Source:
        """All rows as samples, float32 [n, columns - 1], and labels."""
        x, labels = list[NDArray](), list[str]()
        for numbers, rows in self._blocks():
            labels += [row.pop(self.label).strip() for row in rows]
            x.append(self._numbers(numbers, rows))
        if not x:
            raise DataError(f"{self.path} has no rows" + (" below its header" if self.header else ""))
        y = np.array(labels)
        if all(label.lstrip("-").isdecimal() for label in labels):
            y = y.astype(np.int64)
        names = _names(self.path, y)
        return Source({"all": (np.concatenate(x), _classes(y, names))}, names)

    def _blocks(self) -> Iterator[tuple[list[int], list[list[str]]]]:
        """(line numbers, rows): as many columns as the first, and a label. Empty lines are left out."""
        rows = chain(self._pending, ((self._rows.line_num, row) for row in self._rows if row))
        while block := list(islice(rows, ROWS)):
            for line, row in block:
                if len(row) != self.width:
                    raise DataError(f"{self.path}, line {line}: {len(row)} columns; the first line has {self.width}")
                if not row[self.label].strip():
                    raise DataError(f"{self.path}, line {line}: there is no label in {self._column(self.label)}")
            yield [line for line, _ in block], [row for _, row in block]

    def _numbers(self, lines: Sequence[int], rows: list[list[str]]) -> NDArray[np.float32]:
        try:
            with np.errstate(over="ignore"):
                x = np.array(rows, np.float64).astype(np.float32)
        except ValueError:
            x = None
        if x is not None and np.isfinite(x).all():
            return x
        line, row = next((n, row) for n, row in zip(lines, rows, strict=True) if not all(map(_is_finite, row)))
        place = next(place for place, text in enumerate(row) if not _is_finite(text))
        column = self._column(place + (place >= self.label))
        raise DataError(f"{self.path}, line {line}: {row[place]!r} in {column}; samples must be finite numbers")

    def _column(self, place: int) -> str:
        return f"column {self.header[place]!r}" if self.header else f"column {place}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_finite(text: str) -> bool:
    """As float32, which is what samples become."""
    with np.errstate(over="ignore"):
        return _is_number(text) and bool(np.isfinite(np.float32(float(text))))
