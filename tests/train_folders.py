"""Folders of training runs, as fixtures for who imports them all: `shared` is a new one, `cache` is for the digits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mpi4py import MPI

__all__ = ["cache", "shared"]


@contextmanager
def folder_of_all() -> Iterator[Path]:
    """A new directory, the same on all ranks."""
    holder = tempfile.TemporaryDirectory() if MPI.COMM_WORLD.rank == 0 else None
    yield Path(MPI.COMM_WORLD.bcast(holder.name if holder else None))
    MPI.COMM_WORLD.Barrier()
    if holder:
        holder.cleanup()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A new directory, the same on all ranks."""
    with folder_of_all() as folder:
        yield folder


@pytest.fixture(autouse=True, scope="module")
def cache() -> Iterator[None]:
    """A cache for the digits, the same on all ranks."""
    with folder_of_all() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield
