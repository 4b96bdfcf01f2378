"""The same content in another layout, as a committed checkpoint of another directory."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from hpcdist.checkpoint.fence import Fence
from hpcdist.checkpoint.index import write_index
from hpcdist.checkpoint.layout import STATE, Kind, Manifest, Shapes, directory_name, shard_name
from hpcdist.checkpoint.part import Part, assemble, write_part
from hpcdist.checkpoint.reader import Checkpoint, Contents
from hpcdist.checkpoint.shares import LEAST, PER_NODE, Share, shares
from hpcdist.checkpoint.tool.owner import refuse_if_owned
from hpcdist.checkpoint.tool.progress import Advance
from hpcdist.checkpoint.tool.rows import read_rows, state_nbytes
from hpcdist.checkpoint.tool.verify import damages
from hpcdist.checkpoint.writer import begin, commit


def convert(source: Checkpoint, directory: Path, writers: int, compression: str, force: bool, advance: Advance) -> Path:
    """Write the content of `source` into `directory`, read it back, and commit it; returns the new checkpoint.

    One file's content is in memory at a time.

    Args:
        source: Every piece is checked while it is read.
        directory: Made if it is missing; taken from its owner.
        writers: How many files hold the arrays: 1 for state.h5 alone, 0 to choose by size.
        compression: One of `layout.COMPRESSIONS`.
        force: Whether to take the directory from an owner that may still go on.
        advance: Told of bytes read from `source`, and of those read back.

    Raises:
        FileExistsError: there is a checkpoint of that step.
        Owned: the owner of the directory may still go on.
        DamagedCheckpoint: the source is damaged.
        OSError: it cannot be written, or does not read back.
    """
    final = directory / directory_name(source.step)
    if final.exists():
        raise FileExistsError(f"{final} exists already; a committed checkpoint is never written over")
    if not force:
        refuse_if_owned(directory)
    parts = shares(_shapes(source), writers or max(1, min(PER_NODE, state_nbytes(source) // LEAST)))
    fence = Fence(directory)
    draft = begin(fence, source.step)
    try:
        manifest = _write(source, draft, fence.token, parts, compression, advance)
        if problem := next(damages(Checkpoint(draft, manifest), advance), None):
            raise OSError(errno.EIO, f"it does not read back as it was written: {problem}", str(draft))
        return commit(fence, draft, manifest)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _shapes(source: Checkpoint) -> Shapes:
    return {name: Kind(entry.shape, entry.dtype) for name, entry in source.manifest.arrays.items()}


def _write(
    source: Checkpoint, draft: Path, token: str, parts: list[Share], compression: str, advance: Advance
) -> Manifest:
    """Write all files into a draft; returns the manifest, which is not written yet."""
    names = [STATE] if len(parts) == 1 else [shard_name(k, len(parts)) for k in range(len(parts))]
    with Contents(source) as contents:
        written = [
            _write_part(contents, draft, name, share, compression, advance)
            for name, share in zip(names, parts, strict=True)
        ]
    manifest = assemble(source.step, token, source.facts, _shapes(source), written)
    if STATE not in manifest.files:
        manifest.files[STATE] = write_index(draft, manifest.arrays)
    return manifest


def _write_part(contents: Contents, draft: Path, file: str, share: Share, compression: str, advance: Advance) -> Part:
    rows = {name: read_rows(contents, name, first, end) for name, (first, end) in share.items()}
    part = write_part(draft, file, rows, share, compression)
    advance(sum(values.nbytes for values in rows.values()))
    return part
