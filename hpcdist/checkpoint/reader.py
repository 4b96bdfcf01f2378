"""Find and read checkpoints. Reading is checking: an array comes back only if it fits its digest."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcdist.checkpoint.layout import COMMITTED, MANIFEST, Entry, Manifest, digest


class DamagedCheckpoint(RuntimeError):
    """A checkpoint does not hold what was written to it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"damaged checkpoint {path}: {why}")
        self.path = path
        self.why = why


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole: arrays by name, and facts as they were written."""

    path: Path
    step: int
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]


def committed(directory: Path) -> list[Path]:
    """Committed checkpoints below `directory`, oldest first; their contents are not looked at."""
    found = {path: COMMITTED.fullmatch(path.name) for path in directory.glob("step-*")}
    steps = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(steps, key=steps.__getitem__)


def newest(directory: Path) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
    """The newest checkpoint below `directory` that is whole, and the damaged ones that are newer."""
    damaged: list[DamagedCheckpoint] = []
    for path in reversed(committed(directory)):
        try:
            return read(path), damaged
        except (DamagedCheckpoint, FileNotFoundError) as error:
            if not os.path.lexists(path):  # a run that is still going removed it, and so has newer ones
                return newest(directory)
            damaged.append(error if isinstance(error, DamagedCheckpoint) else DamagedCheckpoint(path, str(error)))
    return None, damaged


def read(path: Path) -> Checkpoint:
    """Read the checkpoint in the directory `path`.

    Raises:
        FileNotFoundError: there is nothing of this name.
        DamagedCheckpoint: something in it is missing, cannot be read, or is not as it was written.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if not path.is_dir():
        raise DamagedCheckpoint(path, "it is not a directory")
    manifest = read_manifest(path)
    for name, nbytes in manifest.files.items():
        check_size(path, name, nbytes)
    arrays = {name: read_array(path, name, entry) for name, entry in manifest.arrays.items()}
    return Checkpoint(path, manifest.step, arrays, manifest.facts)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the checkpoint `path`, checked."""
    try:
        return Manifest.from_json((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DamagedCheckpoint(path, f"it has no {MANIFEST}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(path, f"{MANIFEST}: {error}") from error


def check_size(path: Path, name: str, nbytes: int) -> None:
    """Compare the size of a file with the manifest's."""
    try:
        found = (path / name).stat().st_size
    except FileNotFoundError as error:
        raise DamagedCheckpoint(path, f"{name} is missing") from error
    except OSError as error:
        raise DamagedCheckpoint(path, f"{name}: {error}") from error
    if found != nbytes:
        raise DamagedCheckpoint(path, f"{name} has {found} bytes, {nbytes} were written")


def read_array(path: Path, name: str, entry: Entry) -> np.ndarray:
    """One array, checked against its entry."""
    try:
        with h5py.File(path / entry.file, "r", locking=False) as file:
            values = file[name][...]
    except (OSError, KeyError, RuntimeError) as error:  # what h5py raises for a torn file
        raise DamagedCheckpoint(path, f"{entry.file}: {name} cannot be read: {error}") from error
    if (values.shape, values.dtype.str, digest(values)) != (entry.shape, entry.dtype, entry.digest):
        raise DamagedCheckpoint(path, f"{entry.file}: {name} does not fit its digest {entry.digest}")
    return values
