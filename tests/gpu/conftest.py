"""Tests on one rank or several, with buffers on GPUs; skipped, with the reason, where there is none."""

import os

import pytest
from memories import on_path
from ranks import comm, pytest_collection_finish, pytest_configure, pytest_runtest_makereport

from hpcdist.device import awareness, paths
from hpcdist.device.kinds import by_name
from hpcdist.mpi.library import libraries

__all__ = ["comm", "pytest_collection_finish", "pytest_configure", "pytest_runtest_makereport"]


@pytest.fixture(scope="session")
def gpu():
    """This rank's GPU."""
    try:
        return by_name("cuda")
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture(params=[paths.STAGED, paths.AWARE, paths.PEER])
def memory(request, gpu, monkeypatch):
    """Where the shared cases have their buffers, and how these travel."""
    known = awareness.known(next(iter(libraries()), ""), os.environ)
    if request.param == paths.AWARE and not known.aware:
        pytest.skip(f"it is not known that this MPI takes device memory: {known.source}")
    return on_path(gpu, request.param, from_stream_ordered_pool, monkeypatch)


def from_stream_ordered_pool(count, dtype):
    """An array that other processes cannot open."""
    import cupy

    with cupy.cuda.using_allocator(cupy.cuda.malloc_async):
        return cupy.zeros(count, dtype)
