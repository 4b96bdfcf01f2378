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
        state = image(arrays)
        manifest = Manifest(step, fence.token, facts, {STATE: len(state)}, describe(arrays))
        write_bytes(draft / STATE, state)
        write_bytes(draft / MANIFEST, manifest.to_json().encode())
        fsync(draft)
        commit(fence, draft, final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return final


def image(arrays: dict[str, np.ndarray]) -> bytes:
    """What an HDF5 file with these arrays holds, readable by HDF5 1.10.

    It is made in memory, since HDF5 crashes the process if it has a file open on a disk that is full.
    """
    align = {"alignment_threshold": ALIGNMENT >> 4, "alignment_interval": ALIGNMENT}
    memory = {"driver": "core", "backing_store": False, "block_size": ALIGNMENT}
    with h5py.File(STATE, "w", libver=("v108", "v110"), **memory, **align) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
        file.flush()
        return file.id.get_file_image()


def describe(arrays: dict[str, np.ndarray]) -> dict[str, Entry]:
    """Entries of the arrays for the manifest."""
    return {name: Entry(STATE, values.shape, values.dtype.str, digest(values)) for name, values in arrays.items()}


def write_bytes(path: Path, raw: bytes) -> None:
    """Put `raw` in the new file `path`, durably.

    Raises:
        OSError: naming the file, which Python leaves out if it was open already when the disk became full.
    """
    try:
        path.write_bytes(raw)
        fsync(path)
    except OSError as error:
        why = f"{error.strerror}; {len(raw)} bytes could not be written, earlier checkpoints are as they were"
        raise OSError(error.errno, why, str(path)) from error


def commit(fence: Fence, draft: Path, final: Path) -> None:
    """Give the finished `draft` its name, if the directory is still ours."""
    with fence.held():
        if final.exists():
            raise FileExistsError(f"{final} exists already; a committed checkpoint is never written over")
        os.rename(draft, final)
        fsync(fence.directory)


def prune(fence: Fence, keep: int) -> list[Path]:
    """Remove all but the newest `keep` checkpoints, after reading the newest back; returns those removed."""
    old = [path for path in committed(fence.directory)[:-keep] if path.is_dir()]
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
