"""What killed ranks of Open MPI leave in shared memory, and what it does to the next job.

Each rank has a file /dev/shm/sm_segment.HOST.USER.JOB.RANK, named by 16 bits of a number of its job. A rank that is
killed leaves it there, and so does a program without a launcher when it ends (seen in Open MPI 5.0.11). A later job
that draws the same number maps the old file and dies of SIGSEGV in MPI_Init: after a hundred killed jobs, one in 650.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

SHM = Path("/dev/shm")
YOUNG = 60.0  # seconds: a job that is starting may not have mapped its files yet


def find(folder: Path = SHM) -> list[Path]:
    """Segments of this user that no process of theirs has mapped; empty where there are none, or no such folder."""
    found = [path for path in folder.glob(f"sm_segment.*.{os.geteuid()}.*") if _old(path)]
    used = _mapped() if found else set()
    return [path for path in found if str(path) not in used]


def killed(folder: Path = SHM) -> int:
    """How many of them are of ranks that a launcher started, and that others therefore map."""
    return sum(not path.name.split(".")[-2].endswith("0000") for path in find(folder))


def remove(folder: Path = SHM) -> int:
    """Remove them; returns how many there were."""
    found = find(folder)
    for path in found:
        path.unlink(missing_ok=True)
    return len(found)


def _old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > YOUNG
    except FileNotFoundError:
        return False


def _mapped() -> set[str]:
    """Paths of all files that processes which we may look at have mapped."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            lines = (process / "maps").read_text().splitlines()
            found |= {line.split(maxsplit=5)[5] for line in lines if "sm_segment" in line}
    return found
