"""Whether ranks give their cores away while they wait is what the MPI library was told."""

import os
import subprocess
import sys

import pytest

PROGRAM = "from hpcdist.transport.mpi import _library; print(_library().yields)"


@pytest.mark.parametrize(
    ("told", "yields"),
    [
        ({}, False),
        ({"OMPI_MCA_mpi_yield_when_idle": "1", "MPIR_CVAR_POLLS_BEFORE_YIELD": "1"}, True),
        ({"MPIR_CVAR_POLLS_BEFORE_YIELD": "1000"}, False),
        ({"I_MPI_WAIT_MODE": "1"}, True),
        ({"I_MPI_THREAD_YIELD": "2"}, True),
        ({"I_MPI_THREAD_YIELD": "0"}, False),
    ],
)
def test_compiled_code_yields_where_the_library_was_told_to(told, yields):
    environment = {**os.environ, **told}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == str(yields)
