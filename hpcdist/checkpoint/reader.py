"""Find and read checkpoints, in one process. Reading is checking: a piece comes back only if it fits its digest."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcdist.checkpoint.layout import COMMITTED, MANIFEST, Entry, Manifest, Piece, digest, rows_of


class DamagedCheckpoint(RuntimeError):
    """A checkpoint does not hold what was written to it."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"damaged checkpoint {self.path}: {self.why}"


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: where it is and what its manifest says. Its arrays have not been read."""

    path: Path
    manifest: Manifest

    @property
    def step(self) -> int:
        """Steps done."""
        return self.manifest.step

    @property
    def facts(self) -> dict[str, Any]:
        """Whatever else the writer wanted back."""
        return self.manifest.facts


def committed(directory: Path) -> list[Path]:
    """Committed checkpoints below `directory`, oldest first; their contents are not looked at."""
    found = {path: COMMITTED.fullmatch(path.name) for path in directory.glob("step-*")}
    steps = {path: int(match[1]) for path, match in found.items() if match}
    return sorted(steps, key=steps.__getitem__)


def newest(directory: Path) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
    """The newest checkpoint below `directory` that looks whole, and the damaged ones that are newer."""
    damaged: list[DamagedCheckpoint] = []
    for path in reversed(committed(directory)):
        try:
            return look(path), damaged
        except (DamagedCheckpoint, FileNotFoundError) as error:
            if not os.path.lexists(path):  # a run that is still going removed it, and so has newer ones
                return newest(directory)
            damaged.append(error if isinstance(error, DamagedCheckpoint) else DamagedCheckpoint(path, str(error)))
    return None, damaged


def look(path: Path) -> Checkpoint:
    """The checkpoint in the directory `path`: its manifest is read, and its files are seen to have their sizes.

    Raises:
        FileNotFoundError: there is nothing of this name.
        DamagedCheckpoint: something is missing or cannot be read.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    if not path.is_dir():
        raise DamagedCheckpoint(path, "it is not a directory")
    manifest = read_manifest(path)
    for name, nbytes in manifest.files.items():
        check_size(path, name, nbytes)
    return Checkpoint(path, manifest)


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


class Contents(ExitStack):
    """The arrays of a checkpoint, to be read piece by piece; its files stay open until the block ends."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self.path = checkpoint.path
        self.entries = checkpoint.manifest.arrays
        self._files: dict[str, h5py.File] = {}

    def read(self, name: str, piece: Piece, rows: NDArray) -> None:
        """Read a piece of an array into `rows`, contiguous memory of the piece's rows, and check it.

        Raises:
            DamagedCheckpoint: it cannot be read, or is not as it was written.
        """
        entry = self.entries[name]
        try:
            self._transfer(name, entry, piece, rows)
        except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:  # what h5py raises for a torn file
            raise DamagedCheckpoint(self.path, f"{piece.file}: {name} cannot be read: {error}") from error
        if digest(rows) != piece.digest:
            which = f"rows {piece.start} to {piece.stop - 1} of {name}" if entry.shape else name
            raise DamagedCheckpoint(self.path, f"{piece.file}: {which} does not fit its digest {piece.digest}")

    def check(self, name: str, piece: Piece) -> None:
        """Read a piece for damage, likewise."""
        entry = self.entries[name]
        shape = (piece.stop - piece.start, *entry.shape[1:]) if entry.shape else ()
        self.read(name, piece, np.empty(shape, entry.dtype))

    def _transfer(self, name: str, entry: Entry, piece: Piece, rows: NDArray) -> None:
        data = self._file(piece.file)[name]
        if (data.dtype.str, data.shape[1:]) != (entry.dtype, entry.shape[1:]):
            raise ValueError(f"it is {data.dtype}{list(data.shape)}, {entry.dtype}{list(entry.shape)} was written")
        if not entry.shape:
            rows[...] = data[()]
        elif rows.size:
            data.read_direct(rows, np.s_[piece.at : piece.at + piece.stop - piece.start])

    def _file(self, name: str) -> h5py.File:
        if name not in self._files:
            # Nobody writes to it any more, and not every file system can lock.
            self._files[name] = self.enter_context(h5py.File(self.path / name, "r", locking=False))
        return self._files[name]


def read(checkpoint: Checkpoint) -> dict[str, NDArray]:
    """All arrays by name, checked; in one process.

    Raises:
        DamagedCheckpoint: something cannot be read, or is not as it was written.
    """
    entries = checkpoint.manifest.arrays
    arrays = {name: np.empty(entry.shape, entry.dtype) for name, entry in entries.items()}
    with Contents(checkpoint) as contents:
        for name, entry in entries.items():
            for piece in entry.pieces:
                contents.read(name, piece, rows_of(arrays[name], piece.start, piece.stop))
    return arrays


def check(checkpoint: Checkpoint) -> None:
    """Read all of a checkpoint, a piece at a time, for damage.

    Raises:
        DamagedCheckpoint: the first that is found.
    """
    with Contents(checkpoint) as contents:
        for name in contents.entries:
            for piece in contents.entries[name].pieces:
                contents.check(name, piece)
