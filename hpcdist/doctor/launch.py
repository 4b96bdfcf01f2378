"""Is this one job, of one MPI, with the same software on every rank?"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import click
import numpy as np
from mpi4py import MPI

from hpcdist._version import __version__
from hpcdist.doctor.finding import FAIL, OK, SKIP, Finding, listing, plural
from hpcdist.doctor.job import Job
from hpcdist.doctor.start import SRUN
from hpcdist.mpi import launcher
from hpcdist.mpi.collective_errors import naming
from hpcdist.mpi.library import libraries
from hpcdist.mpi.machine import library_name


def check(job: Job) -> list[Finding]:
    """The launcher, the library in the processes' memory, and the versions."""
    answers = job.ask(
        "look at the launcher's variables and at loaded libraries",
        lambda: (launcher.started(os.environ), libraries(), software()),
    )
    launched, paths, versions = zip(*answers, strict=True)
    return [judge_size(job.size, len(job.names), launched[0]), judge_libraries(paths), judge_versions(versions)]


def software() -> dict[str, str]:
    """What must be the same on all ranks."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "mpi4py": version("mpi4py"),
        "hpcdist": __version__,
        "MPI": library_name(),
    }


def singletons(problem: str) -> Finding:
    """Each process is a world of its own; `problem` says which launcher did that."""
    library = launcher.maker(MPI.Get_library_version())
    srun = SRUN.get(launcher.KIND.get(library or "", ""), "srun --mpi=pmix, or pmi2 for an MPI that comes from MPICH")
    try:
        fitting = f"on this machine {launcher.find(None).path} fits"
    except click.ClickException:
        fitting = "no launcher of its kind was found here: load its module"
    todo = (
        f"{library or 'this MPI'} is started by {srun} (srun --mpi=list shows what there is) or by its own mpirun; "
        f"{fitting}"
    )
    why = "n worlds of one rank look like a job that works: each does all the work, and they write the same files"
    return Finding(FAIL, "launcher", problem, why, todo)


def judge_size(size: int, hosts: int, said: launcher.Started | None) -> Finding:
    """Compare the size of the world with what the launcher says it started."""
    if said is None and size == 1:
        return Finding(
            SKIP, "launcher", "one process without a launcher, so nothing between ranks can be looked at; start the "
            "doctor as the job is started, as in: srun --mpi=pmix hpcdist doctor",
        )  # fmt: skip
    by, count = (said.launcher, said.processes) if said else ("an unknown launcher", size)
    if size < count:
        return Finding(
            FAIL,
            "launcher",
            f"{by} started {count} processes, but this world has {plural(size, 'rank')}",
            "the processes form several worlds, each of which does all the work and writes the same files",
            "give the job one launcher for all hosts, and one MPI: check that modules and PATH are the same on each",
        )
    return Finding(OK, "launcher", f"{plural(size, 'rank')} on {plural(hosts, 'host')}, started by {by}")


def judge_libraries(paths: Sequence[Sequence[str]]) -> Finding:
    """One MPI library per process; several share names, and calls go to whichever came first."""
    several = [rank for rank, found in enumerate(paths) if len(found) > 1]
    if several:
        return Finding(
            FAIL,
            "libmpi",
            f"{naming(several)} loaded more than one MPI library: {listing(paths[several[0]])}",
            "calls go to one or the other by chance: wrong results, crashes, or ranks that do not find each other",
            "let all packages use one MPI: unload other MPI modules, look at LD_LIBRARY_PATH and LD_PRELOAD, and "
            "reinstall packages that carry an MPI of their own",
        )
    found = listing(path for each in paths for path in each)
    return Finding(OK, "libmpi", found or "linked into the program: no library of its own is loaded")


def judge_versions(versions: Sequence[Mapping[str, str]]) -> Finding:
    """The same software everywhere."""
    differing = [name for name in versions[0] if len({each[name] for each in versions}) > 1]
    if not differing:
        words = ", ".join(f"{name} {number}" for name, number in versions[0].items() if name != "MPI")
        return Finding(OK, "versions", words)
    texts = []
    for name in differing:
        ranks: dict[str, list[int]] = {}
        for rank, each in enumerate(versions):
            ranks.setdefault(each[name], []).append(rank)
        texts.append(f"{name}: " + ", ".join(f"{number} on {naming(whose)}" for number, whose in ranks.items()))
    return Finding(
        FAIL,
        "versions",
        "; ".join(texts),
        "ranks of different versions may not understand each other's messages, and results depend on the rank",
        "start all ranks from one environment on a shared file system, and the same modules on every host",
    )
