"""The limit: as many plain files as there are writers, the same bytes each, by plain calls of the operating system."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpcdist.util.atomic_files import opened

BLOCK = 64 << 20  # bytes written or read by one call


def write(path: Path, arrays: Mapping[str, NDArray], part: int, parts: int) -> None:
    """Write one of `parts` equal parts of the arrays into a new file, durably."""
    with opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
        for values in arrays.values():
            left = np.array_split(values, parts)[part].view(np.uint8).data
            while left:
                left = left[os.write(descriptor, left[:BLOCK]) :]
        os.fsync(descriptor)


def read(path: Path, buffer: memoryview) -> int:
    """Read a file block by block into the same memory; returns its size."""
    done = 0
    with opened(path) as descriptor:
        while got := os.readv(descriptor, [buffer]):
            done += got
    return done


def size(folder: Path) -> tuple[int, int]:
    """Number of files below a folder, and the bytes they take on the disk; holes take none."""
    files = [512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file()]
    return len(files), sum(files)
