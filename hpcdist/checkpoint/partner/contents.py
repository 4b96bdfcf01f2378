"""What is in the file of a share: its rows of the arrays, end to end, cut into pieces with a digest each."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcdist.checkpoint import layout
from hpcdist.checkpoint.host import in_host
from hpcdist.checkpoint.layout import Manifest, Piece, Shapes, digest, piece_nbytes, row_nbytes, rows_of
from hpcdist.checkpoint.part import Part
from hpcdist.checkpoint.reader import DamagedCheckpoint
from hpcdist.checkpoint.shares import Share
from hpcdist.util.atomic_files import opened

Bytes = NDArray[np.uint8]


class Cut(NamedTuple):
    """Rows `start` to `stop - 1` of the array `name`, and the bytes of the share that they are."""

    name: str
    start: int
    stop: int
    where: slice


def share_name(number: int, count: int) -> str:
    """The file of a share."""
    return f"share-{number:04d}-of-{count:04d}"


def nbytes_of(share: Share, shapes: Shapes) -> int:
    """Bytes of a share."""
    return sum((end - first) * row_nbytes(shapes[name]) for name, (first, end) in share.items())


def cut(share: Share, shapes: Shapes) -> Iterator[Cut]:
    """The pieces of a share; an array without rows is one empty piece."""
    at = 0
    for name, (first, end) in share.items():
        nbytes = row_nbytes(shapes[name])
        most = max(1, layout.PIECE // max(1, nbytes))
        for start in range(first, end, most) or [first]:
            stop = min(end, start + most)
            size = (stop - start) * nbytes
            yield Cut(name, start, stop, slice(at, at + size))
            at += size


def fill(memory: Bytes, arrays: Mapping[str, NDArray], share: Share, shapes: Shapes) -> None:
    """Copy the rows of a share."""
    for name, start, stop, where in cut(share, shapes):
        memory[where] = raw(np.ascontiguousarray(in_host(rows_of(arrays[name], start, stop))))


def describe(memory: Bytes, file: str, share: Share, shapes: Shapes) -> Part:
    """The pieces in the memory of a share."""
    pieces: dict[str, tuple[Piece, ...]] = dict.fromkeys(share, ())
    for name, start, stop, where in cut(share, shapes):
        pieces[name] += (Piece(file, start - share[name][0], start, stop, digest(memory[where])),)
    return Part({file: memory.nbytes}, pieces)


def raw(values: NDArray) -> Bytes:
    """The bytes of a contiguous array, as a view."""
    return values.reshape(-1).view(np.uint8)


def read(path: Path, manifest: Manifest, share: str, memory_of: Callable[[str, Piece], Bytes | None]) -> None:
    """Read a share and check it.

    Args:
        path: Of the file.
        manifest: Of the state.
        share: Name of the share.
        memory_of: Where a piece of an array is to be put; None to leave it out.

    Raises:
        DamagedCheckpoint: the file is not as it was written.
    """
    try:
        with opened(path) as descriptor:
            found = os.fstat(descriptor).st_size
            if found != manifest.files[share]:
                raise DamagedCheckpoint(path, f"it has {found} bytes, {manifest.files[share]} were written")
            for name, piece, offset in _places(manifest, share):
                memory = memory_of(name, piece)
                if memory is not None and (_read_at(descriptor, offset, memory) or digest(memory) != piece.digest):
                    which = f"rows {piece.start} to {piece.stop - 1} of {name}"
                    raise DamagedCheckpoint(path, f"{which} do not fit their digest {piece.digest}")
    except OSError as error:
        raise DamagedCheckpoint(path, str(error.strerror)) from error


def _places(manifest: Manifest, share: str) -> Iterator[tuple[str, Piece, int]]:
    """The pieces of a share, and the byte at which each begins."""
    at = 0
    for name, entry in manifest.arrays.items():
        for piece in entry.pieces:
            if piece.file == share:
                yield name, piece, at
                at += piece_nbytes(entry, piece)


def _read_at(descriptor: int, offset: int, memory: Bytes) -> int:
    """Fill `memory` from a file; returns how many bytes are missing."""
    view = memory.data
    while view:
        got = os.preadv(descriptor, [view], offset)
        if not got:
            break
        view, offset = view[got:], offset + got
    return len(view)
