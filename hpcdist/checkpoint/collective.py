"""One file written by all ranks together, through parallel HDF5: h5py's mpio driver.

Rank 0 lays the file out and reserves its room; then all ranks open it, write their rows in collective transfers, and
close it. An error within a transfer cannot be shared: HDF5 and the MPI libraries leave the other ranks in it for ever.
So what can fail is tried before, and a rank whose transfer fails all the same ends the job.

Transfers are collective so that the MPI library can gather rows into the stripes of a parallel file system, unless a
hint (romio_cb_write=disable) forbids it. A rank without rows takes part with an empty selection: h5py's slicing would
leave its call out, and the others would wait for ever.
"""

from __future__ import annotations

import ctypes
import errno
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import numpy as np
from mpi4py import MPI
from msgspec.structs import replace
from numpy.typing import NDArray

# isort: split
import h5py  # after mpi4py: a parallel HDF5 would load the MPI it was built with, beside the one in use

from hpcdist.checkpoint import hdf5, layout, part
from hpcdist.checkpoint.hdf5 import ALIGNMENT, Layout
from hpcdist.checkpoint.layout import row_nbytes, rows_of, shapes_of
from hpcdist.checkpoint.part import Part
from hpcdist.checkpoint.shares import Share, shares
from hpcdist.errors import AgreedError
from hpcdist.mpi.collective_errors import on_all, on_root
from hpcdist.mpi.library import libraries
from hpcdist.util import watchdog
from hpcdist.util.atomic_files import fsync


def unavailable() -> str | None:
    """Why ranks cannot write one file together here, and what to do; None if they can."""
    if not h5py.get_config().mpi:
        return (
            f"h5py {h5py.__version__} was built without MPI, as PyPI's is. Build it on a parallel HDF5: "
            "HDF5_MPI=ON CC=mpicc pip install --no-binary=h5py h5py (see README), or take the layout shards"
        )
    if len(found := libraries()) > 1:
        return (
            f"two MPI libraries are loaded, {' and '.join(found)}. Import mpi4py.MPI before h5py; if both stay, "
            "build h5py on an HDF5 of the MPI in use"
        )
    return None


