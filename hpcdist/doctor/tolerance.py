"""Does a job outlive a dead rank? mpi4py's ULFM calls succeed on any MPI, as long as nobody dies.

What was seen: without `--with-ft ulfm`, Open MPI 5 revokes and shrinks communicators like one that has it, and mpirun
ends the job when a rank dies; so does an mpirun that was not told while OMPI_MCA_mpi_ft_enable is set.
"""

from __future__ import annotations

from collections.abc import Sequence

import psutil
from mpi4py import MPI

from hpcdist.doctor.finding import OK, WARN, Finding
from hpcdist.doctor.job import Job
from hpcdist.mpi.cvars import value_of
from hpcdist.mpi.launcher import maker


def check(job: Job) -> list[Finding]:
    """Rank 0's library and launcher stand for all."""
    revoke, enabled, launcher = job.ask_rank_0(
        "revoke a communicator of its own", lambda: (can_revoke(), value_of("mpi_ft_enable"), launcher_command())
    )
    return [judge(maker(MPI.Get_library_version()), revoke, enabled, launcher)]


def can_revoke() -> bool:
    """Whether the library itself can revoke a communicator: mpi4py's other ULFM calls have fallbacks that succeed.

    Tried on a duplicate of MPI_COMM_SELF, so that no other rank hears of it.
    """
    own = MPI.COMM_SELF.Dup()
    try:
        own.Revoke()
    except NotImplementedError:
        return False
    finally:
        own.Free()
    return True


def launcher_command() -> Sequence[str] | None:
    """The command line of the mpirun that this process descends from, if it runs on this host."""
    for parent in psutil.Process().parents():
        try:
            if parent.name() in ("mpirun", "mpiexec", "prterun", "mpiexec.hydra"):
                return parent.cmdline()
        except psutil.Error:
            continue
    return None


def judge(library: str | None, revoke: bool, enabled: int | None, launcher: Sequence[str] | None) -> Finding:
    """ULFM takes a library that has it, a switch in it, and a launcher that lets the job live.

    Args:
        library: who made the MPI.
        revoke: whether the library can revoke a communicator.
        enabled: Open MPI's mpi_ft_enable; None if the library has no such switch.
        launcher: the command line of mpirun, if it can be seen.
    """
    missing = _missing(library, revoke, enabled, launcher)
    if missing is None:
        return Finding(
            OK, "fault tolerance", "ULFM is real here: revoked communicators are, and dead ranks are reported"
        )
    found, todo = missing
    why = (
        "a dead rank ends the whole job, or leaves the others waiting. Shrink, Agree and Get_failed may succeed all "
        "the same, as long as nobody dies"
    )
    return Finding(WARN, "fault tolerance", found, why, f"{todo}; jobs that restart from checkpoints do not need it")


def _missing(
    library: str | None, revoke: bool, enabled: int | None, launcher: Sequence[str] | None
) -> tuple[str, str] | None:
    """(what is missing, what to do), or None if a job can outlive a dead rank."""
    if not revoke:
        return "no ULFM: this MPI has no MPI_Comm_revoke", "for ULFM use Open MPI 5, started by: mpirun --with-ft ulfm"
    flags = " ".join(launcher or ())
    if enabled is None:
        if "disable-auto-cleanup" in flags:
            return None
        return f"{library} can revoke communicators, but its launcher ends a job that loses a rank", (
            "start with: mpiexec -disable-auto-cleanup"
        )
    if not enabled:
        return "no ULFM: this MPI has it, but it is switched off", "to switch it on, start with: mpirun --with-ft ulfm"
    if launcher and "--with-ft" not in flags:
        return "mpi_ft_enable is set, but mpirun was not told and ends a job that loses a rank", (
            "set it by starting with: mpirun --with-ft ulfm"
        )
    return None
