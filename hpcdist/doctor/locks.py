"""Do locks that one rank holds keep out the others, on its own host and on every other one?"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from hpcdist.checkpoint import fence
from hpcdist.doctor.finding import FAIL, OK, SKIP, WARN, Finding, listing
from hpcdist.doctor.job import Job
from hpcdist.doctor.mounts import Mount
from hpcdist.doctor.rename import readers_of
from hpcdist.util.atomic_files import opened

REFUSED, GRANTED = "refused", "granted"

MEND = (
    "Lustre: have it mounted with -o flock (not localflock, not noflock); NFS: without nolock and local_lock, and with "
    "lockd or NFSv4"
)


def check(job: Job, folder: Path, sees: Sequence[bool], mounts: Mapping[str, Mount]) -> list[Finding]:
    """Rank 0 takes both kinds of locks; one rank of every other host, and one of its own, must not get them."""
    others = readers_of(job, sees)
    with ExitStack() as held:
        taken = job.ask_rank_0("take locks", lambda: {name: _take(folder, name, held) for name in LOCKS})
        tried = job.ask("try the locks that rank 0 holds", lambda: attempts(folder) if job.rank in others else None)
    answers = {rank: each for rank, each in enumerate(tried) if each}
    return [_judge(name, taken[name], answers, job, mounts) for name in LOCKS]


# --- taking them ---


def _posix(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


LOCKS = {"flock": fence.acquired, "fcntl locks": _posix}  # the first is the very call that guards checkpoints


def _take(folder: Path, name: str, held: ExitStack) -> str:
    """Take a lock and keep it until `held` ends: "granted", "refused", or why the file system cannot."""
    descriptor = held.enter_context(opened(folder / name.replace(" ", "-"), os.O_RDWR | os.O_CREAT))
    try:
        return GRANTED if LOCKS[name](descriptor, folder) else REFUSED
    except OSError as error:
        return os.strerror(error.errno or 0)


def attempts(folder: Path) -> dict[str, str]:
    """Try each lock for a moment; the answers of `_take`."""
    with ExitStack() as held:
        return {name: _take(folder, name, held) for name in LOCKS}


# --- what that means ---


def _judge(
    name: str, taken: str, answers: Mapping[int, Mapping[str, str]], job: Job, mounts: Mapping[str, Mount]
) -> Finding:
    got = {rank: answer[name] for rank, answer in answers.items()}
    return judge(name, taken, [(f"rank {rank} on {job.host(rank)}", text) for rank, text in got.items()], mounts)


def judge(name: str, taken: str, others: Sequence[tuple[str, str]], mounts: Mapping[str, Mount]) -> Finding:
    """What one kind of lock is worth here.

    Args:
        name: "flock", which hpcdist and HDF5 use, or "fcntl locks", which MPI-IO uses.
        taken: what rank 0 got.
        others: (who, what they got) of those who tried while rank 0 held it.
        mounts: of each host, to name the file system.
    """
    kind = listing(dict.fromkeys(map(str, mounts.values())), 3)
    errors = [f"rank 0: {taken}"] if taken != GRANTED else []
    errors += [f"{who}: {text}" for who, text in others if text not in (GRANTED, REFUSED)]
    if errors:
        return _finding(
            name, f"cannot be taken. {listing(errors, 3)}; {kind}", "HDF5 fails to open files where it must lock"
        )
    both = [who for who, text in others if text == GRANTED]
    if both:
        found = f"rank 0 holds it, and yet it was given to {listing(both)}; {kind}"
        return _finding(name, found, "locks are known only to the host that takes them")
    if not others:
        return Finding(SKIP, name, "taken; no other rank to try what rank 0 holds")
    return Finding(OK, name, f"taken by rank 0, refused to {listing(who for who, _ in others)}")


def _finding(name: str, found: str, why: str) -> Finding:
    if name == "flock":
        return Finding(
            FAIL,
            name,
            found,
            f"{why}. Two runs that share this directory, say a job that was requeued and what is left of it on another "
            "host, are then not kept apart and may spoil each other's checkpoints",
            f"{MEND}; or give each run a --checkpoint-dir of its own and make sure that the old job is gone before the "
            "new one starts. Where HDF5 cannot open files: export HDF5_USE_FILE_LOCKING=FALSE",
        )
    return Finding(
        WARN,
        name,
        found,
        f"{why}. hpcdist does without them, but MPI-IO needs them on NFS, and so does parallel HDF5",
        f"{MEND}; for MPI-IO use another directory",
    )
