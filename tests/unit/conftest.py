"""Tests without a launcher: MPI_Init is spared the second for which Open MPI sleeps where it finds no fabric."""

import os


def pytest_configure():
    os.environ.setdefault("OMPI_MCA_btl", "^ofi")  # as `hpcdist run` does
