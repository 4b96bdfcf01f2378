"""The checkpoint directory: one directory on all hosts, writable, with renames and locks that hold between hosts.

Each question is put in a folder of the doctor's own inside the directory, which is removed at the end.
"""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from hpcdist.doctor import locks, rename
from hpcdist.doctor.finding import FAIL, OK, SKIP, WARN, Finding, listing, plural
from hpcdist.doctor.job import Job
from hpcdist.doctor.mounts import Mount, mount_of
from hpcdist.mpi.collective_errors import who_says
from hpcdist.util.atomic_files import fsync
from hpcdist.util.sizes import format_bytes

PATIENCE = 5.0  # seconds until what one host has written must be seen on the others
SLOW = 1.0  # seconds
LEAST_FREE = 1 << 30  # bytes
VANISHING = ("tmpfs", "ramfs", "devtmpfs")


def check(directory: Path) -> Callable[[Job], list[Finding]]:
    """The check of a directory, by its path on all hosts."""
    return partial(_check, directory.absolute())


def _check(directory: Path, job: Job) -> list[Finding]:
    token = job.ask_rank_0("draw a name", lambda: f".hpcdist-doctor-{uuid.uuid4().hex[:8]}")
    problem, made = job.ask_rank_0(f"make {directory / token}", lambda: _make(directory / token))
    if problem:
        return [Finding(FAIL, "directory", f"{directory}: {problem}", "no checkpoint can be written",
                        "create it, or give another one with --checkpoint-dir")]  # fmt: skip
    left: list[str] = []
    try:
        found = _inside(job, directory, directory / token)
    finally:  # by rank 0 alone, as a rank that fails must not wait for others
        if job.rank == 0:
            with job.limit.busy(f"remove {directory / token}"):
                left = _remove(directory / token, made)
    return found + _leftovers(job.ask_rank_0("say what could not be removed", lambda: left))


