"""A real Slurm on four virtual hosts, for all tests of a session; needs root and Debian's packages."""

from pathlib import Path

import pytest
from virtual_slurm import MISSING, NAME, Slurm, assert_nothing_is_left, hpcdist


def pytest_collection_modifyitems(items):
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.skipif(MISSING is not None, reason=str(MISSING)))


@pytest.fixture(scope="session")
def four():
    """The name of a cluster of four hosts with four cores and two GPUs each, as Slurm thinks."""
    hpcdist("up", "--hosts", "4", "--rate", "1gbit", "--slurm", "--gpus", "2")
    yield NAME
    hpcdist("down")
    assert_nothing_is_left(NAME)


@pytest.fixture
def slurm(four, tmp_path):
    """The cluster, without jobs, and with a new work folder."""
    cluster = Slurm(four, tmp_path)
    yield cluster
    cluster.clear()
