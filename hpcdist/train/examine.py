"""Looking at all of a data set before the first step: each rank a share, and all see the same."""

from __future__ import annotations

from collections.abc import Sequence

from mpi4py import MPI

from hpcdist.data.dataset import Dataset, Found
from hpcdist.mpi.collective_errors import agree_on, on_all


def examine(comm: MPI.Intracomm, data: Dataset, before: Dataset | None = None) -> None:
    """Look at every sample and label once; collective.

    Ranks that have opened the same file share it out. Those that have copies of their own, as on local disks, look at
    these, and all compare what they have found.

    Args:
        comm: All ranks.
        data: Open on each.
        before: What was examined before; if the files are still the same, nothing is read again.

    Raises:
        AgreedError: On all ranks, if there is something that cannot be learnt from, or if not all see the same.
    """
    agree_on(comm, {"the data set": data.form})
    known = before.found if before and before.identity == data.identity else ()
    everywhere = comm.allreduce(bool(known), MPI.LAND)
    data.know(known if everywhere else _share(comm, data))
    agree_on(comm, {"the digest of the data set": data.digest})


def _share(comm: MPI.Intracomm, data: Dataset) -> Sequence[Found]:
    """What all ranks with this file have found together, by block."""
    owners = comm.allgather(data.identity)
    together = [rank for rank, identity in enumerate(owners) if identity == data.identity]
    blocks = data.blocks()
    mine = blocks[together.index(comm.rank) :: len(together)]
    found = comm.allgather(on_all(comm, lambda: [data.look(*block) for block in mine]))
    return [found[together[number % len(together)]][number // len(together)] for number in range(len(blocks))]
