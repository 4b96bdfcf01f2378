"""The index of a checkpoint in several files: state.h5, through which whatever reads HDF5 sees the arrays as wholes.

It is a view. Where a shard is missing, HDF5 reads a virtual data set as fill values without a word, so a restore goes
by the manifest instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path

import h5py
import numpy as np

from hpcdist.checkpoint import hdf5
from hpcdist.checkpoint.layout import STATE, Entry, Piece


def write_index(folder: Path, arrays: Mapping[str, Entry]) -> int:
    """Write state.h5 beside the files that hold the pieces; returns its size in bytes.

    Raises:
        OSError: naming the file.
    """
    memory = hdf5.Structures()
    with h5py.File(memory, "w", libver=hdf5.OPTIONS["libver"]) as file:
        for name, entry in arrays.items():
            _add(file, name, entry)
    hdf5.write(folder / STATE, hdf5.Layout(memory.written, {}, memory.nbytes), {})
    return memory.nbytes


def _add(file: h5py.File, name: str, entry: Entry) -> None:
    """Link an array that lies whole in one file, or has nothing to be cut; make a virtual data set of another."""
    # alike for pieces that follow each other both in the array and in a file
    runs = groupby(entry.pieces, key=lambda piece: (piece.file, piece.at - piece.start))
    spans = [_merged(list(pieces)) for _, pieces in runs]
    if len(spans) == 1:
        file[name] = h5py.ExternalLink(spans[0].file, name)
        return
    virtual = h5py.VirtualLayout(entry.shape, entry.dtype)
    for span in spans:
        height = span.at + span.stop - span.start
        source = h5py.VirtualSource(span.file, name, (height, *entry.shape[1:]), entry.dtype)
        virtual[span.start : span.stop] = source[span.at : height]
    missing = np.nan if np.dtype(entry.dtype).kind == "f" else None
    file.create_virtual_dataset(name, virtual, fillvalue=missing)


def _merged(pieces: list[Piece]) -> Piece:
    """Pieces that follow each other in one file, as one."""
    first, last = pieces[0], pieces[-1]
    return Piece(first.file, first.at, first.start, last.stop, digest="")
