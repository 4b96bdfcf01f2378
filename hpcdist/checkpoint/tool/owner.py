"""Who owns a directory of checkpoints, and whether that run still goes on, as far as can be known from here.

Taking the directory of a run that goes on never breaks a checkpoint: that run finds its token gone at its next commit
and ends. But it ends, so nothing here takes a directory unless its owner is known to have ended, or is told to.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from hpcdist.checkpoint.fence import OWNER, job_of

SLACK = 2.0  # seconds by which a process may seem to have begun after it took the directory
TIME = "%Y-%m-%d %H:%M:%S %z"


class Owned(RuntimeError):
    """A run that may still go on owns the directory."""


@dataclass(frozen=True)
class Owner:
    """Whoever took the directory last.

    Attributes:
        who: In words.
        token: Its fencing token; empty if it cannot be read.
        running: Whether it goes on; None if that cannot be known from here.
        why: How `running` was decided.
    """

    who: str
    token: str
    running: bool | None
    why: str


def owner_of(directory: Path) -> Owner | None:
    """Who owns `directory`; None if nobody ever did."""
    try:
        said = json.loads((directory / OWNER).read_text(encoding="utf-8"))
        running, why = _running(said)
        who = f"process {said['process']} on {said['host']}, job {said['job']}, since {said['time']}"
        return Owner(who, said["token"], running, why)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Owner("an unknown run", "", None, f"{directory / OWNER} cannot be read: {type(error).__name__}: {error}")


def refuse_if_owned(directory: Path) -> None:
    """See that no run would end if `directory` were taken from its owner.

    Raises:
        Owned: its owner goes on, or nobody here can tell.
    """
    owner = owner_of(directory)
    if owner is not None and owner.running is not False:
        state = "is in use by" if owner.running else "may be in use by"
        raise Owned(
            f"{directory} {state} {owner.who}: {owner.why}. Taking it would end that run at its next checkpoint; "
            "wait for its end, or give --force if it has ended or shall end"
        )


def _running(said: dict[str, Any]) -> tuple[bool | None, str]:
    """Whether the run of an OWNER file goes on, and how that is known."""
    here, job = said["host"] == socket.gethostname(), str(said["job"])
    if here and _alive(int(said["process"]), datetime.strptime(said["time"], TIME).timestamp()):
        return True, "that process is alive on this host"
    if job != "none" and not (here and job == job_of(os.environ)):  # a job may tidy up after its own run
        return _known_to_slurm(job)
    if here:
        return False, "that process is gone from this host"
    return None, f"whether it has ended can be seen on {said['host']} only"


def _alive(process: int, taken: float) -> bool:
    """Whether a process lives that was there when the directory was taken; its number may be another's by now."""
    try:
        found = psutil.Process(process)
        return found.status() != psutil.STATUS_ZOMBIE and found.create_time() <= taken + SLACK
    except psutil.NoSuchProcess:
        return False


def _known_to_slurm(job: str) -> tuple[bool | None, str]:
    """Whether Slurm, as seen from this host, has a job that waits, runs or is being ended."""
    command = ["squeue", "--noheader", "--format=%T", f"--jobs={job}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"Slurm cannot be asked here for job {job}: {error}"
    if done.returncode == 0 and done.stdout.strip():
        return True, f"Slurm says that job {job} is {done.stdout.split()[0]}"
    if done.returncode == 0 or "Invalid job id" in done.stderr:
        return False, f"Slurm has no job {job} any more"
    reason = (done.stderr.strip().splitlines() or [f"squeue ended with {done.returncode}"])[-1]
    return None, f"Slurm does not answer for job {job}: {reason}"
