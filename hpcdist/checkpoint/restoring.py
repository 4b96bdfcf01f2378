"""Restore a checkpoint on any number of ranks: each reads and checks its part of the pieces, and all get all."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.checkpoint.host import Landing, writable
from hpcdist.checkpoint.layout import Piece
from hpcdist.checkpoint.reader import Checkpoint, Contents, DamagedCheckpoint
from hpcdist.errors import AgreedError
from hpcdist.mpi.collective_errors import on_all


def restore(comm: MPI.Intracomm, checkpoint: Checkpoint, into: Mapping[str, NDArray]) -> None:
    """Read a checkpoint into arrays on all ranks. Collective.

    Args:
        comm: Ranks, any number.
        checkpoint: The same on all ranks, which all must be able to read.
        into: C-contiguous arrays of the shapes and dtypes in the manifest, in host memory or on a device; those that
            are left out are not read.

    Raises:
        AgreedError: on all ranks, if an array does not fit.
        DamagedCheckpoint: on all ranks, if a piece cannot be read or is not as it was written; `into` then
            holds rubbish.
    """
    on_all(comm, lambda: _check_fit(checkpoint, into))
    _agree_on_names(comm, into)
    entries = checkpoint.manifest.arrays
    pieces = [(name, piece) for name, entry in entries.items() if name in into for piece in entry.pieces]
    landing = Landing(into)
    trouble = on_all(comm, lambda: _read(checkpoint, pieces[comm.rank :: comm.size], landing))
    _raise_together(comm, checkpoint, trouble)
    for number, (name, piece) in enumerate(pieces):
        comm.Bcast([landing.memory(name, piece).reshape(-1).view(np.uint8), MPI.BYTE], number % comm.size)
        landing.deliver(name, piece)


def _check_fit(checkpoint: Checkpoint, into: Mapping[str, NDArray]) -> None:
    for name, values in into.items():
        entry = checkpoint.manifest.arrays.get(name)
        if entry is None:
            raise ValueError(f"{checkpoint.path} has no array {name}; it has {', '.join(checkpoint.manifest.arrays)}")
        if (values.shape, values.dtype.str) != (entry.shape, entry.dtype):
            raise ValueError(
                f"{name} is {entry.dtype}{list(entry.shape)} in {checkpoint.path} and cannot be read into "
                f"{values.dtype.str}{list(values.shape)}"
            )
        if not writable(values):
            raise ValueError(f"{name} cannot be read into an array that is not C-contiguous and writable")


def _agree_on_names(comm: MPI.Intracomm, into: Mapping[str, NDArray]) -> None:
    said = comm.allgather(sorted(into))
    other = next((rank for rank, names in enumerate(said) if names != said[0]), None)
    if other is not None:
        raise AgreedError(f"rank {other} wants to read {', '.join(said[other])}, rank 0 {', '.join(said[0])}")


def _read(checkpoint: Checkpoint, pieces: list[tuple[str, Piece]], landing: Landing) -> DamagedCheckpoint | None:
    """Read and check pieces; the first damage."""
    try:
        with Contents(checkpoint) as contents:
            for name, piece in pieces:
                contents.read(name, piece, landing.memory(name, piece))
    except DamagedCheckpoint as error:
        return error
    return None


def _raise_together(comm: MPI.Intracomm, checkpoint: Checkpoint, trouble: DamagedCheckpoint | None) -> None:
    said = comm.allgather(trouble and (socket.gethostname(), trouble.why))
    found = [f"{each[1]} (read by rank {rank} on {each[0]})" for rank, each in enumerate(said) if each]
    if found:
        raise DamagedCheckpoint(checkpoint.path, "; ".join(found))
