"""From files of other programs to the HDF5 file that training reads."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import xxhash

from hpcdist.data.dataset import DataError, Samples, write
from hpcdist.data.tables import Source, read
from hpcdist.util.atomic_files import replacing
from hpcdist.util.caches import user_cache

TEST = 0.2  # of the samples, where a file does not say which are to judge by
SEED = 1
BLOCK = 64 << 20  # bytes that are hashed together


def cached(path: Path) -> Path:
    """The HDF5 file of an .npz or .csv file, below $XDG_CACHE_HOME or ~/.cache; made if it is not there yet.

    Raises:
        OSError: It cannot be read, or not kept.
        DataError: As `read`.
    """
    digest = xxhash.xxh64()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    made = user_cache() / f"{path.stem}-{digest.hexdigest()}.h5"
    if not made.exists():
        store(made, split(read(path), path, TEST, SEED))
    return made


def split(source: Source, path: Path, test: float, seed: int) -> Source:
    """Where there is one part only, draw which samples are to judge by; others stay as they are.

    Args:
        source: What was read.
        path: Of the file, for errors.
        test: Share of the samples that are to judge by.
        seed: Of the order in which they are drawn.

    Raises:
        DataError: There are too few samples.
    """
    if "all" not in source.parts:
        return source
    x, y = source.parts["all"]
    first = round(test * len(y))
    if not 0 < first < len(y):
        raise DataError(f"{path}: {test:g} of {len(y)} samples to judge by leave a part without any")
    order = np.random.default_rng(seed).permutation(len(y))
    chosen = {"train": np.sort(order[first:]), "test": np.sort(order[:first])}
    return Source({part: (x[rows], y[rows]) for part, rows in chosen.items()}, source.names)


def standardised(source: Source) -> Source:
    """All features with mean 0 and variance 1 in the part to learn from; those that never change become 0."""
    x, _ = source.parts["train"]
    mean, spread = x.mean(0, np.float64), x.std(0, dtype=np.float64)
    scale = np.divide(1, spread, out=np.zeros_like(spread), where=spread > 0)
    scaled = {part: (((x - mean) * scale).astype(np.float32), y) for part, (x, y) in source.parts.items()}
    return Source(scaled, source.names)


def store(path: Path, source: Source) -> None:
    """Write a data set; the file is whole or absent."""
    parts: dict[str, Samples] = source.parts
    classes = 1 + max(int(y.max()) for _, y in parts.values())
    memory = io.BytesIO()  # since HDF5 crashes the process if it has a file open on a disk that is full
    with h5py.File(memory, "w", libver=("earliest", "v110")) as file:
        write(file, train=parts["train"], test=parts["test"], classes=classes)
        if source.names:
            file.attrs["names"] = source.names
    with replacing(path) as draft:
        draft.write_bytes(memory.getbuffer())
