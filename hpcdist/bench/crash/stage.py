"""What a kill interrupted, judged by what it left in the checkpoint directory."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from hpcdist.checkpoint.layout import MANIFEST, STATE

IDLE = "nothing being written"
PARTS = "parts being written"
COMMIT = "between parts and commit"
PRUNE = "an old one being removed"
STAGES = (IDLE, PARTS, COMMIT, PRUNE)

DRAFTS = "step-*.tmp-*"  # names of directories that are being written, or removed
_DRAFT = re.compile(r"step-(\d{8,})\.tmp-.*")
_SHARD = re.compile(r"shard-\d+-of-(\d+)\.h5")


def leftovers(directory: Path) -> dict[str, frozenset[str]]:
    """Names of the drafts in a checkpoint directory, and of the files in each."""
    return {path.name: frozenset(file.name for file in path.glob("*")) for path in directory.glob(DRAFTS)}


def stage(drafts: Mapping[str, Collection[str]], newest: int) -> str:
    """What was under way.

    Args:
        drafts: As of `leftovers`.
        newest: Step of the newest committed checkpoint, 0 if there is none.
    """
    steps = {int(match[1]): files for name, files in drafts.items() if (match := _DRAFT.fullmatch(name))}
    if not steps:
        return IDLE
    if max(steps) <= newest:
        return PRUNE
    return COMMIT if _has_all_parts(steps[max(steps)]) else PARTS


def _has_all_parts(files: Collection[str]) -> bool:
    """The index is written when all shards are; the manifest, which is written aside first, when all files are."""
    manifest = any(MANIFEST.partition(".")[0] in name for name in files)
    return manifest or (STATE in files and any(map(_SHARD.fullmatch, files)))
