"""Checkpoints in HDF5: a directory each, written aside, checked, and put in place by one rename. See FORMAT.md.

    checkpoints/
      OWNER                    the run that may commit here: its fencing token
      LOCK                     held while the token is checked and a name is changed
      step-00000120/           committed, never changed again
        state.h5               all arrays; with several writers, an index of the shards
        shard-0000-of-0004.h5  the rows that one writer wrote
        manifest.json          step, facts, and for every piece of an array its place and its digest
      step-00000140.tmp-TOKEN/     being written, or left over from a run that was killed
      step-00000100.damaged-TOKEN/ found damaged and set aside; for a person to look at

Nothing in a checkpoint depends on the number of ranks.
"""

import importlib
from typing import TYPE_CHECKING, Any

from hpcdist.checkpoint.fence import Fence, FencedOut
from hpcdist.checkpoint.reader import Checkpoint, DamagedCheckpoint, committed, look, newest, read

if TYPE_CHECKING:
    from hpcdist.checkpoint.restoring import restore
    from hpcdist.checkpoint.store import Store, Timing

_NEED_MPI = {"Store": "store", "Timing": "store", "restore": "restoring"}

__all__ = [
    "Checkpoint",
    "DamagedCheckpoint",
    "Fence",
    "FencedOut",
    "Store",
    "Timing",
    "committed",
    "look",
    "newest",
    "read",
    "restore",
]


def __getattr__(name: str) -> Any:
    if name in _NEED_MPI:
        return getattr(importlib.import_module(f"hpcdist.checkpoint.{_NEED_MPI[name]}"), name)
    raise AttributeError(f"module 'hpcdist.checkpoint' has no attribute {name!r}")
