"""Partner copies: the newest state in the memory of the nodes, each share of it on two of them.

    /dev/shm/hpcdist-1000/                   the user's, closed to others
      checkpoints-3fa9c1d2e0b4a687/          the key: one run, started any number of times
        step-00000120.9f0c2a7be514/          committed: step and token of the run that wrote it
          share-0001-of-0004                 rows of the arrays, end to end: a rank's own share
          share-0003-of-0004.copy            that of a rank on another node
          manifest.json                      the whole state: equal on all nodes
        step-00000140.9f0c2a7be514.tmp/      being written, or left over from a run that was killed

The files lie in memory, but belong to no process: they outlive the job, and die with the node. So a job that has lost
a node is started again on the others, finds every share on one of them, and has not touched the file system.
"""

from hpcdist.checkpoint.partner.copies import PartnerCopies
from hpcdist.checkpoint.partner.memory import key_of
from hpcdist.checkpoint.partner.recovery import Recovery

__all__ = ["PartnerCopies", "Recovery", "key_of"]
