"""HDF5 files that are laid out by HDF5 and written by us.

HDF5 crashes the process if a disk becomes full while it has a file open on it, and it holds Python's lock while it
writes. So it only ever sees a file that is kept in memory, into which it writes its own structures, a few kilobytes;
of the arrays it says at which byte of the file they belong. Structures and arrays are then written by plain calls of
the operating system, at the speed of the file system, beside other threads.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from hpcdist.util.atomic_files import opened

ALIGNMENT = 1 << 20  # bytes: arrays start on stripes of a parallel file system
OPTIONS: dict[str, Any] = {
    "libver": ("v108", "v110"),  # HDF5 1.10 can read it
}
ALIGNED: dict[str, Any] = {"alignment_threshold": ALIGNMENT >> 4, "alignment_interval": ALIGNMENT}
CHUNK = 1 << 20  # bytes of a chunk that is compressed as a whole, or one row
BLOCK = 4 << 20  # bytes written by one call: in the processor's cache still if they were just read, and few calls
WINDOW = 4  # blocks of a file on their way to the disk, enough to keep it busy


class Structures(io.RawIOBase):
    """A file in memory that holds what was written to it, and nothing in between."""

    def __init__(self) -> None:
        self.written: dict[int, bytes] = {}  # offset -> bytes
        self.nbytes = 0
        self._at = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; see io.RawIOBase."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.nbytes}[whence]
        return self._at

    def tell(self) -> int:
        """The position."""
        return self._at

    def write(self, raw: Any) -> int:
        """Keep `raw`, on top of what was there."""
        before = self.written.pop(self._at, b"")  # the later of two is to be written later
        self.written[self._at] = bytes(raw) + before[len(raw) :]
        self._at += len(raw)
        self.nbytes = max(self.nbytes, self._at)
        return len(raw)

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from what was written; in between there are zeros."""
        view = memoryview(buffer)
        view[:] = bytes(len(view))
        for offset, raw in self.written.items():
            low, high = max(offset, self._at), min(offset + len(raw), self._at + len(view))
            if low < high:
                view[low - self._at : high - self._at] = raw[low - offset : high - offset]
        self._at += len(view)
        return len(view)

    def truncate(self, nbytes: int | None = None) -> int:
        """Set the length."""
        self.nbytes = self._at if nbytes is None else nbytes
        return self.nbytes


@dataclass(frozen=True)
class Layout:
    """Where all bytes of a file belong: HDF5's own, and the first byte of each array that is stored as it is."""

    structures: Mapping[int, bytes]
    offsets: Mapping[str, int]
    nbytes: int


def lay_out(arrays: Mapping[str, NDArray], compression: str = "none") -> Layout:
    """The layout of a file that holds these arrays, contiguous and aligned, or compressed among the structures."""
    memory = Structures()
    offsets = {}
    with h5py.File(memory, "w", **OPTIONS, **(ALIGNED if compression == "none" else {})) as file:
        for name, values in arrays.items():
            if compression == "gzip" and values.ndim and values.size:
                _compress(file, name, values)
            elif (offset := _reserve(file, name, values)) is not None:
                offsets[name] = offset
    return Layout(memory.written, offsets, memory.nbytes)


def _reserve(file: h5py.File, name: str, values: NDArray) -> int | None:
    """Make a data set and let HDF5 find room for it, but write nothing into it; its first byte, if it has any."""
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_layout(h5py.h5d.CONTIGUOUS)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    link = h5py.h5p.create(h5py.h5p.LINK_CREATE)
    link.set_create_intermediate_group(True)
    space = h5py.h5s.create_simple(values.shape) if values.shape else h5py.h5s.create(h5py.h5s.SCALAR)
    kind = h5py.h5t.py_create(values.dtype, logical=True)
    return h5py.h5d.create(file.id, name.encode(), kind, space, how, link).get_offset()


