"""scikit-learn's handwritten digits, converted once to an HDF5 file.

1797 images of 8 x 8 grey levels 0..16 (E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
Digits", UCI Machine Learning Repository, 1998).
"""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np

from hpcdist.data.dataset import write
from hpcdist.util.atomic_files import replacing
from hpcdist.util.caches import user_cache

SPLIT_SEED = 1998  # fixed, so that everybody means the same test images
TEST_FRACTION = 0.2
CLASSES = 10
VERSION = 1


def cached() -> Path:
    """Path of the converted file, below $XDG_CACHE_HOME or ~/.cache; converts it if it is not there yet.

    Raises:
        ModuleNotFoundError: scikit-learn is needed for the conversion and is not installed.
        OSError: It cannot be kept there; says what to do.
    """
    path = user_cache() / f"digits-v{VERSION}.h5"
    if path.exists():
        return path
    try:
        convert(path)
    except OSError as error:
        advice = (
            f"the digits cannot be kept there ({error.strerror}); set XDG_CACHE_HOME to a folder that can be written"
        )
        raise OSError(error.errno, advice, str(path)) from error
    return path


def convert(path: Path) -> None:
    """Write the digits to `path`: x float32 [n, 8, 8] in 0..1, y int64 [n], split into train and test.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    images, labels = load()
    order = np.random.default_rng(SPLIT_SEED).permutation(len(labels))
    x = (images[order] / 16).astype(np.float32)
    y = labels[order].astype(np.int64)
    first = round(TEST_FRACTION * len(y))
    memory = io.BytesIO()  # since HDF5 crashes the process if it has a file open on a disk that is full
    with h5py.File(memory, "w", libver=("earliest", "v110")) as file:
        write(file, train=(x[first:], y[first:]), test=(x[:first], y[:first]), classes=CLASSES)
        file.attrs["source"] = "sklearn.datasets.load_digits, grey levels divided by 16"
        file.attrs["split"] = f"permutation with seed {SPLIT_SEED}, its first {first} are the test set"
    with replacing(path) as draft:
        draft.write_bytes(memory.getvalue())


def load() -> tuple[np.ndarray, np.ndarray]:
    """Images [n, 8, 8] with grey levels 0..16 and labels [n] as scikit-learn ships them."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the digits come from scikit-learn, which cannot be imported here ({error}); "
            "install it with: pip install 'hpcdist[digits]'"
        ) from error
    digits = load_digits()
    return digits.images, digits.target
