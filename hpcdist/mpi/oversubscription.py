"""Whether the MPI library was told that ranks share cores, so that a rank that waits gives its core away.

Its own calls that wait do so then; MPI_Test, by which compiled code waits, does in Open MPI only.
"""

from __future__ import annotations

import os
from functools import cache

from hpcdist.mpi.cvars import value_of

SWITCHES = ("mpi_yield_when_idle", "MPIR_CVAR_POLLS_BEFORE_YIELD")  # of Open MPI and of MPICH, 1 where told
VARIABLES = ("I_MPI_WAIT_MODE", "I_MPI_THREAD_YIELD")  # of Intel MPI


@cache
def told_to_yield() -> bool:
    """By a switch of the library in use, or by an environment variable of Intel MPI's."""
    return 1 in map(value_of, SWITCHES) or any(os.environ.get(name, "0") != "0" for name in VARIABLES)
