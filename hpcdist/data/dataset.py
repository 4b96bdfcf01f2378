"""A classification data set in an HDF5 file, read by the sample.

Layout: groups `train` and `test`, each with `x` [n, ...] and `y` int64 [n]; attributes `classes` and
`digest`.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import xxhash

Samples = tuple[np.ndarray, np.ndarray]
SPLITS = ("train", "test")


def write(file: h5py.File, *, train: Samples, test: Samples, classes: int) -> None:
    """Fill an empty HDF5 file with a data set.

    Args:
        file: Open for writing.
        train: x [n, ...] and y [n] to learn from.
        test: x [m, ...] and y [m] to judge by.
        classes: Number of classes; the labels y are 0 .. classes - 1.
    """
    digest = xxhash.xxh64()
    for split, samples in zip(SPLITS, (train, test), strict=True):
        for name, values in zip("xy", samples, strict=True):
            file[f"{split}/{name}"] = values
            digest.update(np.ascontiguousarray(values).data)
    file.attrs["classes"] = classes
    file.attrs["digest"] = digest.hexdigest()


def open_file(path: Path) -> h5py.File:
    """Open an HDF5 file that is written once and never changed, so without a lock, which some file systems refuse.

    Raises:
        OSError: naming the file, which HDF5 may leave out.
    """
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise OSError(f"{path} cannot be read as an HDF5 file: {error}") from error


class Dataset:
    """A data set opened read-only; nothing is read until it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file = open_file(path)
        self.path = path
        try:
            self.classes = int(self._file.attrs["classes"])
            self.digest = str(self._file.attrs["digest"])
            self.sizes = {split: len(self._file[split]["y"]) for split in SPLITS}
            self.sample_shape: tuple[int, ...] = self._file["train"]["x"].shape[1:]
        except KeyError as error:
            self.close()
            raise ValueError(f"{path} is not a data set of this package: {error}") from error

    def read(self, split: str, indices: np.ndarray) -> Samples:
        """Read the samples `indices` [n], in any order but none twice, of the split "train" or "test"."""
        order = np.argsort(indices)  # HDF5 wants its selection in increasing order
        group, rows = self._file[split], indices[order]
        x = np.empty((len(rows), *self.sample_shape), group["x"].dtype)
        y = np.empty(len(rows), group["y"].dtype)
        if len(rows):
            x[order], y[order] = group["x"][rows], group["y"][rows]
        return x, y

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Dataset:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
