"""The MPI library: its version, its threads, and how its messages travel."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec

from mpi4py import MPI

from hpcdist.doctor import tolerance
from hpcdist.doctor.finding import OK, WARN, Finding
from hpcdist.doctor.job import Job
from hpcdist.kernels.jit import SWITCH
from hpcdist.mpi.cvars import text_of
from hpcdist.mpi.machine import library_name

LEVELS = {
    MPI.THREAD_SINGLE: "SINGLE",
    MPI.THREAD_FUNNELED: "FUNNELED",
    MPI.THREAD_SERIALIZED: "SERIALIZED",
    MPI.THREAD_MULTIPLE: "MULTIPLE",
}

# What chooses how messages travel.
OPEN_MPI = ("pml", "btl", "mtl")
VARIABLES = ("FI_PROVIDER", "UCX_TLS", "UCX_NET_DEVICES", "I_MPI_FABRICS", "MPICH_CH4_NETMOD", "MPIR_CVAR_CH4_NETMOD")


def check(job: Job) -> list[Finding]:
    """All that the library says of itself; what rank 0 has is taken for all, as they have the same library."""
    thread, chosen = job.ask_rank_0("ask the MPI library about itself", lambda: (MPI.Query_thread(), transports()))
    return [
        Finding(OK, "MPI", f"{library_name()}, standard {'.'.join(map(str, MPI.Get_version()))}"),
        judge_threads(thread, os.environ),
        judge_executor(find_spec("numba") is not None, os.environ.get(SWITCH)),
        judge_transports(chosen),
        *tolerance.check(job),
    ]


def judge_executor(numba: bool, said: str | None) -> Finding:
    """Who runs the plans of host memory."""
    if numba and said != "0":
        return Finding(OK, "executor", "compiled: Numba is here")
    return Finding(
        WARN,
        "executor",
        "plain Python",
        f"{SWITCH}={said}"
        if numba
        else "there is no Numba, without which a plan of 8 bytes takes about 4 times as long",
        f"unset {SWITCH}" if numba else "pip install 'hpcdist[fast]'",
    )


def judge_threads(level: int, environment: Mapping[str, str]) -> Finding:
    """Two threads of hpcdist's own may call MPI: the watchdog, to end the job, and the one that runs started plans."""
    name = LEVELS[level]
    if level >= MPI.THREAD_MULTIPLE:
        return Finding(OK, "threads", f"MPI_THREAD_{name}: any thread may call MPI")
    if environment.get("HPCDIST_TIMEOUT_ACTION") == "abort" or level < MPI.THREAD_FUNNELED:
        return Finding(
            WARN,
            "threads",
            f"MPI_THREAD_{name}",
            "the watchdog of HPCDIST_TIMEOUT ends a job that hangs by MPI_Abort from a thread of its own, which this "
            "level does not allow: it may hang or crash instead",
            "use an MPI built for MPI_THREAD_MULTIPLE (Open MPI 5, MPICH 4 and Intel MPI are), and leave "
            "mpi4py.rc.thread_level as it is",
        )
    return Finding(
        OK,
        "threads",
        f"MPI_THREAD_{name}: enough for hpcdist; threads of your own must not call MPI, and what plan.start() begins "
        "moves in your calls of test() and wait() only",
    )


def transports() -> dict[str, str]:
    """What has been chosen for how messages travel; what is not in it is left to the library."""
    chosen = {name: value for name in OPEN_MPI if (value := text_of(name))}
    return chosen | {name: os.environ[name] for name in VARIABLES if name in os.environ}


def judge_transports(chosen: Mapping[str, str]) -> Finding:
    """No library tells what it took, so only what was asked for can be said."""
    if chosen:
        return Finding(OK, "transports", "asked for: " + ", ".join(f"{name}={value}" for name, value in chosen.items()))
    return Finding(OK, "transports", "left to the library; the speeds below show what it took")
