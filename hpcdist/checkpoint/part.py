"""The part that one writer has in a checkpoint: a file with its rows of the arrays, and what it says of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xxhash
from numpy.typing import NDArray

from hpcdist.checkpoint import hdf5, layout
from hpcdist.checkpoint.layout import Entry, Manifest, Piece, digest, rows
from hpcdist.checkpoint.shares import Share, row_nbytes

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


def write_part(folder: Path, file: str, arrays: Mapping[str, NDArray], share: Share, compression: str = "none") -> Part:
    """Write a writer's rows into a new file, durably, and read them back.

    Args:
        folder: Where.
        file: Name of the file.
        arrays: The writer's rows of each array, contiguous.
        share: Which rows of the whole array they are.
        compression: One of `layout.COMPRESSIONS`.

    Raises:
        OSError: it cannot be written, or does not read back.
    """
    pieces = {name: tuple(_pieces(file, values, *share[name])) for name, values in arrays.items()}
    placed = hdf5.lay_out(arrays, compression)
    hdf5.write(folder / file, placed, arrays)
    for name, offset in placed.offsets.items():
        _read_back(folder / file, offset, name, pieces[name], arrays[name])
    return Part({file: placed.nbytes}, pieces)


def _pieces(file: str, values: NDArray, first: int, end: int) -> Iterator[Piece]:
    """Cut rows first .. end - 1, which are all of `values`, into pieces; no rows are one empty piece."""
    most = max(1, layout.PIECE // max(1, row_nbytes(values)))
    for start in range(first, end, most) or [first]:
        stop = min(end, start + most)
        own = values[start - first : stop - first] if values.ndim else values
        yield Piece(file, start - first, start, stop, digest(own))


def _read_back(path: Path, offset: int, name: str, pieces: Sequence[Piece], values: NDArray) -> None:
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
