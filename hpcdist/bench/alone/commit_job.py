"""What the ranks of a commit do, with nothing of hpcdist but `plan`: `commit_job.py FOLDER TASK`.

FOLDER holds the package of that commit. See `ranks` and `cases`, which do the same with all libraries.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from harness import Case, OfMpi, Turns, float32s, task_of, write
from mpi4py import MPI

comm = MPI.COMM_WORLD


def measure(plan: Callable[..., Any], nbytes: int, task: Any) -> dict[str, Any]:
    """One size, checked and timed; a case is an algorithm."""
    turns, numbers = Turns(OfMpi(comm), nbytes, task), float32s(comm.rank, comm.size)
    buffer = np.empty(nbytes // 4, np.float32)
    plans = {name: plan(comm, buffer, algorithm=name) for name in task.cases}
    turns.cases = [Case(name, call, numbers, buffer, buffer) for name, call in plans.items()]
    turns.check()
    found = turns.found(turns.measure(), chosen=next(iter(plans.values())).algorithm)
    for each in plans.values():
        each.close()
    return found


def main(folder: str, path: str) -> None:
    """Measure all sizes."""
    sys.path.insert(0, folder)
    import hpcdist

    assert Path(hpcdist.__file__).is_relative_to(folder)
    task = task_of(path)
    once = SimpleNamespace(**{**vars(task), "most": 1, "least": 1})
    measure(hpcdist.plan, 8, once)  # compiles what is not compiled yet
    write(task, comm.rank, (measure(hpcdist.plan, nbytes, task) for nbytes in task.sizes))


if __name__ == "__main__":
    main(*sys.argv[1:])
