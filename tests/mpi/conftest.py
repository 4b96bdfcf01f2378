"""Tests on several ranks, with NumPy buffers."""

import pytest
from memories import HostMemory
from ranks import comm, pytest_collection_finish, pytest_configure, pytest_runtest_makereport

__all__ = ["comm", "pytest_collection_finish", "pytest_configure", "pytest_runtest_makereport"]


@pytest.fixture
def memory():
    """Where the shared cases have their buffers."""
    return HostMemory()
