"""Start MPI, and say beforehand what may go wrong in that: an MPI that does not start ends the process."""

from __future__ import annotations

import faulthandler
import os
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from hpcdist.doctor.finding import WARN, Finding
from hpcdist.errors import LaunchError
from hpcdist.mpi.launcher import KIND, RANK_VARIABLES, maker, started

if TYPE_CHECKING:
    from mpi4py import MPI

SRUN = {"pmix": "srun --mpi=pmix", "hydra": "srun --mpi=pmi2"}


def is_first(environment: Mapping[str, str]) -> bool:
    """Whether this is rank 0 as the launcher counts: so that one of many separate worlds speaks for all."""
    ranks = [environment[name] for name in (*RANK_VARIABLES, "SLURM_PROCID") if environment.get(name)]
    return not ranks or ranks[0] == "0"


def start(timeout: float) -> tuple[MPI.Intracomm, str | None]:
    """MPI's world, and what is wrong if it is not one; a start that hangs ends with the stack of this process."""
    import mpi4py

    mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
    faulthandler.dump_traceback_later(timeout, exit=True)  # MPI_Init holds the interpreter, so no Python can watch it
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "suspicious MPI", RuntimeWarning)  # we say that better, and once
        from mpi4py import MPI
    found = doubt(os.environ, MPI.Get_library_version())
    if found and is_first(os.environ):
        click.echo(str(found), err=True)
        sys.stderr.flush()
    MPI.Init_thread()
    from hpcdist.mpi.world import world

    try:
        return world(), None
    except LaunchError as error:
        return MPI.COMM_WORLD, str(error)
    finally:
        faulthandler.cancel_dump_traceback_later()


def doubt(environment: Mapping[str, str], library: str) -> Finding | None:
    """Whether an MPI that comes from MPICH was started by a launcher for Open MPI, which makes most builds abort."""
    made = maker(library)
    if "PMIX_RANK" not in environment or "PMI_RANK" in environment or KIND.get(made or "") != "hydra":
        return None
    found = started(environment)
    return Finding(
        WARN,
        "launcher",
        f"{found.launcher if found else 'a PMIx launcher'} started this by PMIx, but mpi4py loads {made}",
        "if this is the last thing that the doctor says, MPI has ended the processes as they started (unsupported PMI "
        "version PMIx)",
        f"start {made} with {SRUN['hydra']}, or with its own mpirun",
    )
