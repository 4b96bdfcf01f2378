"""The page cache: files that were just written are in it, and reading them says nothing about the file system.

Nor does writing say much where a virtual machine gives memory that is free for a second back to its host, as with
"free page reporting": the pages for the cache then come from there, more slowly than the disk writes them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile
from pathlib import Path

import numpy as np

from hpcdist.util.atomic_files import opened

BLOCK = 8 << 20  # bytes read by one call


def have_room(folder: Path, nbytes: int) -> None:
    """See that the cache can take up so many bytes at once: fill it with a file of holes, and free it again.

    Memory of processes would not do: what they free is not what the kernel takes next for files.
    """
    block = memoryview(bytearray(BLOCK))
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        file.truncate(nbytes)
        while file.readinto(block):
            pass


def drop(folder: Path) -> None:
    """Ask the kernel to forget what it holds of the files below a folder; they must be durable. Needs no rights."""
    for path in _files(folder):
        with opened(path) as descriptor:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def cached(folder: Path) -> float:
    """The part of the files below a folder, which must be ours, that is in the cache of this node."""
    found = [_pages(path) for path in _files(folder)]
    return sum(there for there, _ in found) / max(1, sum(pages for _, pages in found))


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]


def _pages(path: Path) -> tuple[int, int]:
    """Pages of a file that are in the cache, and all of its pages."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        there = np.zeros(-(-len(mapped) // mmap.PAGESIZE), np.uint8)
        begin = np.frombuffer(mapped, np.uint8)
        address = ctypes.c_void_p(begin.ctypes.data)
        failed = _mincore(address, ctypes.c_size_t(len(mapped)), ctypes.c_void_p(there.ctypes.data))
        del begin  # or the file could not be unmapped
    if failed:
        raise OSError(ctypes.get_errno(), "the kernel does not say what it holds of this file", str(path))
    return int((there & 1).sum()), len(there)


_mincore = ctypes.CDLL(None, use_errno=True).mincore
