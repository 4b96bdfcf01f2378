"""Writing one file together, where it cannot be done; tests/mpio has the tests where it can."""

import h5py
import pytest
from mpi4py import MPI

from hpcdist.checkpoint import Store
from hpcdist.checkpoint.collective import unavailable
from hpcdist.errors import AgreedError
from hpcdist.mpi.library import LIBMPI, libraries

without_mpi = pytest.mark.skipif(h5py.get_config().mpi, reason="this h5py has MPI")


@without_mpi
def test_an_h5py_without_mpi_is_named_with_what_to_do():
    why = unavailable()
    assert f"h5py {h5py.__version__} was built without MPI" in why
    assert "HDF5_MPI=ON CC=mpicc pip install --no-binary=h5py h5py" in why
    assert "shards" in why


@without_mpi
def test_a_store_of_this_layout_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(AgreedError, match="was built without MPI"):
        Store(MPI.COMM_SELF, tmp_path / "checkpoints", layout="collective")
    assert not (tmp_path / "checkpoints").exists()


def test_one_mpi_library_is_loaded():
    assert len(libraries()) == 1


@pytest.mark.parametrize("name", ["libmpi.so.40.40.5", "libmpi.so.12", "libmpi_cray.so.12", "libmpich.so.12"])
def test_an_mpi_library_is_known_by_its_name(name):
    assert LIBMPI.search(f"/opt/{name}")


@pytest.mark.parametrize("name", ["libmpi_cxx.so.40", "libmpi_mpifh.so.40", "MPI.cpython-311-x86_64-linux-gnu.so"])
def test_its_parts_are_not(name):
    assert not LIBMPI.search(f"/opt/{name}")
