"""Write a checkpoint and commit it; remove old ones.

At any moment a process may be killed. So whatever bears the name of a committed checkpoint is whole: it gets
that name when everything is on disk, and loses it before its first file is deleted.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from hpcdist.checkpoint.fence import Fence
from hpcdist.checkpoint.layout import MANIFEST, STATE, Entry, Manifest, digest, directory_name, draft_suffix
from hpcdist.checkpoint.reader import committed, read
from hpcdist.durable import fsync

ALIGNMENT = 1 << 20  # bytes: arrays start on stripes of a parallel file system


def write(fence: Fence, step: int, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> Path:
    """Write and commit the checkpoint after `step` steps.

    Args:
        fence: Claim on the directory to write to.
        step: Steps done; there must be no checkpoint of this step yet.
        arrays: Arrays by name.
        facts: Anything that JSON can hold.

    Returns:
        Directory of the committed checkpoint.

    Raises:
        FencedOut: another run has taken the directory; nothing was committed.
        OSError: it cannot be written.
    """
    final = fence.directory / directory_name(step)
    draft = final.with_name(final.name + draft_suffix(fence.token))
    draft.mkdir()
    try:
        entries = write_arrays(draft / STATE, arrays)
        files = {STATE: (draft / STATE).stat().st_size}
        manifest = Manifest(step, fence.token, facts, files, entries)
        (draft / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        for path in (draft / STATE, draft / MANIFEST, draft):
            fsync(path)
        commit(fence, draft, final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return final


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, Entry]:
    """Put arrays in a new HDF5 file that HDF5 1.10 can read, and describe them."""
    align = {"alignment_threshold": ALIGNMENT >> 4, "alignment_interval": ALIGNMENT}
    with h5py.File(path, "w-", libver=("v108", "v110"), locking=False, **align) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
    return {name: Entry(path.name, values.shape, values.dtype.str, digest(values)) for name, values in arrays.items()}


def commit(fence: Fence, draft: Path, final: Path) -> None:
    """Give the finished `draft` its name, if the directory is still ours."""
    with fence.held():
        if final.exists():
            raise FileExistsError(f"{final} exists already; a committed checkpoint is never written over")
        os.rename(draft, final)
        fsync(fence.directory)


def prune(fence: Fence, keep: int) -> list[Path]:
    """Remove all but the newest `keep` checkpoints, after reading the newest back; returns those removed."""
    old = committed(fence.directory)[:-keep]
    if old:
        read(committed(fence.directory)[-1])
    for path in old:
        grave = path.with_name(path.name + draft_suffix(fence.token))
        with fence.held():
            os.rename(path, grave)
        shutil.rmtree(grave)
    return old


def remove_leftovers(fence: Fence) -> None:
    """Remove the drafts of runs that no longer own the directory: killed, or fenced out."""
    for path in fence.directory.glob("step-*.tmp-*"):
        if not path.name.endswith(draft_suffix(fence.token)):
            shutil.rmtree(path, ignore_errors=True)  # its writer may still be at it, in vain
