"""What is in a directory of checkpoints, without reading any array."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from hpcdist.checkpoint.layout import MANIFEST
from hpcdist.checkpoint.reader import Checkpoint, DamagedCheckpoint, committed
from hpcdist.checkpoint.tool.find import whole
from hpcdist.checkpoint.tool.owner import Owner, owner_of
from hpcdist.util.sizes import format_bytes


@dataclass(frozen=True)
class Line:
    """A committed checkpoint.

    Attributes:
        name: Of its directory.
        step: Steps done.
        written: When, in ISO 8601.
        nbytes: Of all its files, as they are.
        files: How many files hold arrays; 0 if the manifest cannot be read.
        damage: What is seen to be damaged at a glance, if anything; its digests have not been checked.
    """

    name: str
    step: int
    written: str
    nbytes: int
    files: int
    damage: str | None


@dataclass(frozen=True)
class Listing:
    """A directory of checkpoints: those that are committed, those set aside, those unfinished, and whose it is."""

    directory: Path
    owner: Owner | None
    checkpoints: list[Line]
    damaged: list[str]
    drafts: list[str]

    def to_json(self) -> dict[str, Any]:
        """For other programs."""
        return {**asdict(self), "directory": str(self.directory)}


def listing(directory: Path) -> Listing:
    """Look at `directory`; what a run that goes on removes meanwhile is left out."""
    lines = [line for path in committed(directory) if (line := _line(path))]
    damaged = sorted(path.name for path in directory.glob("step-*.damaged-*"))
    drafts = sorted(path.name for path in directory.glob("step-*.tmp-*"))
    return Listing(directory, owner_of(directory), lines, damaged, drafts)


def _line(path: Path) -> Line | None:
    try:
        checkpoint, damage = whole(path), None
    except FileNotFoundError:
        return None
    except DamagedCheckpoint as error:
        checkpoint, damage = None, error.why
    try:
        nbytes = sum(file.stat().st_size for file in path.glob("*"))
        written = committed_at(path)
    except FileNotFoundError:
        return None
    return Line(path.name, int(path.name.removeprefix("step-")), written, nbytes, writers(checkpoint), damage)


def committed_at(path: Path) -> str:
    """When a checkpoint was committed: its manifest is written right before, and goes along in a copy."""
    manifest = path / MANIFEST
    moment = (manifest if manifest.exists() else path).stat().st_mtime
    return datetime.fromtimestamp(moment).astimezone().isoformat(" ", "seconds")


def writers(checkpoint: Checkpoint | None) -> int:
    """How many files hold arrays, each by a writer of its own, but for a file written collectively."""
    entries = checkpoint.manifest.arrays.values() if checkpoint else ()
    return len({piece.file for entry in entries for piece in entry.pieces})


def text(found: Listing) -> list[str]:
    """A listing for people, in lines."""
    owner = f"owned by {found.owner.who}: {found.owner.why}" if found.owner else "owned by nobody"
    lines = [f"{found.directory}: {owner}"]
    if found.checkpoints:
        lines.append(f"  {'name':<15}{'committed':<27}{'size':>10}{'files':>7}  state")
    for line in found.checkpoints:
        state = f"damaged: {line.damage}" if line.damage else "looks whole"
        size = format_bytes(line.nbytes)
        lines.append(f"  {line.name:<15}{line.written:<27}{size:>10}{line.files or '?':>7}  {state}")
    lines += [f"  {name}  set aside as damaged" for name in found.damaged]
    lines += [f"  {name}  {_draft(name, found.owner)}" for name in found.drafts]
    return lines if len(lines) > 1 else [*lines, "  no checkpoints"]


def _draft(name: str, owner: Owner | None) -> str:
    if owner and owner.running is not False and name.endswith(f".tmp-{owner.token}"):
        return "draft: being written, if its run goes on"
    return "draft: left over"
