"""The part that one writer has in a checkpoint: a file with its rows of the arrays, and what it says of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xxhash
from numpy.typing import NDArray

from hpcdist.checkpoint import hdf5, layout
from hpcdist.checkpoint.layout import STATE, Entry, Manifest, Piece, digest, rows, shard_name
from hpcdist.checkpoint.shares import Share, row_nbytes
from hpcdist.checkpoint.unchanged import Kept, Pieces, Previous, keep_unchanged

READ_BACK = 4 << 20  # bytes read back by one call


@dataclass(frozen=True)
class Part:
    """Files that were written, with their bytes, and the pieces of the arrays that are in them."""

    files: Mapping[str, int]
    pieces: Mapping[str, tuple[Piece, ...]]

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Part:
        """From what `dataclasses.asdict` and JSON make of it."""
        return cls(
            fields["files"], {name: tuple(Piece(**p) for p in found) for name, found in fields["pieces"].items()}
        )


def write_part(
    folder: Path,
    file: str,
    arrays: Mapping[str, NDArray],
    share: Share,
    compression: str = "none",
    previous: Previous | None = None,
) -> Part:
    """Write a writer's rows into a new file, durably, and read them back.

    Args:
        folder: Where.
        file: Name of the file.
        arrays: The writer's rows of each array, contiguous.
        share: Which rows of the whole array they are.
        compression: One of `layout.COMPRESSIONS`.
        previous: The checkpoint before, for what has not changed since.

    Raises:
        OSError: it cannot be written, or does not read back.
    """
    pieces = {name: tuple(pieces_of(file, values, *share[name])) for name, values in arrays.items()}
    sizes = {name: row_nbytes(values) for name, values in arrays.items()}
    kept = keep_unchanged(folder, pieces, sizes, previous) if previous else {}
    if not kept:
        return _write(folder, file, arrays, pieces, compression)
    return _write_changed(folder, file, arrays, share, pieces, kept, compression)


def pieces_of(file: str, values: NDArray, first: int, end: int) -> Iterator[Piece]:
    """Cut rows first .. end - 1, which are all of `values`, into pieces; no rows are one empty piece."""
    most = max(1, layout.PIECE // max(1, row_nbytes(values)))
    for start in range(first, end, most) or [first]:
        stop = min(end, start + most)
        yield Piece(file, start - first, start, stop, digest(_rows(values, start - first, stop - first)))


def _rows(values: NDArray, start: int, stop: int) -> NDArray:
    return values[start:stop] if values.ndim else values


def _write(folder: Path, file: str, arrays: Mapping[str, NDArray], pieces: Pieces, compression: str) -> Part:
    placed = hdf5.lay_out(arrays, compression)

    def check() -> None:
        for name, values in arrays.items():
            if name in placed.offsets:
                read_back(folder / file, placed.offsets[name], name, pieces[name], values)
            elif values.size:
                _read_back_through_hdf5(folder / file, name, pieces[name], values)

    hdf5.write(folder / file, placed, arrays, meanwhile=check)
    return Part({file: placed.nbytes}, pieces)


def _write_changed(
    folder: Path,
    file: str,
    arrays: Mapping[str, NDArray],
    share: Share,
    pieces: Pieces,
    kept: Kept,
    compression: str,
) -> Part:
    """Write the rows that are not kept, one after the other; the part then has several files."""
    file = shard_name(0, 1) if file == STATE else file  # which is the index of these files now
    changed: dict[str, NDArray] = {}
    written: dict[str, tuple[Piece, ...]] = {}
    for name, values in arrays.items():
        new = [piece for piece in pieces[name] if (name, piece.start) not in kept]
        if new:
            first = share[name][0]
            spans = [_rows(values, piece.start - first, piece.stop - first) for piece in new]
            changed[name] = np.concatenate(spans) if values.ndim else values
            written[name] = tuple(_one_after_the_other(file, new))
    part = _write(folder, file, changed, written, compression)
    whole = {
        name: tuple(
            sorted(
                [*written.get(name, ()), *(piece for (owner, _), piece in kept.items() if owner == name)],
                key=lambda piece: piece.start,
            )
        )
        for name in arrays
    }
    sizes = {piece.file: (folder / piece.file).stat().st_size for piece in kept.values()}
    return Part({**part.files, **sizes}, whole)


def _one_after_the_other(file: str, pieces: Sequence[Piece]) -> Iterator[Piece]:
    at = 0
    for piece in pieces:
        yield replace(piece, file=file, at=at)
        at += piece.stop - piece.start


def read_back(path: Path, offset: int, name: str, pieces: Sequence[Piece], values: NDArray) -> None:
    """See that the file holds what was written; by other means than HDF5's, for the sake of other threads."""
    buffer = memoryview(bytearray(min(READ_BACK, values.nbytes)))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for piece in pieces:
            nbytes = (piece.stop - piece.start) * row_nbytes(values)
            if _digest_of(descriptor, offset, nbytes, buffer) != piece.digest:
                raise OSError(errno.EIO, f"{name} does not read back as it was written", str(path))
            offset += nbytes
    finally:
        os.close(descriptor)


def _read_back_through_hdf5(path: Path, name: str, pieces: Sequence[Piece], values: NDArray) -> None:
    """The same for an array that is stored compressed."""
    with h5py.File(path, "r", locking=False) as file:
        for piece in pieces:
            rows = np.empty((piece.stop - piece.start, *values.shape[1:]), values.dtype)
            file[name].read_direct(rows, np.s_[piece.at : piece.at + len(rows)])
            if digest(rows) != piece.digest:
                raise OSError(errno.EIO, f"{name} does not read back as it was written", str(path))


def _digest_of(descriptor: int, offset: int, nbytes: int, buffer: memoryview) -> str:
    """Digest of bytes of a file."""
    state, done = xxhash.xxh3_64(), 0
    while done < nbytes:
        got = os.preadv(descriptor, [buffer[: nbytes - done]], offset + done)
        if not got:
            break
        state.update(buffer[:got])
        done += got
    return f"xxh3:{state.hexdigest()}"


Shapes = Mapping[str, tuple[tuple[int, ...], str]]  # array -> (shape, dtype)


def shapes_of(arrays: Mapping[str, NDArray]) -> Shapes:
    """Shapes and dtypes of arrays."""
    return {name: (values.shape, values.dtype.str) for name, values in arrays.items()}


def assemble(step: int, token: str, facts: dict[str, Any], shapes: Shapes, parts: Sequence[Part]) -> Manifest:
    """The manifest of a checkpoint that is made of these parts.

    Raises:
        ValueError: the parts are not the whole.
    """
    arrays = {
        name: Entry(shape, dtype, _in_order(name, shape, [p for part in parts for p in part.pieces.get(name, ())]))
        for name, (shape, dtype) in shapes.items()
    }
    return Manifest(step, token, facts, {name: n for part in parts for name, n in part.files.items()}, arrays)


def _in_order(name: str, shape: tuple[int, ...], pieces: list[Piece]) -> tuple[Piece, ...]:
    ordered = sorted(pieces, key=lambda piece: piece.start)
    ends = [0, *(piece.stop for piece in ordered)]
    if [piece.start for piece in ordered] != ends[:-1] or ends[-1] != rows(shape) or not ordered:
        raise ValueError(f"the parts hold rows up to {ends[1:]} of {name}, which has {rows(shape)}")
    return tuple(ordered)
