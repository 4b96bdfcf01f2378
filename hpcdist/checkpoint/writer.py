"""Give a checkpoint that was written aside its name; remove old ones.

At any moment a process may be killed. So whatever bears the name of a committed checkpoint is whole: it gets
that name when everything is on disk, and loses it before its first file is deleted.
"""

from __future__ import annotations

import os
import shutil
from itertools import chain, count
from pathlib import Path

from hpcdist.checkpoint.fence import OWNER, Fence
from hpcdist.checkpoint.layout import MANIFEST, Manifest, directory_name, draft_suffix, step_of
from hpcdist.checkpoint.reader import committed
from hpcdist.util.atomic_files import drafts_of, fsync, write_text


def claim(directory: Path) -> Fence:
    """Take a directory from whoever had it, and remove what earlier runs left half done."""
    fence = Fence(directory)
    remove_leftovers(fence)
    return fence


def begin(fence: Fence, step: int) -> Path:
    """Make the directory in which the checkpoint after `step` steps is written.

    Raises:
        FencedOut: another run has taken the directory.
        FileExistsError: there is a checkpoint of this step, or of a later one.
    """
    final = fence.directory / directory_name(step)
    if step < 0:
        raise ValueError(f"a step is a number of steps done, not {step}")
    with fence.held():
        _refuse_to_replace(final)
        _refuse_to_go_back(fence, step)
        draft = _unused(fence, final.name)
        draft.mkdir()
    return draft


def _unused(fence: Fence, name: str) -> Path:
    """A draft's name: somebody may still be writing to the draft of a save of the same step that was given up."""
    suffix = draft_suffix(fence.token)
    drafts = (fence.directory / f"{name}{again}{suffix}" for again in chain([""], (f".{n}" for n in count(2))))
    return next(draft for draft in drafts if not draft.exists())


def commit(fence: Fence, draft: Path, manifest: Manifest) -> Path:
    """Add the manifest to a draft whose files are durable, and give it its name, if the directory is still ours.

    Raises:
        FencedOut: another run has taken the directory; nothing was committed.
        OSError: it cannot be written.
    """
    final = fence.directory / directory_name(manifest.step)
    write_text(draft / MANIFEST, manifest.to_json(), parents=False)
    fsync(draft)
    with fence.held():
        _refuse_to_replace(final)
        os.rename(draft, final)
        fsync(fence.directory)
    return final


def _refuse_to_replace(final: Path) -> None:
    if final.exists():
        raise FileExistsError(f"{final} exists already; a committed checkpoint is never written over")


def _refuse_to_go_back(fence: Fence, step: int) -> None:
    """A checkpoint that is older than others would be the first to be removed, and never found as the newest."""
    newest = max((step_of(path.name) for path in committed(fence.directory)), default=-1)
    if newest > step:
        raise FileExistsError(f"{fence.directory} holds a checkpoint of step {newest}, which is later than {step}")


def prune(fence: Fence, keep: int) -> list[Path]:
    """Remove all but the newest `keep` checkpoints; returns those removed.

    The caller knows the newest to be whole: it has just been made durable, or was read.
    """
    whole = committed(fence.directory)
    old = [path for path in whole[:-keep] if path.is_dir()]
    for path in old:
        with fence.held():
            os.rename(path, path.with_name(path.name + draft_suffix(fence.token)))
    if old:
        fsync(fence.directory)  # or a power cut could bring a name back without its files
    for grave in fence.directory.glob(f"step-*{draft_suffix(fence.token)}"):
        if whole and step_of(grave.name) <= step_of(whole[-1].name):  # a later one is being written
            shutil.rmtree(grave, ignore_errors=True)  # what somebody still reads on NFS goes the next time
    return old


def leftovers(directory: Path, token: str = "") -> list[Path]:
    """The drafts of runs that have not the token: killed, or fenced out."""
    drafts = [path for path in directory.glob("step-*.tmp-*") if not path.name.endswith(draft_suffix(token))]
    return [*drafts, *drafts_of(directory / OWNER)]


def remove_leftovers(fence: Fence) -> list[Path]:
    """Remove the drafts of runs that no longer own the directory; returns them."""
    found = leftovers(fence.directory, fence.token)
    for path in found:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # its writer may still be at it, in vain
        else:
            path.unlink(missing_ok=True)
    return found


def set_aside(fence: Fence, path: Path) -> Path:
    """Rename a damaged checkpoint, so that the run can come to its step again; returns its new name."""
    aside = path.with_name(f"{path.name}.damaged-{fence.token}")
    with fence.held():
        os.rename(path, aside)
    return aside
