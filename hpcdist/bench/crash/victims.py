"""Who is killed: one rank, the rank that is writing a checkpoint, the whole job, or the launcher alone."""

from __future__ import annotations

import os
import random
import re
import signal
from contextlib import suppress
from pathlib import Path

import psutil

from hpcdist.mpi.launcher import RANK_VARIABLES

RANK, WRITER, JOB, LAUNCHER = "one rank", "the writer", "the whole job", "the launcher"
VICTIMS = (RANK, WRITER, JOB, LAUNCHER)


def ranks(launcher: psutil.Process) -> list[psutil.Process]:
    """The ranks among what a launcher has started."""
    return [child for child in launcher.children(recursive=True) if _is_rank(child)]


def _is_rank(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(name in process.environ() for name in RANK_VARIABLES)
    return False


def writing(processes: list[psutil.Process], directory: Path) -> psutil.Process | None:
    """The first process that has a file of a draft in a checkpoint directory open, if any has."""
    within = re.compile(re.escape(str(directory.resolve())) + r"/step-\d+\.tmp-[^/]*/.+")
    return next((process for process in processes if _has_open(process.pid, within)), None)


def _has_open(process: int, within: re.Pattern[str]) -> bool:
    try:
        files = os.listdir(f"/proc/{process}/fd")
    except OSError:  # it has ended
        return False
    return any(within.fullmatch(_target(f"/proc/{process}/fd/{file}")) for file in files)


def _target(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:  # it has been closed meanwhile
        return ""


def kill(
    victim: str,
    launcher: psutil.Process,
    members: list[psutil.Process],
    writer: psutil.Process | None,
    chance: random.Random,
) -> None:
    """Send SIGKILL.

    Args:
        victim: One of VICTIMS.
        launcher: Of the job.
        members: Its ranks.
        writer: The one that is writing, for WRITER.
        chance: Chooses one of several.
    """
    targets = {
        RANK: lambda: [chance.choice(members)],
        WRITER: lambda: [writer] if writer else [],
        JOB: lambda: [launcher, *members],
        LAUNCHER: lambda: [launcher],
    }
    for target in targets[victim]():
        with suppress(psutil.NoSuchProcess):  # died of the one before
            target.send_signal(signal.SIGKILL)
