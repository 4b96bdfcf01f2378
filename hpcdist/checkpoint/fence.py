"""Fencing: only the run that took a directory last may change what is in it.

A rank can outlive its killed launcher and still be writing when the next job has begun. So each run leaves a
token in the directory when it starts, and whoever wants to commit must find its own token there, under a
lock. This is the fencing token of M. Kleppmann, "How to do distributed locking", 2016.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hpcdist.util.atomic_files import fsync, opened, write_text

OWNER, LOCK = "OWNER", "LOCK"
PATIENCE = 60.0  # seconds; the lock is held only for a rename


class FencedOut(RuntimeError):
    """Another run has taken the directory; this one may no longer change it."""


class Fence:
    """A run's claim on a checkpoint directory; making one takes the directory from whoever had it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.token = uuid.uuid4().hex[:12]
        directory.mkdir(parents=True, exist_ok=True)
        fsync(directory.parent)
        with lock(directory):
            write_text(directory / OWNER, json.dumps({"token": self.token, **identity()}) + "\n")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the directory: within the block it is ours, and no other run can take it.

        Raises:
            FencedOut: another run has taken it.
        """
        with lock(self.directory):
            owner = json.loads((self.directory / OWNER).read_text(encoding="utf-8"))
            if owner["token"] != self.token:
                raise FencedOut(
                    f"{self.directory} has been taken over by another run (process {owner['process']} on "
                    f"{owner['host']}, job {owner['job']}, since {owner['time']}), so this one must end; "
                    "if both are wanted, give each its own --checkpoint-dir"
                )
            yield


def job_of(environment: Mapping[str, str]) -> str:
    """The number of the Slurm job, or "none"; of a task of an array the one that means no other task, "12_3"."""
    if "SLURM_ARRAY_JOB_ID" in environment:
        return f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    return environment.get("SLURM_JOB_ID", "none")


def identity() -> dict[str, str | int]:
    """Who we are, for people to read."""
    return {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "job": job_of(os.environ),
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


@contextmanager
def lock(directory: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Hold the lock of `directory`; the kernel gives it back if we die.

    Raises:
        TimeoutError: another process has held it for `patience` seconds.
        OSError: the file system knows no locks.
    """
    with opened(directory / LOCK, os.O_RDWR | os.O_CREAT) as descriptor:
        deadline = time.monotonic() + patience
        while not acquired(descriptor, directory):
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{directory / LOCK}: another process has held this lock for {patience:g} s, though it "
                    "is needed only for moments; is a run stopped or stuck? fuser -v shows which"
                )
            time.sleep(0.02)
        yield


def acquired(descriptor: int, directory: Path) -> bool:
    """Try once to lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise OSError(
            error.errno,
            f"{directory}: the file system cannot lock files ({error.strerror}), so two runs could not be "
            "kept apart; put --checkpoint-dir on one that can (Lustre: mounted with -o flock)",
        ) from error
    return True
