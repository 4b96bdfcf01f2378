"""What a path is mounted from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

LOCK_OPTIONS = ("flock", "noflock", "localflock", "nolock", "local_lock")  # of Lustre and NFS


@dataclass(frozen=True)
class Mount:
    """A mounted file system: its kind (ext4, nfs4, lustre, ...), where it is mounted, its options for locks."""

    kind: str
    point: str
    options: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join([f"{self.kind} at {self.point}", *(f"({option})" for option in self.options)])


def mount_of(path: Path, table: str | None = None) -> Mount:
    """The mount that a path is on.

    Args:
        path: it, or its parents as far as they are missing.
        table: the text of /proc/self/mountinfo, read if not given.
    """
    text = Path("/proc/self/mountinfo").read_text(encoding="utf-8") if table is None else table
    real = os.path.realpath(path)
    found = Mount("unknown", "/")
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")  # spaces are written \040
        holds = point == "/" or real == point or real.startswith(f"{point}/")
        if holds and len(point) >= len(found.point):  # of equal ones the last hides those before
            found = Mount(after.split()[0], point, _lock_options(after.split()[2]))
    return found


def _lock_options(text: str) -> tuple[str, ...]:
    options = text.split(",")
    return tuple(each for each in options if each.split("=")[0] in LOCK_OPTIONS and each != "local_lock=none")