def shares_of(arrays: Mapping[str, NDArray], count: int) -> list[Share]:
    """The rows of each of `count` ranks: every array is cut for itself, since all write one array at a time.

    An array goes to no more ranks than it has stripes.
    """
    found: list[Share] = [{} for _ in range(count)]
    for name, values in arrays.items():
        parts = max(1, min(count, values.nbytes // ALIGNMENT))
        for own, share in zip(found, shares(shapes_of({name: values}), parts), strict=False):
            own.update(share)
    return found


def write_collective(
    path: Path,
    comm: MPI.Intracomm,
    arrays: Mapping[str, NDArray],
    share: Share,
    hints: Mapping[str, str] | None = None,
) -> Part:
    """Write one new file with all arrays, durably, each rank its rows, and read them back. Collective.

    Args:
        path: The file.
        comm: Ranks that write, on nodes that all see `path`.
        arrays: Arrays by name, equal on all ranks.
        share: Rows that this rank writes; together the ranks' are every row once.
        hints: For MPI's files, such as striping_factor and striping_unit (bytes), which count when a file is made.

    Returns:
        This rank's pieces; rank 0's part has the size of the file.

    Raises:
        AgreedError: on all ranks, if there is no room, or one cannot open the file or read its rows back; on a rank
            alone, if a transfer fails. One that fails on one of several ends the job, and the file is part of no
            checkpoint.
    """
    info = MPI.Info.Create(dict(hints or {}))
    with ExitStack() as stack:
        stack.callback(info.Free)
        placed: Layout = on_root(comm, lambda: _prepare(path, hdf5.lay_out(arrays), info))
        file = on_all(comm, lambda: h5py.File(path, "r+", driver="mpio", comm=comm, info=info))
        with _ending_job(comm, path, file):
            _write_rows(comm, file, arrays, share)
    on_all(comm, lambda: _make_durable(path, placed.nbytes))
    pieces = on_all(comm, lambda: {name: _read_back(path, placed, name, arrays[name], *share[name]) for name in share})
    return Part({path.name: placed.nbytes} if comm.rank == 0 else {}, pieces)


def _prepare(path: Path, placed: Layout, info: MPI.Info) -> Layout:
    """Make the file, with HDF5's structures and with room for the arrays."""
    MPI.File.Open(MPI.COMM_SELF, str(path), MPI.MODE_CREATE | MPI.MODE_EXCL | MPI.MODE_WRONLY, info).Close()
    with open(path, "r+b") as file:
        _reserve(file.fileno(), path, placed.nbytes)
        for offset, raw in placed.structures.items():
            file.seek(offset)
            file.write(raw)
        file.truncate(placed.nbytes)
    return Layout({}, placed.offsets, placed.nbytes)


def _reserve(descriptor: int, path: Path, nbytes: int) -> None:
    """Take room on the disk. Python's own call would write into every block where the file system cannot do it."""
    fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    code = ctypes.get_errno() if fallocate(descriptor, 0, 0, nbytes) else 0
    if code in (errno.EOPNOTSUPP, errno.ENOSYS):
        disk = os.statvfs(path)
        code = errno.ENOSPC if disk.f_bavail * disk.f_frsize < nbytes else 0
    if code:
        why = f"{os.strerror(code)}; there is no room for {nbytes} bytes, earlier checkpoints are as they were"
        raise OSError(code, why, str(path))


@contextmanager
def _ending_job(comm: MPI.Intracomm, path: Path, file: h5py.File) -> Iterator[None]:
    """End the job if the block fails, as ranks that are in the same transfer cannot be called back from it."""
    try:
        yield
    except Exception as error:
        text = f"{path} cannot be written: {error}; earlier checkpoints are as they were"
        if comm.size == 1:
            with suppress(Exception):  # it may fail in the same way
                file.close()
            raise AgreedError(text) from error
        print(f"hpcdist: rank {comm.rank} ends the job, as others wait for it: {text}", file=sys.stderr, flush=True)
        MPI.COMM_WORLD.Abort(1)


def _write_rows(comm: MPI.Intracomm, file: h5py.File, arrays: Mapping[str, NDArray], share: Share) -> None:
    """Write this rank's rows and close the file."""
    how = h5py.h5p.create(h5py.h5p.DATASET_XFER)
    how.set_dxpl_mpio(h5py.h5fd.MPIO_COLLECTIVE)
    who = f"rank {comm.rank} of {comm.size} waits for all ranks to"
    for name, start, stop in _transfers(comm, arrays, share):
        with watchdog.waiting(f"{who} write {name} to {file.filename} together"):
            _write(file[name].id, arrays[name], start, stop, how)
    with watchdog.waiting(f"{who} close {file.filename} together"):
        file.close()


def _transfers(comm: MPI.Intracomm, arrays: Mapping[str, NDArray], share: Share) -> Iterator[tuple[str, int, int]]:
    """Array, first row and row after the last of every transfer; all ranks have as many of each array."""
    most = {name: max(1, layout.PIECE // max(1, row_nbytes(values))) for name, values in arrays.items()}
    own = {name: share.get(name, (0, 0)) if values.size else (0, 0) for name, values in arrays.items()}
    counts = np.array([math.ceil((end - first) / most[name]) for name, (first, end) in own.items()], np.int64)
    comm.Allreduce(MPI.IN_PLACE, counts, MPI.MAX)
    for (name, (first, end)), count in zip(own.items(), counts, strict=True):
        for start in range(first, first + count * most[name], most[name]):
            yield name, min(end, start), min(end, start + most[name])


def _write(data: h5py.h5d.DatasetID, values: NDArray, start: int, stop: int, how: h5py.h5p.PropDXID) -> None:
    """Write rows start .. stop - 1, if any, in a transfer of all ranks."""
    own = np.asarray(rows_of(values, start, stop), order="C")
    there = data.get_space()
    here = h5py.h5s.create_simple(own.shape) if own.ndim else there.copy()
    if start == stop:
        here.select_none()
        there.select_none()
    elif own.ndim:
        there.select_hyperslab((start, *[0] * (own.ndim - 1)), own.shape)
    data.write(here, there, own, dxpl=how)


def _make_durable(path: Path, nbytes: int) -> None:
    """Have what this node wrote on disk. It may be other ranks' rows, given to it by MPI, so every rank does this."""
    fsync(path)
    if (found := path.stat().st_size) != nbytes:
        raise OSError(errno.EIO, f"it has {found} bytes, {nbytes} were written", str(path))


def _read_back(
    path: Path, placed: Layout, name: str, values: NDArray, first: int, end: int
) -> tuple[layout.Piece, ...]:
    """The pieces of this rank's rows, seen to be in the file, as Open MPI's own file layer loses errors of a write."""
    own = np.asarray(rows_of(values, first, end), order="C")
    pieces = tuple(part.pieces_of(path.name, own, first, end))
    if name in placed.offsets:
        part.read_back(path, placed.offsets[name] + first * row_nbytes(values), name, pieces, own)
    return tuple(replace(piece, at=piece.start) for piece in pieces)
