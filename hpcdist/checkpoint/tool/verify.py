"""Read all of a checkpoint and name everything that is damaged, with one piece at a time in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcdist.checkpoint.layout import STATE, Entry, Piece, digest, piece_nbytes
from hpcdist.checkpoint.reader import Checkpoint, Contents, DamagedCheckpoint, check_size
from hpcdist.checkpoint.tool.find import incomplete, misnamed
from hpcdist.checkpoint.tool.progress import Advance
from hpcdist.checkpoint.tool.rows import empty_rows

UNREADABLE = (OSError, KeyError, RuntimeError, ValueError, TypeError)  # what h5py raises for a torn file


def damages(checkpoint: Checkpoint, advance: Advance = lambda nbytes: None) -> Iterator[str]:
    """Everything that is wrong with a checkpoint of which the manifest has been read; goes on after each.

    Args:
        checkpoint: Its files need not have been looked at.
        advance: Told of every piece's bytes.
    """
    yield from misnamed(checkpoint)
    yield from incomplete(checkpoint)
    for name, nbytes in checkpoint.manifest.files.items():
        try:
            check_size(checkpoint.path, name, nbytes)
        except DamagedCheckpoint as error:
            yield error.why + _victims(checkpoint, name)
    with Contents(checkpoint) as contents, View(checkpoint) as view:
        for name, entry in checkpoint.manifest.arrays.items():
            yield from _array(contents, view, name, entry, advance)


def _victims(checkpoint: Checkpoint, file: str) -> str:
    """Which arrays are in a file."""
    arrays = checkpoint.manifest.arrays.items()
    names = [name for name, entry in arrays if any(piece.file == file for piece in entry.pieces)]
    return f"; in it: {', '.join(names)}" if names else ""


def _array(contents: Contents, view: View, name: str, entry: Entry, advance: Advance) -> Iterator[str]:
    """What is wrong with an array's pieces, or, where a piece is whole, with how state.h5 shows it."""
    said = set()
    for piece in entry.pieces:
        if (contents.path / piece.file).exists():  # else it has been said that the file is missing
            problem = _piece(contents, view, name, entry, piece)
            if problem and problem not in said:
                said.add(problem)
                yield problem
        advance(piece_nbytes(entry, piece))


def _piece(contents: Contents, view: View, name: str, entry: Entry, piece: Piece) -> str | None:
    rows = empty_rows(entry, piece.stop - piece.start)
    try:
        contents.read(name, piece, rows)
    except DamagedCheckpoint as error:
        return error.why
    if piece.file == STATE and piece.at == piece.start:  # state.h5 shows the very data that were read just now
        return None
    return view.problem(name, entry, piece, rows)


class View(ExitStack):
    """state.h5 as whoever knows only HDF5 sees it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__()
        self._path = checkpoint.path / STATE
        self._file: h5py.File | None = None

    def problem(self, name: str, entry: Entry, piece: Piece, rows: NDArray) -> str | None:
        """How a piece is shown wrongly, if it is; `rows` is overwritten."""
        if not self._path.exists():
            return None  # it has been said that it is missing
        try:
            data = self._data(name)
            if (data.shape, data.dtype.str) != (entry.shape, entry.dtype):
                return (
                    f"{STATE} shows {name} as {data.dtype.str}{list(data.shape)}, not {entry.dtype}{list(entry.shape)}"
                )
            if not entry.shape:
                rows[...] = data[()]
            elif rows.size:
                data.read_direct(rows, np.s_[piece.start : piece.stop])
        except UNREADABLE as error:
            return f"{STATE} does not show {name}: {error}"
        if digest(rows) == piece.digest:
            return None
        which = f"rows {piece.start} to {piece.stop - 1} of {name}" if entry.shape else name
        return f"{STATE} does not show {which} as they are in {piece.file}"

    def _data(self, name: str) -> h5py.Dataset:
        if self._file is None:
            self._file = self.enter_context(h5py.File(self._path, "r", locking=False))
        return self._file[name]
