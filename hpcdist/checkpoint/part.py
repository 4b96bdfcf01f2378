"""The part that one writer has in a checkpoint: a file with its rows of the arrays, and what it says of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import xxhash
from msgspec.structs import replace
from numpy.typing import NDArray

from hpcdist.checkpoint import hdf5, layout
from hpcdist.checkpoint.hdf5 import Block
from hpcdist.checkpoint.layout import (
    STATE,
    Entry,
    Manifest,
    Piece,
    Shapes,
    digest,
    row_nbytes,
    rows,
    rows_of,
    shard_name,
)
from hpcdist.checkpoint.shares import Share
from hpcdist.checkpoint.unchanged import Heads, Kept, Pieces, Previous, head, keep_unchanged, maybe_unchanged
from hpcdist.util.atomic_files import opened

READ_BACK = 4 << 20  # bytes read back by one call


class Part(msgspec.Struct, frozen=True):
    """Files that were written, with their bytes; the pieces of the arrays that are in them, and the pieces' heads."""

    files: Mapping[str, int]
    pieces: Pieces
    heads: Heads = msgspec.field(default_factory=dict)


def write_part(
    folder: Path,
    file: str,
    arrays: Mapping[str, NDArray],
    share: Share,
    compression: str = "none",
    previous: Previous | None = None,
) -> Part:
    """Write a writer's rows into a new file, durably.

    Args:
        folder: Where.
        file: Name of the file.
        arrays: The writer's rows of each array, contiguous.
        share: Which rows of the whole array they are.
        compression: One of `layout.COMPRESSIONS`.
        previous: The checkpoint before, for what has not changed since.

    Raises:
        OSError: it cannot be written.
    """
    pieces = {name: tuple(_cut(file, values, *share[name])) for name, values in arrays.items()}
    heads = {name: tuple(head(values) for values in _rows_of(pieces[name], arrays[name])) for name in arrays}
    kept = _keep_unchanged(folder, arrays, pieces, heads, previous) if previous else {}
    if not kept:
        part = _write(folder, file, arrays, pieces, compression)
    else:
        part = _write_changed(folder, file, arrays, pieces, kept, compression)
    return replace(part, heads=heads)


def pieces_of(file: str, values: NDArray, first: int, end: int) -> Iterator[Piece]:
    """Cut rows first .. end - 1, which are all of `values`, into pieces; no rows are one empty piece."""
    pieces = list(_cut(file, values, first, end))
    for piece, own in zip(pieces, _rows_of(pieces, values), strict=True):
        yield replace(piece, digest=digest(own))


def _cut(file: str, values: NDArray, first: int, end: int) -> Iterator[Piece]:
    """The same, not yet with their digests."""
    most = max(1, layout.PIECE // max(1, row_nbytes(values)))
    for start in range(first, end, most) or [first]:
        yield Piece(file, start - first, start, min(end, start + most), digest="")


def _rows_of(pieces: Sequence[Piece], values: NDArray) -> Iterator[NDArray]:
    """The rows of each of the pieces that `values` are made of."""
    return (rows_of(values, piece.at, piece.at + piece.stop - piece.start) for piece in pieces)


def _keep_unchanged(
    folder: Path, arrays: Mapping[str, NDArray], pieces: Pieces, heads: Heads, previous: Previous
) -> Kept:
    """Keep what has not changed; the digests that say so are only needed where the heads are the same."""
    same = maybe_unchanged(pieces, heads, previous)
    known = {
        name: tuple(
            replace(piece, digest=digest(own)) if (name, piece.start) in same else piece
            for piece, own in zip(pieces[name], _rows_of(pieces[name], values), strict=True)
        )
        for name, values in arrays.items()
    }
    return keep_unchanged(folder, known, {name: row_nbytes(values) for name, values in arrays.items()}, previous)


def _write(folder: Path, file: str, arrays: Mapping[str, NDArray], pieces: Pieces, compression: str) -> Part:
    """Write all rows; the pieces get their digests on the way, so that memory is read once."""
    placed = hdf5.lay_out(arrays, compression)
    digests: dict[str, list[str]] = {name: [] for name in arrays}
    blocks = (
        _digested(hdf5.blocks_of(own, offset + piece.at * row_nbytes(own)), digests[name])
        for name, offset in placed.offsets.items()
        for piece, own in zip(pieces[name], _rows_of(pieces[name], arrays[name]), strict=True)
    )
    hdf5.write_blocks(folder / file, placed, chain.from_iterable(blocks))
    for name in arrays.keys() - placed.offsets.keys():  # compressed, or without bytes
        digests[name] = [digest(own) for own in _rows_of(pieces[name], arrays[name])]
    found = {name: zip(pieces[name], digests[name], strict=True) for name in arrays}
    return Part({file: placed.nbytes}, {name: tuple(replace(p, digest=d) for p, d in found[name]) for name in arrays})


def _digested(blocks: Iterable[Block], digests: list[str]) -> Iterator[Block]:
    """Pass a piece's blocks on, then add its digest."""
    state = xxhash.xxh3_64()
    for offset, raw in blocks:
        state.update(raw)
        yield offset, raw
    digests.append(f"xxh3:{state.hexdigest()}")


def _write_changed(
    folder: Path, file: str, arrays: Mapping[str, NDArray], pieces: Pieces, kept: Kept, compression: str
) -> Part:
    """Write the rows that are not kept, one after the other; the part then has several files."""
    file = shard_name(0, 1) if file == STATE else file  # which is the index of these files now
    changed: dict[str, NDArray] = {}
    written: dict[str, tuple[Piece, ...]] = {}
    for name, values in arrays.items():
        new = [piece for piece in pieces[name] if (name, piece.start) not in kept]
        if new:
            changed[name] = np.concatenate(list(_rows_of(new, values))) if values.ndim else values
            written[name] = tuple(_one_after_the_other(file, new))
    part = _write(folder, file, changed, written, compression)
    whole = {
        name: tuple(
            sorted(
                [*part.pieces.get(name, ()), *(piece for (owner, _), piece in kept.items() if owner == name)],
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
    """See that a file that another library wrote for us holds what it was given.

    Raises:
        OSError: it does not.
    """
    buffer = memoryview(bytearray(min(READ_BACK, values.nbytes)))
    with opened(path) as descriptor:
        for piece in pieces:
            nbytes = (piece.stop - piece.start) * row_nbytes(values)
            if _digest_of(descriptor, offset, nbytes, buffer) != piece.digest:
                raise OSError(errno.EIO, f"{name} does not read back as it was written", str(path))
            offset += nbytes


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


def assemble(step: int, token: str, facts: dict[str, Any], shapes: Shapes, parts: Sequence[Part]) -> Manifest:
    """The manifest of a checkpoint that is made of these parts.

    Raises:
        ValueError: the parts are not the whole.
    """
    arrays = {}
    for name, kind in shapes.items():
        pieces = sorted((p for part in parts for p in part.pieces.get(name, ())), key=lambda piece: piece.start)
        entry = arrays[name] = Entry(*kind, tuple(pieces))
        if not entry.complete:
            raise ValueError(f"the parts hold rows up to {[p.stop for p in pieces]} of {name}, which has {rows(entry)}")
    return Manifest(step, token, facts, {name: n for part in parts for name, n in part.files.items()}, arrays)
