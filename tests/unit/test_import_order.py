"""MPI is loaded before HDF5: a parallel HDF5 would load the MPI it was built with, beside the one in use."""

import subprocess
import sys

import pytest

SHOW = "import sys; print([name for name in sys.modules if name in ('mpi4py.MPI', 'h5py')])"


def loaded(*modules):
    """Which of the two are loaded by importing modules in this order, the first first."""
    program = "\n".join([f"import {module}" for module in modules] + [SHOW])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "modules",
    [
        ("hpcdist.cli.main", "hpcdist.train.command", "hpcdist.train.loop"),  # as `hpcdist train` does
        ("hpcdist.train.trainer",),
        ("hpcdist.checkpoint", "hpcdist.checkpoint.store"),
        ("hpcdist.checkpoint", "hpcdist.checkpoint.restoring"),
        ("hpcdist.checkpoint.collective",),
    ],
    ids=lambda modules: modules[-1],
)
def test_what_needs_both_loads_mpi_first(modules):
    assert loaded(*modules) == "['mpi4py.MPI', 'h5py']"


def test_the_order_is_seen():
    assert loaded("h5py", "mpi4py.MPI") == "['h5py', 'mpi4py.MPI']"