def _compress(file: h5py.File, name: str, values: NDArray) -> None:
    """Make a data set of chunks, which are shuffled and deflated here, since zlib lets other threads run."""
    row = values[:1].nbytes
    shape = (max(1, min(len(values), CHUNK // row)), *values.shape[1:])
    data = file.create_dataset(name, values.shape, values.dtype, chunks=shape, shuffle=True, compression=1)
    for start in range(0, len(values), shape[0]):
        chunk = values[start : start + shape[0]]
        if len(chunk) < shape[0]:  # HDF5 wants the last one whole
            chunk = np.concatenate([chunk, np.zeros((shape[0] - len(chunk), *shape[1:]), values.dtype)])
        shuffled = np.ascontiguousarray(chunk).reshape(-1, 1).view(np.uint8).T.tobytes()
        data.id.write_direct_chunk((start, *[0] * (values.ndim - 1)), zlib.compress(shuffled, 1))


Block = tuple[int, memoryview]  # offset in the file, bytes


def write(path: Path, layout: Layout, arrays: Mapping[str, NDArray]) -> None:
    """Write a new HDF5 file of this layout with the arrays that it was made for, durably.

    Raises:
        OSError: naming the file.
    """
    write_blocks(path, layout, (block for name, at in layout.offsets.items() for block in blocks_of(arrays[name], at)))


def blocks_of(values: NDArray, offset: int) -> Iterator[Block]:
    """An array's bytes in C order, in blocks that lie one after the other from `offset` on."""
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
    for start in range(0, len(raw), BLOCK):
        yield offset + start, raw[start : start + BLOCK]


def write_blocks(path: Path, layout: Layout, blocks: Iterable[Block]) -> None:
    """Write a new HDF5 file of this layout, durably; `blocks` are the bytes of its arrays.

    Raises:
        OSError: naming the file.
    """
    structures = ((offset, memoryview(raw)) for offset, raw in layout.structures.items())  # with what was compressed
    with _named(path, layout.nbytes), opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
        window = _Window(descriptor)
        for offset, raw in chain(blocks, structures):
            _write_at(descriptor, offset, raw)
            window.add(offset, len(raw))
        os.ftruncate(descriptor, layout.nbytes)
        os.fsync(descriptor)


Range = tuple[int, int]  # first byte of a file, and the first behind


class _Window:
    """The last of what was written of a file is on its way to the disk; what came before has left the page cache.

    So the disk is busy all the time; by itself it would begin at the fsync. And the cache holds little of a file that
    nobody is going to read: to find memory for all of it can take longer than to write it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._collected: Range | None = None  # written, but too little to begin with
        self._on_their_way: deque[Range] = deque()

    def add(self, offset: int, nbytes: int) -> None:
        """Let the disk begin with bytes that were written, and wait for those of some time ago."""
        first, end = self._collected or (offset, offset)
        part = min(first, offset), max(end, offset + nbytes)
        self._collected = part if part[1] - part[0] < BLOCK else None
        if self._collected:
            return
        self._sync(part, SYNC_FILE_RANGE_WRITE)
        self._on_their_way.append(part)
        if len(self._on_their_way) > WINDOW:
            self._finish(self._on_their_way.popleft())

    def _finish(self, part: Range) -> None:
        """Wait until a part is on the disk, and drop it from the cache."""
        self._sync(part, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER)
        first, end = part
        with suppress(OSError):  # it is no more than advice
            os.posix_fadvise(self._descriptor, first, end - first, os.POSIX_FADV_DONTNEED)

    def _sync(self, part: Range, how: int) -> None:
        first, end = part
        if _sync_file_range(self._descriptor, first, end - first, how) == 0:
            return
        number = ctypes.get_errno()
        if number in OF_THE_DISK:  # which is told once: not again by fsync
            raise OSError(number, os.strerror(number))


def _write_at(descriptor: int, offset: int, raw: memoryview) -> None:
    done = 0
    while done < len(raw):
        done += os.pwrite(descriptor, raw[done:], offset + done)


SYNC_FILE_RANGE_WAIT_BEFORE, SYNC_FILE_RANGE_WRITE, SYNC_FILE_RANGE_WAIT_AFTER = 1, 2, 4
OF_THE_DISK = (errno.EIO, errno.ENOSPC, errno.EDQUOT)  # and not of a system where sync_file_range cannot be called
_sync_file_range = ctypes.CDLL(None, use_errno=True).sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)


@contextmanager
def _named(path: Path, nbytes: int) -> Iterator[None]:
    """Name the file, which Python leaves out if it was open already when the disk became full."""
    try:
        yield
    except OSError as error:
        why = f"{error.strerror}; {nbytes} bytes could not be written, earlier checkpoints are as they were"
        raise OSError(error.errno or errno.EIO, why, str(path)) from error
