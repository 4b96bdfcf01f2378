"""Is a rename over a file that others read atomic? Every checkpoint is committed by one."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcdist.doctor.finding import FAIL, OK, SKIP, WARN, Finding, listing
from hpcdist.doctor.job import Job

VERSIONS = 40
PAUSE = 0.01  # seconds between two renames
PATIENCE = 5.0  # seconds until the last version must be seen
LINES = 512  # of a file, all alike, so that a mixture of two versions is seen


@dataclass
class Seen:
    """What a reader met: reads in all, those without a file, with parts of a file, with a stale handle; and the end."""

    reads: int = 0
    missing: int = 0
    torn: int = 0
    stale: int = 0
    last: bool = False


def check(job: Job, folder: Path, sees: Sequence[bool]) -> list[Finding]:
    """Rank 0 renames over a file again and again while one rank of every other host reads it, and one of its own."""
    path = folder / "renamed"
    readers = readers_of(job, sees)
    if not readers:
        return [Finding(SKIP, "rename", "no other rank to read what rank 0 renames")]
    job.ask_rank_0("write a file", lambda: _replace(path, 0))

    def look() -> Seen | None:
        if job.rank == 0:
            replace_often(path)
        return read_often(path) if job.rank in readers else None

    answers = job.ask("rename over a file, or read it meanwhile", look)
    return [judge({f"rank {rank} on {job.host(rank)}": seen for rank, seen in enumerate(answers) if seen})]


def readers_of(job: Job, sees: Sequence[bool]) -> list[int]:
    """The first rank of every other host, and the second of rank 0's, as far as they see the folder."""
    others = [*job.nodes[job.node[0]][1:2], *(head for head in job.heads if job.node[head] != job.node[0])]
    return [rank for rank in others if sees[rank]]


def _replace(path: Path, version: int) -> None:
    draft = path.with_name(f"draft-{version}")
    draft.write_text(f"{version}\n" * LINES)
    os.replace(draft, path)


def replace_often(path: Path) -> None:
    """Put one version after the other in place."""
    for version in range(1, VERSIONS):
        _replace(path, version)
        time.sleep(PAUSE)


def read_often(path: Path, patience: float = PATIENCE) -> Seen:
    """Read until the last version is seen, or for `patience` seconds after they should all be there."""
    seen = Seen()
    give_up = time.monotonic() + VERSIONS * PAUSE + patience
    while not seen.last and time.monotonic() < give_up:
        seen.reads += 1
        try:
            _judge_text(path.read_text(), seen)
        except FileNotFoundError:
            seen.missing += 1
        except OSError as error:
            if error.errno != errno.ESTALE:
                raise
            seen.stale += 1
        time.sleep(PAUSE / 10)
    return seen


def _judge_text(text: str, seen: Seen) -> None:
    lines = text.splitlines()
    if len(lines) != LINES or len(set(lines)) != 1:
        seen.torn += 1
    else:
        seen.last = lines[0] == str(VERSIONS - 1)


def judge(readers: Mapping[str, Seen]) -> Finding:
    """Old or new, never nothing, never a mixture; and new before long."""
    broken = [f"{who}: {seen.missing} times no file, {seen.torn} times parts of one, of {seen.reads} reads"
              for who, seen in readers.items() if seen.missing or seen.torn]  # fmt: skip
    if broken:
        return Finding(
            FAIL,
            "rename",
            f"a rename over a file is not atomic. {listing(broken, 3)}",
            "checkpoints are committed by one rename: a reader could find none, or half of one",
            "give a directory on a POSIX file system (Lustre, GPFS, NFS, BeeGFS), not an object store behind FUSE",
        )
    stale = [
        f"{who}: {'stale handles' if seen.last else 'the old file only'}"
        for who, seen in readers.items()
        if seen.stale or not seen.last
    ]
    if stale:
        return Finding(
            WARN,
            "rename",
            f"{PATIENCE:g} s after a rename not all see the new file. {listing(stale, 3)}",
            "hosts keep what they know of files for a while: a run that resumes elsewhere may miss a checkpoint",
            "NFS: mount with a shorter actimeo or lookupcache=none; wait a minute before a job is started again",
        )
    reads = sum(seen.reads for seen in readers.values())
    return Finding(OK, "rename", f"atomic: {VERSIONS} renames, {reads} reads by {listing(readers, 3)}")
