"""torch.distributed's all-reduce through Gloo, for a Python that has torch and not this package: `gloo.py TASK`.

RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say who we are. See `ranks` and `cases`, which do the same with MPI.
"""

from __future__ import annotations

import sys
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from harness import Case, Turns, float32s, task_of, write

PATIENCE = timedelta(minutes=10)


class Gloo:
    """All ranks; see `harness.Ranks`."""

    barrier = staticmethod(dist.barrier)

    @staticmethod
    def gather(values: Any) -> list[Any]:
        """What all ranks have."""
        found: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(found, values)
        return found

    @staticmethod
    def exchange(nbytes: int) -> None:
        """To the right neighbour, from the left one."""
        rank, size = dist.get_rank(), dist.get_world_size()
        out, into = torch.ones(nbytes, dtype=torch.uint8), torch.empty(nbytes, dtype=torch.uint8)
        for pending in (dist.isend(out, (rank + 1) % size), dist.irecv(into, (rank - 1) % size)):
            if pending:
                pending.wait()


def measure(nbytes: int, task: Any) -> dict[str, Any]:
    """One size, checked and timed."""
    turns = Turns(Gloo(), nbytes, task)
    numbers = float32s(dist.get_rank(), dist.get_world_size())
    buffer = np.ones(max(1, nbytes // 4), np.float32)
    target = np.ones_like(buffer)
    of_buffer, of_target = torch.from_numpy(buffer), torch.from_numpy(target)
    cases = {
        "library": Case("library", partial(dist.all_reduce, of_buffer), numbers, buffer, buffer),
        "memcpy": Case("memcpy", partial(of_target.copy_, of_buffer), numbers, buffer, target, copies=True),
    }
    turns.cases = [cases[name] for name in task.cases if name in cases]
    turns.check()
    return turns.found(turns.measure())


def main(path: str) -> None:
    """Measure all sizes."""
    task = task_of(path)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=PATIENCE)
    write(task, dist.get_rank(), (measure(nbytes, task) for nbytes in task.sizes))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
