"""What a process may have of its host: processor time and memory, by what is free and by the job's control groups.

A batch system limits a job through Linux's control groups. Most programs look at the host and see all of it: who takes
more memory than the group may have is killed without a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil

CONTROL_GROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 62  # version 1 has a number near 2^63 for no limit [bytes]


def quota(root: Path = CONTROL_GROUPS, groups: str | None = None) -> float | None:
    """Processor time per second [s/s] that the control groups of this process allow, or None if they set no limit.

    Args:
        root: where control groups are mounted.
        groups: the text of /proc/self/cgroup, read if not given.
    """
    return min((limit for folder in _folders("cpu", root, groups) for limit in _quota(folder)), default=None)


def available_memory(root: Path = CONTROL_GROUPS, groups: str | None = None) -> int:
    """Bytes of memory that this process can still take: of what its host has, no more than its control groups leave.

    What files have in the page cache counts as free, since it makes way. Arguments are as in `quota`.
    """
    left = [room for folder in _folders("memory", root, groups) for room in _room(folder)]
    return max(0, min([psutil.virtual_memory().available, *left]))


def _folders(controller: str, root: Path, groups: str | None) -> Iterator[Path]:
    """The control groups of this process that have a controller, and those they are in."""
    text = Path("/proc/self/cgroup").read_text(encoding="utf-8") if groups is None else groups
    for line in text.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" or controller in controllers.split(","):
            top = root if number == "0" else root / controllers
            folder = top / path.strip("/")
            yield from [folder, *folder.parents[: len(folder.parts) - len(top.parts)]]


def _quota(folder: Path) -> Iterator[float]:
    """Of one control group: cpu.max of version 2, cpu.cfs_quota_us of version 1."""
    if (folder / "cpu.max").exists():
        time, period = (folder / "cpu.max").read_text().split()
    elif (folder / "cpu.cfs_quota_us").exists():
        time, period = ((folder / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    else:
        return
    if time not in ("max", "-1"):
        yield int(time) / int(period)


def _room(folder: Path) -> Iterator[int]:
    """Bytes that one control group leaves: memory.max of version 2, memory.limit_in_bytes of version 1."""
    for limit, used, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        if (folder / limit).exists():
            most = (folder / limit).read_text().strip()
            if most != "max" and int(most) < UNLIMITED:
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                files = sum(int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
                yield int(most) - int((folder / used).read_text()) + files
