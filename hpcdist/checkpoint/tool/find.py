"""Which checkpoint a path on the command line means."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import click

from hpcdist.checkpoint.layout import COMMITTED, MANIFEST, rows
from hpcdist.checkpoint.reader import Checkpoint, DamagedCheckpoint, committed, look


def meant(path: Path) -> Path:
    """The checkpoint `path`, or, if it is a directory of checkpoints, the newest in it, damaged or not.

    An older one is never taken in place of a damaged one: whoever checks the newest wants to know of it.

    Raises:
        click.UsageError: there is none.
    """
    if is_checkpoint(path):
        return path
    return all_below(path)[-1]


def all_below(path: Path) -> list[Path]:
    """The committed checkpoints in the directory `path`, oldest first.

    Raises:
        click.UsageError: there is none.
    """
    if is_checkpoint(path):
        raise click.UsageError(f"{path} is a checkpoint; give the directory above, in which there may be several")
    below = committed(path)
    if not below:
        raise click.UsageError(f"{path} is no checkpoint (it has no {MANIFEST}), and there is none in it (no step-*)")
    return below


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is itself a checkpoint, if perhaps a damaged, unfinished or renamed one."""
    name = path.absolute().name.split(".")[0]
    return (path / MANIFEST).exists() or COMMITTED.fullmatch(name) is not None


def whole(path: Path) -> Checkpoint:
    """The checkpoint in the directory `path`, of which all is there and says that it fits together.

    Raises:
        DamagedCheckpoint: saying what does not.
    """
    checkpoint = look(path)
    if problem := next(chain(misnamed(checkpoint), incomplete(checkpoint)), None):
        raise DamagedCheckpoint(path, problem)
    return checkpoint


def misnamed(checkpoint: Checkpoint) -> list[str]:
    """What is wrong with the name of the directory: a step that is not the manifest's."""
    match = COMMITTED.fullmatch(checkpoint.path.absolute().name)
    if match is None or int(match[1]) == checkpoint.step:
        return []
    return [f"its manifest is of step {checkpoint.step}, its name says {int(match[1])}"]


def incomplete(checkpoint: Checkpoint) -> list[str]:
    """What is wrong with the pieces: rows that are in none or in several, or files that the manifest does not list."""
    manifest, found = checkpoint.manifest, []
    for name, entry in manifest.arrays.items():
        if not entry.complete:
            spans = ", ".join(f"{piece.start}..{piece.stop}" for piece in entry.pieces) or "none"
            found.append(f"the pieces of {name} ({spans}) do not hold each of its {rows(entry)} rows once")
        unlisted = {piece.file for piece in entry.pieces} - set(manifest.files)
        found += [f"{name} lies in {file}, which the manifest does not list" for file in sorted(unlisted)]
    return found
