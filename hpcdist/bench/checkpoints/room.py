"""What fits into the memory of each node, and on the disk. What does not is left out, and said so."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from mpi4py import MPI

from hpcdist.bench.checkpoints.report import BACKGROUND, TORCH_ASYNC
from hpcdist.bench.checkpoints.state import MEMORY
from hpcdist.util.cgroups import available_memory
from hpcdist.util.sizes import format_bytes

RESERVE = 1 << 30  # bytes of each kind for whatever else there is
KEPT = 4  # states on the disk at a time: one being written, three to be restored

# States in the memory of a node beside the one that is saved: (always, for each rank). Ours stays for the next save.
COPIES: Mapping[str, tuple[int, int]] = {BACKGROUND: (1, 0), TORCH_ASYNC: (1, 1)}
CACHED = 1  # states in the page cache while one is written
RESTORED = (1, 1)  # what ranks restore into, and what is on its way


def lacking(comm: MPI.Intracomm, nbytes: int, scratch: Path) -> str:
    """Why nothing of this size can be measured, the same on all ranks; empty if it can. Collective."""
    return next(filter(None, comm.allgather(_lacking(nbytes, scratch))), "")


def _lacking(nbytes: int, scratch: Path) -> str:
    rooms = {
        f"on {scratch}": (KEPT * nbytes, shutil.disk_usage(scratch).free),
        f"on {MEMORY}": (nbytes, shutil.disk_usage(MEMORY).free),
        "in memory": ((1 + CACHED) * nbytes, available_memory()),
    }
    wrong = [
        f"{format_bytes(need)} are needed {where} and {format_bytes(free)} are free"
        for where, (need, free) in rooms.items()
        if need + RESERVE > free
    ]
    return "; ".join(wrong)


def too_large(comm: MPI.Intracomm, nbytes: int, copies: tuple[int, int]) -> str:
    """Why so many copies of a state cannot be held beside it, the same on all ranks; empty if they can. Collective."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    need = (copies[0] + copies[1] * node.size) * nbytes
    node.Free()
    free = comm.allreduce(available_memory(), MPI.MIN)
    need = comm.allreduce(need, MPI.MAX)
    if need + RESERVE <= free:
        return ""
    return f"takes {format_bytes(need)} of a node's memory beside the state, and {format_bytes(free)} are free"
