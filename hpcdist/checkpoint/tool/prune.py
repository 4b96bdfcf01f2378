"""Remove old checkpoints of a directory that no run uses."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from hpcdist.checkpoint import writer
from hpcdist.checkpoint.fence import Fence
from hpcdist.checkpoint.reader import Checkpoint, DamagedCheckpoint, committed, read_manifest
from hpcdist.checkpoint.tool.owner import refuse_if_owned
from hpcdist.checkpoint.tool.progress import Bar
from hpcdist.checkpoint.tool.rows import state_nbytes
from hpcdist.checkpoint.tool.verify import damages


class NoneWhole(RuntimeError):
    """Of the checkpoints that would stay, all are damaged."""


@dataclass(frozen=True)
class Pruned:
    """What was done.

    Attributes:
        removed: Directories that were removed.
        kept: Those that stay, oldest first.
        read: Of those, the one that was read whole.
        damaged: Damage that was seen in newer ones.
    """

    removed: list[Path]
    kept: list[Path]
    read: Path | None = None
    damaged: list[DamagedCheckpoint] = field(default_factory=list)


def prune(directory: Path, keep: int, force: bool, damaged: bool = False) -> Pruned:
    """Remove all but the newest `keep` checkpoints, if one of those that stay is whole, and drafts left over.

    Args:
        directory: Of the checkpoints.
        keep: How many stay.
        force: Whether to take it even from an owner that may still go on.
        damaged: Whether those that were found damaged and set aside go, too.

    Raises:
        Owned: the owner of the directory may still go on, and `force` is not given.
        NoneWhole: none that would stay is whole; nothing was removed.
        FencedOut: a run has taken the directory meanwhile.
    """
    too_many = len(committed(directory)) > keep
    aside = [*directory.glob("step-*.damaged-*")] if damaged else []
    if not (too_many or aside or writer.leftovers(directory)):
        return Pruned([], committed(directory))
    if not force:
        refuse_if_owned(directory)
    fence = Fence(directory)
    kept = committed(directory)[-keep:]
    whole, seen, removed = None, list[DamagedCheckpoint](), list[Path]()
    if too_many:
        whole, seen = _newest_whole(kept)
        if whole is None:
            raise NoneWhole(f"nothing is removed, as none that would stay is whole: {'; '.join(map(str, seen))}")
        removed = writer.prune(fence, keep)
    for path in aside:
        shutil.rmtree(path)
    return Pruned([*removed, *aside, *writer.remove_leftovers(fence)], kept, whole, seen)


def _newest_whole(paths: list[Path]) -> tuple[Path | None, list[DamagedCheckpoint]]:
    """The newest of these checkpoints that is whole, all of it read, and the damage of those that are newer."""
    damaged = []
    for path in reversed(paths):
        try:
            read_whole(path)
        except DamagedCheckpoint as error:
            damaged.append(error)
        else:
            return path, damaged
    return None, damaged


def read_whole(path: Path) -> None:
    """Read all of a checkpoint.

    Raises:
        DamagedCheckpoint: with the first damage.
    """
    checkpoint = Checkpoint(path, read_manifest(path))
    with Bar(f"reading {path.name}", state_nbytes(checkpoint)) as shown:
        if problem := next(damages(checkpoint, shown.told), None):
            raise DamagedCheckpoint(path, problem)
