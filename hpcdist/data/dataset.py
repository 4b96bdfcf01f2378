"""A classification data set in an HDF5 file: what it must be, and reading it by the sample.

The file has `train/x`, `train/y`, `test/x` and `test/y`. Of each part, x [n, ...] are numbers, one sample a row, and
y [n] their labels, integers from 0. The attribute `classes` says how many classes there are; without it the largest
label does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash

Samples = tuple[np.ndarray, np.ndarray]
SPLITS = ("train", "test")
BLOCK = 16 << 20  # bytes of samples that are looked at together
CACHE = 256 << 20  # bytes of unpacked chunks that a rank keeps, at most


class DataError(ValueError):
    """The file holds no data set, or one that cannot be learnt from; says which part, sample and value."""


def write(file: h5py.File, *, train: Samples, test: Samples, classes: int) -> None:
    """Fill an empty HDF5 file with a data set.

    Args:
        file: Open for writing.
        train: x [n, ...] and y [n] to learn from.
        test: x [m, ...] and y [m] to judge by.
        classes: Number of classes; the labels y are 0 .. classes - 1.
    """
    for split, samples in zip(SPLITS, (train, test), strict=True):
        for name, values in zip("xy", samples, strict=True):
            file[f"{split}/{name}"] = values
    file.attrs["classes"] = classes


def open_file(path: Path, cache: int = 0) -> h5py.File:
    """Open an HDF5 file that is written once and never changed, so without a lock, which some file systems refuse.

    Args:
        path: Of the file.
        cache: Bytes of unpacked chunks to keep of each array; 0 for HDF5's default.

    Raises:
        OSError: naming the file, which HDF5 may leave out.
    """
    try:
        return h5py.File(path, "r", locking=False, **({"rdcc_nbytes": cache, "rdcc_w0": 0} if cache else {}))
    except OSError as error:
        raise OSError(f"{path} cannot be read as an HDF5 file: {error}") from error


@dataclass(frozen=True)
class Found:
    """What a look at a block of samples has found: a digest of its contents, and its largest label."""

    digest: str
    largest: int


class Dataset:
    """A data set opened read-only. Of its contents nothing is read until it is asked for.

    Attributes:
        path: Of the file.
        identity: Of the file: number, size and time of the last change; that of a copy is another.
        form: Types and shapes of its arrays and the attribute `classes`, in words.
        sizes: Samples of each part.
        sample_shape: Of one sample.
        classes: How many; known after `know`, unless the file says it.
        found: What was found in its `blocks`; nothing before `know`.
        digest: Of contents, types and shapes; "" before `know`.
        notes: What to know of how it is stored.

    Args:
        path: Of the file.

    Raises:
        OSError: It cannot be read.
        DataError: It has not the form of a data set.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.digest, self.notes = path, "", list[str]()
        self.found: tuple[Found, ...] = ()
        self._file = open_file(path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        self._arrays = {split: (self._array(split, "x"), self._array(split, "y")) for split in SPLITS}
        self.sizes = {split: self._check(split) for split in SPLITS}
        shapes = {split: x.shape[1:] for split, (x, _) in self._arrays.items()}
        self.sample_shape: tuple[int, ...] = shapes["train"]
        if shapes["test"] != self.sample_shape:
            raise self._wrong(f"a sample of train/x has shape {self.sample_shape}, one of test/x {shapes['test']}")
        self.classes = self._stated_classes()
        self._keep_chunks()
        stat = self.path.stat()
        self.identity = stat.st_ino, stat.st_size, stat.st_mtime_ns
        arrays = (
            f"{split}/{name} {array.dtype.str} {array.shape}"
            for split, both in self._arrays.items()
            for name, array in zip("xy", both, strict=True)
        )
        self.form = ", ".join([*arrays, f"{self.classes or 'no'} classes"])

    def _array(self, split: str, name: str) -> h5py.Dataset:
        found = self._file.get(f"{split}/{name}")
        if not isinstance(found, h5py.Dataset) or found.shape is None:
            raise self._wrong(f"there is no array {split}/{name}; a data set has train/x, train/y, test/x and test/y")
        return found

    def _check(self, split: str) -> int:
        """See that the arrays of a part have the form they must; returns its samples."""
        x, y = self._arrays[split]
        if y.ndim != 1 or y.dtype.kind not in "iu":
            raise self._wrong(f"{split}/y is {y.dtype} {y.shape}; labels must be integers in one row, [n]")
        if x.ndim < 2 or x.dtype.kind not in "fiu" or 0 in x.shape[1:]:
            raise self._wrong(f"{split}/x is {x.dtype} {x.shape}; samples must be real numbers, [n, ...]")
        if len(x) != len(y):
            raise self._wrong(f"{split}/x has {len(x)} samples and {split}/y {len(y)} labels")
        if not len(x):
            raise self._wrong(f"{split} has no samples")
        return len(x)

    def _stated_classes(self) -> int:
        if "classes" not in self._file.attrs:
            return 0
        stated: Any = self._file.attrs["classes"]
        if not isinstance(stated, np.integer | int) or stated < 1:
            raise self._wrong(f"the attribute classes is {stated!r}; it must be a positive integer")
        return int(stated)

    def _keep_chunks(self) -> None:
        """Have room for all chunks that must be unpacked: samples in random order need them all, again and again."""
        packed = [x for x, _ in self._arrays.values() if x.chunks and x.compression]
        if not packed:
            return
        wanted = sum(x.nbytes for x in packed)
        if wanted > CACHE:
            x = packed[0]
            self.notes.append(
                f"{self.path}: {x.name[1:]} is packed ({x.compression}) in chunks of {x.chunks[0]} samples, "
                f"{wanted >> 20} MiB when unpacked, of which each rank keeps {CACHE >> 20}: every step unpacks chunks "
                "again for a sample or two each; store it without compression, as `h5repack -f NONE` does"
            )
        self._file.close()
        self._file = open_file(self.path, min(wanted, CACHE))
        self._arrays = {split: (self._array(split, "x"), self._array(split, "y")) for split in SPLITS}

    def _wrong(self, what: str) -> DataError:
        return DataError(f"{self.path}: {what}")

    # --- contents ---

    def blocks(self) -> list[tuple[str, slice]]:
        """All samples in blocks that depend on nothing but the form: (part, samples)."""
        rows = max(1, BLOCK // max(1, self._arrays["train"][0].dtype.itemsize * int(np.prod(self.sample_shape))))
        return [
            (split, slice(first, min(first + rows, size)))
            for split, size in self.sizes.items()
            for first in range(0, size, rows)
        ]

    def look(self, split: str, part: slice) -> Found:
        """Look at a block of samples.

        Raises:
            DataError: A label is none, or a sample holds something that is no finite number.
        """
        x, y = (array[part] for array in self._arrays[split])
        bad = np.flatnonzero((y < 0) | (y >= self.classes if self.classes else False))
        if bad.size:
            most = f" to {self.classes - 1}" if self.classes else ""
            raise self._wrong(f"{split}/y[{part.start + bad[0]}] is {y[bad[0]]}; labels go from 0{most}")
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            at = np.argwhere(~np.isfinite(x))[0]
            where = ", ".join(map(str, (part.start + at[0], *at[1:])))
            raise self._wrong(f"{split}/x[{where}] is {x[tuple(at)]}; all samples must be finite")
        digest = xxhash.xxh64()
        for values in (x, y):
            digest.update(np.ascontiguousarray(values).data)
        return Found(digest.hexdigest(), int(y.max()))

    def know(self, found: Sequence[Found]) -> None:
        """Take over what looks at all `blocks`, in their order, have found."""
        self.found = tuple(found)
        self.classes = self.classes or 1 + max(each.largest for each in found)
        text = "\n".join([self.form, *(each.digest for each in found)])
        self.digest = xxhash.xxh64_hexdigest(text.encode())

    def look_at_all(self) -> None:
        """Look at all of it alone.

        Raises:
            DataError: As `look`.
        """
        self.know([self.look(*block) for block in self.blocks()])

    def read(self, split: str, indices: np.ndarray) -> Samples:
        """Read the samples `indices` [n], in any order but none twice, of the split "train" or "test"."""
        order = np.argsort(indices)  # HDF5 wants its selection in increasing order
        rows = indices[order]
        x, y = (np.empty((len(rows), *array.shape[1:]), array.dtype) for array in self._arrays[split])
        if len(rows):
            x[order], y[order] = (array[rows] for array in self._arrays[split])
        return x, y

    def labels(self, split: str) -> np.ndarray:
        """How many samples of a part there are of each class, [classes]; after `know`."""
        return np.bincount(self._arrays[split][1][()], minlength=self.classes)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
