"""Tests on several ranks, with buffers in the memory of a simulated device.

With GUARDED_AWARE=1 MPI is handed that memory, which it can then read; without, it would crash.
"""

import guarded
import pytest
from memories import on_path
from ranks import comm, pytest_collection_finish, pytest_configure, pytest_runtest_makereport

from hpcdist.device.paths import AWARE, PEER, STAGED

__all__ = ["comm", "pytest_collection_finish", "pytest_configure", "pytest_runtest_makereport"]

DEVICE = guarded.install()


PATHS = [AWARE] if guarded.AWARE else [STAGED, PEER]


@pytest.fixture(params=PATHS)
def memory(request, monkeypatch):
    """Where the shared cases have their buffers, and how these travel."""
    return on_path(DEVICE, request.param, guarded.pool_array, monkeypatch)
