"""Checkpoints in HDF5: a directory each, written aside, checked, and put in place by one rename.

    checkpoints/
      OWNER                    the run that may commit here: its fencing token
      LOCK                     held while the token is checked and a name is changed
      step-00000120/           committed, never changed again
        state.h5               arrays, contiguous
        manifest.json          step, facts, shape, dtype and digest of every array
      step-00000140.tmp-TOKEN/     being written, or left over from a run that was killed
      step-00000100.damaged-TOKEN/ found damaged and set aside; for a person to look at

Nothing in a checkpoint depends on the number of ranks.
"""

from hpcdist.checkpoint.fence import Fence, FencedOut
from hpcdist.checkpoint.reader import Checkpoint, DamagedCheckpoint, committed, newest, read
from hpcdist.checkpoint.store import Store

__all__ = ["Checkpoint", "DamagedCheckpoint", "Fence", "FencedOut", "Store", "committed", "newest", "read"]