def _make(folder: Path) -> tuple[str | None, list[Path]]:
    """Make the doctor's folder: (what went wrong, all folders that were made, the innermost last)."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True)
        (folder / "here").write_text("here")
        fsync(folder / "here")
        fsync(folder)
    except OSError as error:
        _remove(folder, missing[::-1])
        return f"cannot be written by rank 0: {error.strerror or error}", []
    return None, missing[::-1]


def _remove(folder: Path, made: Sequence[Path]) -> list[str]:
    shutil.rmtree(folder, ignore_errors=True)
    for each in reversed(made):
        with suppress(OSError):  # somebody else has put a file into it
            each.rmdir()
    return [str(folder)] if folder.exists() else []


def _leftovers(left: Sequence[str]) -> list[Finding]:
    if not left:
        return []
    why = "files that this host has written cannot be removed by it, as their names and their inodes are out of step"
    return [Finding(WARN, "cleaning up", f"{listing(left)} could not be removed", why, f"rm -r {' '.join(left)}")]


def _inside(job: Job, directory: Path, folder: Path) -> list[Finding]:
    """All questions that need the folder; hosts that do not see it are left out of the later ones."""
    mounts = job.ask("look at its mount", lambda: mount_of(directory))
    delays = job.ask(f"wait for {folder.name} to be seen", lambda: delay(folder / "here"))
    sees = [seconds is not None for seconds in delays]
    writes = job.ask("write, sync and remove a file", lambda: _write(folder, job.rank) if sees[job.rank] else None)
    space = job.ask_rank_0("look at the space left", lambda: _space(directory))
    return [
        judge_mounts(directory, job.by_host(mounts)),
        judge_shared(job.by_host(delays), job.by_host(mounts)),
        judge_writes(writes),
        judge_space(*space),
        *rename.check(job, folder, sees),
        *locks.check(job, folder, sees, job.by_host(mounts)),
    ]


def judge_mounts(directory: Path, mounts: Mapping[str, Mount]) -> Finding:
    """The kind of file system, and whether it outlives the host."""
    kinds = listing(dict.fromkeys(str(mount) for mount in mounts.values()), 3)
    vanishing = [host for host, mount in mounts.items() if mount.kind in VANISHING]
    if vanishing:
        return Finding(
            WARN,
            "directory",
            f"{directory} is {kinds}: in memory on {listing(vanishing)}",
            "its files are gone with the host, and take the memory of the ranks",
            "give a directory on disks that all hosts share with --checkpoint-dir",
        )
    return Finding(OK, "directory", f"{directory}: {kinds}")


# --- is it the same directory everywhere? ---


def delay(path: Path, patience: float = PATIENCE) -> float | None:
    """Seconds until a file that is there on another host is seen on this one, or None if it is not."""
    start = time.monotonic()
    while not path.exists():
        if time.monotonic() - start > patience:
            return None
        time.sleep(0.02)
    return time.monotonic() - start


def judge_shared(delays: Mapping[str, float | None], mounts: Mapping[str, Mount]) -> Finding:
    """Every host sees what rank 0 has written, and soon."""
    blind = [host for host, seconds in delays.items() if seconds is None]
    first = next(iter(delays))
    if blind:
        return Finding(
            FAIL,
            "shared",
            f"{listing(blind)} did not see within {PATIENCE:g} s what rank 0 on {first} wrote; it is {mounts[first]} "
            f"on {first} and {listing(mounts[host] for host in blind)} there",
            "each host has a directory of its own under this name: checkpoints would be in pieces, and a run that "
            "resumes on other hosts starts from the beginning",
            "give a directory on a file system that all hosts mount (scratch, project, home) with --checkpoint-dir",
        )
    if len(delays) == 1:
        return Finding(SKIP, "shared", "one host only")
    slowest, seconds = max(delays.items(), key=lambda item: item[1] or 0.0)
    text = f"the same on all {len(delays)} hosts, seen after {seconds or 0.0:.2f} s at most ({slowest})"
    if (seconds or 0.0) > SLOW:
        why = (
            "hosts keep what they know of a directory for a while, so a checkpoint may be missed by a run that resumes"
        )
        return Finding(WARN, "shared", text, why, "NFS: mount with a shorter actimeo, or lookupcache=positive")
    return Finding(OK, "shared", text)


# --- can it be written? ---


def _write(folder: Path, rank: int) -> str:
    """Write a file durably and remove it; empty if that went well, else what went wrong."""
    path = folder / f"rank-{rank}"
    try:
        path.write_bytes(os.urandom(4096))
        fsync(path)
        fsync(folder)
        path.unlink()
    except OSError as error:
        return f"{error.strerror or error}"
    return ""


def judge_writes(answers: Sequence[str | None]) -> Finding:
    """Every rank that sees the directory can write there."""
    if any(answers):
        return Finding(
            FAIL,
            "writable",
            who_says([text or None for text in answers]),
            "every rank must be able to write files and to make them durable (fsync of the file and its directory)",
            "look at permissions, quotas and read-only mounts on those hosts",
        )
    able = [rank for rank, text in enumerate(answers) if text is not None]
    return Finding(OK, "writable", f"{plural(len(able), 'rank')} wrote, synced and removed a file")


def _space(directory: Path) -> tuple[int, int, int]:
    """(bytes free, bytes in all, files that may still be made; -1 if that is not limited)."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize, stat.f_favail if stat.f_files else -1


def judge_space(free: int, total: int, files: int) -> Finding:
    """Room for a checkpoint, as far as the file system tells: quotas it does not."""
    text = f"{format_bytes(free)} of {format_bytes(total)} free" + (f", room for {files} files" if files >= 0 else "")
    if free < LEAST_FREE or 0 <= files < 1000:
        why = "a checkpoint that does not fit fails, and the old ones are kept until a new one is complete"
        return Finding(
            WARN, "space", text, why, "remove old runs, or give another directory; a quota may be smaller still"
        )
    return Finding(OK, "space", f"{text}; quotas cannot be seen")
