"""What must hold before ranks work together: one world, a job that ends when one rank fails or the launcher dies."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, NoReturn

import click
from mpi4py import MPI

from hpcdist.errors import AgreedError, LaunchError
from hpcdist.mpi.collective_errors import agree_on
from hpcdist.mpi.launcher import started

ALLOW = "HPCDIST_ALLOW_SINGLETON"
PAUSE = 0.001  # seconds between two looks whether others have come


def world() -> MPI.Intracomm:
    """MPI.COMM_WORLD, for a command that is about to use it.

    Raises: LaunchError if a launcher started several processes and each is a world of its own.
    """
    check_launcher(MPI.COMM_WORLD.size, dict(os.environ))
    abort_on_error()
    if MPI.COMM_WORLD.size > 1:
        exit_with_launcher()
    return MPI.COMM_WORLD


def run_on_world(work: Callable[[MPI.Intracomm], int]) -> NoReturn:
    """Do the work of a command on all ranks, and exit with the code that it returns.

    If the ranks cannot go on, or were not all given the same options, rank 0 says so in a line, and all exit with 1.
    """
    try:
        comm = world()
    except LaunchError as error:
        raise click.ClickException(str(error)) from None
    context = click.get_current_context(silent=True)
    try:
        given = context.params if context else {}
        agree_on(comm, {f"--{name.strip('_').replace('_', '-')}": value for name, value in given.items()})
        code = work(comm)
    except AgreedError as error:
        if comm.rank == 0:
            click.echo(f"Error: {error}", err=True)
        code = 1
    sys.exit(code)


def check_launcher(size: int, environment: dict[str, str]) -> None:
    """Compare the size of the world with what the launcher says it started.

    `srun` with the wrong --mpi, or the mpirun of another MPI, starts n worlds of size 1, which would all write the
    same files.

    Raises: LaunchError, saying what to do.
    """
    found = started(environment)
    if size == 1 and environment.get(ALLOW) != "1" and found and found.processes > 1:
        library = MPI.Get_library_version().split(",")[0].split("\n")[0].strip()
        raise LaunchError(
            f"{found.launcher} started {found.processes} processes ({found.variable}), but each is a world of size 1 "
            f"of its own: the launcher does not belong to the MPI library in use, {library}. Every process would do "
            f"the whole work and write the same files. To mend it, {found.advice}. If single processes are meant, set "
            f"{ALLOW}=1."
        )


def abort_on_error() -> None:
    """Make an uncaught exception on one rank end the whole job, after its traceback, instead of hanging the rest."""
    if sys.excepthook is _abort or MPI.COMM_WORLD.size == 1:
        return
    sys.excepthook = _abort


def _abort(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    rank = MPI.COMM_WORLD.rank
    text = "".join(traceback.format_exception(kind, error, trace))
    try:
        print(f"hpcdist: rank {rank} ends the job:\n{text}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    finally:  # also where the output goes nowhere
        MPI.COMM_WORLD.Abort(130 if issubclass(kind, KeyboardInterrupt) else 1)


def exit_with_launcher(every: float = 0.5) -> None:
    """Exit soon after the process that started this rank is gone, so that no orphan goes on writing."""
    launcher = os.getppid()

    def look() -> None:
        while os.getppid() == launcher:
            time.sleep(every)
        with contextlib.suppress(OSError):  # what it read our output with is gone as well
            print("hpcdist: the launcher is gone; this rank exits.", file=sys.stderr, flush=True)
        os._exit(70)

    threading.Thread(target=look, name="hpcdist launcher watch", daemon=True).start()


def sleeping_barrier(comm: MPI.Intracomm) -> None:
    """Wait for all ranks as a barrier does, but leave the core to those that are still at work. Collective."""
    request = comm.Ibarrier()
    while not request.Test():  # not watched, as nobody can say how long a disk may take
        time.sleep(PAUSE)


def topology_of(comm: MPI.Intracomm) -> tuple[int, ...]:
    """Collective: the node of every rank; nodes are numbered by their lowest rank's order."""
    node = node_of(comm)
    leaders = comm.allgather(leader_of(comm, node))
    node.Free()
    return numbered(leaders)


def node_of(comm: MPI.Intracomm) -> MPI.Intracomm:
    """Collective: the ranks of this node, in their order."""
    node: Any = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.rank)
    return node


def leader_of(comm: MPI.Intracomm, node: MPI.Intracomm) -> int:
    """The first rank of this node."""
    groups = node.Get_group(), comm.Get_group()
    (leader,) = groups[0].Translate_ranks([0], groups[1])
    for group in groups:
        group.Free()
    return leader


def numbered(leaders: Sequence[int]) -> tuple[int, ...]:
    """The node of every rank, from the first rank of each one's node."""
    number = {leader: i for i, leader in enumerate(dict.fromkeys(leaders))}
    return tuple(number[leader] for leader in leaders)
