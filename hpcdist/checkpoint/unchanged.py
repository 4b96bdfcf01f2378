"""Pieces that have not changed since the last checkpoint are not written again, where that pays.

The file that holds them gets a second name, by a hard link in the new checkpoint. So a checkpoint still has all its
files in its own directory, and an older one can be removed at any time; but damage to such a file is damage to all
checkpoints that share it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from hpcdist.checkpoint.layout import Piece, digest

MOST = 2  # bytes of files that are kept, for each byte of a piece: so much of what has changed may be kept along
PAYS = 0.5  # share of a writer's bytes that must be unchanged
SLACK = 4 << 20  # bytes that HDF5 may take itself, for alignment
HEAD = 64 << 10  # bytes of a piece that are looked at first: where they have changed, no more needs to be known

Pieces = Mapping[str, tuple[Piece, ...]]
Heads = Mapping[str, tuple[str, ...]]  # array -> digest of the first bytes of each of its pieces
Kept = dict[tuple[str, int], Piece]  # array, first row -> where these rows lie already


@dataclass(frozen=True)
class Previous:
    """The last checkpoint, and which pieces in it were this writer's."""

    path: Path
    pieces: Pieces
    files: Mapping[str, int]  # bytes by name
    heads: Heads  # of these pieces


def head(values: NDArray) -> str:
    """Digest of the first bytes of a piece, which is contiguous."""
    return digest(np.ascontiguousarray(values).reshape(-1).view(np.uint8)[:HEAD])


def maybe_unchanged(pieces: Pieces, heads: Heads, previous: Previous) -> set[tuple[str, int]]:
    """Array and first row of the pieces that begin as they did before."""
    same = _beginnings(pieces, heads) & _beginnings(previous.pieces, previous.heads)
    return {(name, start) for name, start, _ in same}


def _beginnings(pieces: Pieces, heads: Heads) -> set[tuple[str, int, str]]:
    return {(name, piece.start, head) for name in heads for piece, head in zip(pieces[name], heads[name], strict=True)}


def keep_unchanged(folder: Path, pieces: Pieces, row_nbytes: Mapping[str, int], previous: Previous) -> Kept:
    """Link the files with unchanged pieces into a new checkpoint.

    Args:
        folder: The new checkpoint.
        pieces: This writer's, as they would be written.
        row_nbytes: Bytes of a row of each array.
        previous: Where they may lie already.

    Returns:
        Nothing if too few are unchanged, or if the file system has no hard links.
    """
    same = {(name, piece.start): old for name, piece, old in _same(pieces, previous)}
    total = sum(_nbytes(piece, row_nbytes[name]) for name in pieces for piece in pieces[name])
    useful = sum(_nbytes(old, row_nbytes[name]) for (name, _), old in same.items())
    files = {old.file for old in same.values()}
    # once a file that is kept has a name, it stays the same
    names = {file: file if file.startswith("step-") else f"{previous.path.name}.{file}" for file in files}
    if not same or useful < PAYS * total or sum(previous.files[file] for file in names) > MOST * useful + SLACK:
        return {}
    if not _link(previous, folder, names):
        return {}
    return {place: replace(old, file=names[old.file]) for place, old in same.items()}


def _same(pieces: Pieces, previous: Previous) -> Iterator[tuple[str, Piece, Piece]]:
    """Pieces that hold the rows of one that was written before, and have its digest."""
    for name, new in pieces.items():
        before = {(old.start, old.stop, old.digest): old for old in previous.pieces.get(name, ())}
        for piece in new:
            old = before.get((piece.start, piece.stop, piece.digest))
            if old and piece.start < piece.stop:
                yield name, piece, old


def _nbytes(piece: Piece, row_nbytes: int) -> int:
    return (piece.stop - piece.start) * row_nbytes


def _link(previous: Previous, folder: Path, names: Mapping[str, str]) -> bool:
    """Give all files their second names, or none; one that has lost its size is not worth it."""
    try:
        for file, name in names.items():
            os.link(previous.path / file, folder / name)
            if (folder / name).stat().st_size != previous.files[file]:
                raise OSError(f"{file} has another size than was written")
    except OSError:  # the new checkpoint can do without
        for name in names.values():
            with suppress(OSError):
                (folder / name).unlink()
        return False
    return True
