"""Restore a checkpoint on any number of ranks: each reads and checks its part of the pieces, and all get all."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.checkpoint.layout import Piece
from hpcdist.checkpoint.reader import Checkpoint, Contents, DamagedCheckpoint, rows_of
from hpcdist.transport.together import on_all


def restore(comm: MPI.Intracomm, checkpoint: Checkpoint, into: Mapping[str, NDArray]) -> None:
    """Read a checkpoint into arrays on all ranks. Collective.

    Args:
        comm: Ranks, any number.
        checkpoint: The same on all ranks, which all must be able to read.
        into: C-contiguous arrays of the shapes and dtypes in the manifest; those that are left out are not read.

    Raises:
        AgreedError: on all ranks, if an array does not fit.
        DamagedCheckpoint: on all ranks, if a piece cannot be read or is not as it was written; `into` then
            holds rubbish.
    """
    on_all(comm, lambda: _check_fit(checkpoint, into))
    pieces = [(name, piece) for name in into for piece in checkpoint.manifest.arrays[name].pieces]
    trouble = _read(checkpoint, pieces[comm.rank :: comm.size], into)
    _raise_together(comm, checkpoint, trouble)
    for number, (name, piece) in enumerate(pieces):
        rows = rows_of(into[name], piece)
        comm.Bcast([rows.reshape(-1).view(np.uint8), MPI.BYTE], number % comm.size)


def _check_fit(checkpoint: Checkpoint, into: Mapping[str, NDArray]) -> None:
    for name, values in into.items():
        entry = checkpoint.manifest.arrays.get(name)
        if entry is None:
            raise ValueError(f"{checkpoint.path} has no array {name}; it has {', '.join(checkpoint.manifest.arrays)}")
        if (values.shape, values.dtype.str) != (entry.shape, entry.dtype) or not values.flags.c_contiguous:
            raise ValueError(
                f"{name} is {entry.dtype}{list(entry.shape)} in {checkpoint.path} and cannot be read into "
                f"{values.dtype.str}{list(values.shape)}, which must be C-contiguous"
            )


def _read(
    checkpoint: Checkpoint, pieces: list[tuple[str, Piece]], into: Mapping[str, NDArray]
) -> DamagedCheckpoint | None:
    """Read and check pieces; the first damage."""
    try:
        with Contents(checkpoint) as contents:
            for name, piece in pieces:
                contents.read(name, piece, rows_of(into[name], piece))
    except DamagedCheckpoint as error:
        return error
    return None


def _raise_together(comm: MPI.Intracomm, checkpoint: Checkpoint, trouble: DamagedCheckpoint | None) -> None:
    found = [why for why in comm.allgather(trouble.why if trouble else None) if why]
    if found:
        raise DamagedCheckpoint(checkpoint.path, "; ".join(found))
