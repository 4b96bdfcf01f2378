"""Checkpoints in HDF5: a directory each, written aside, checked, and put in place by one rename. See FORMAT.md.

    checkpoints/
      OWNER                    the run that may commit here: its fencing token
      LOCK                     held while the token is checked and a name is changed
      HISTORY                  with copies in memory: which starts went on from which step
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

if TYPE_CHECKING:
    from hpcdist.checkpoint.fence import Fence, FencedOut
    from hpcdist.checkpoint.reader import Checkpoint, DamagedCheckpoint, committed, look, newest, read
    from hpcdist.checkpoint.restoring import restore
    from hpcdist.checkpoint.store import Store, Timing

# Imported when first asked for: some need MPI, and whoever uses it must load it before HDF5, which reading loads.
_WHERE = {
    "fence": ("Fence", "FencedOut"),
    "reader": ("Checkpoint", "DamagedCheckpoint", "committed", "look", "newest", "read"),
    "restoring": ("restore",),
    "store": ("Store", "Timing"),
}
_HOME = {name: module for module, names in _WHERE.items() for name in names}

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
    if name in _HOME:
        return getattr(importlib.import_module(f"hpcdist.checkpoint.{_HOME[name]}"), name)
    raise AttributeError(f"module 'hpcdist.checkpoint' has no attribute {name!r}")
