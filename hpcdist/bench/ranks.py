"""What the ranks of an MPI do with a task: `python -m hpcdist.bench.ranks TASK`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import monotonic
from typing import Any

from mpi4py import MPI

from hpcdist import durable
from hpcdist.bench.cases import Network, Size, chosen, network
from hpcdist.bench.task import Task
from hpcdist.sweep import machine
from hpcdist.transport import mpi
from hpcdist.transport.startup import world


def main(path: str) -> None:
    """Measure all sizes. Collective; rank 0 writes."""
    comm, task = world(), Task.read(Path(path))
    found: dict[str, Any] = {"machine": machine.describe(comm, mpi.topology(comm)), "sizes": []}
    with network(comm, task.link) as links:
        for nbytes in task.sizes:
            found["sizes"].append(measure(comm, nbytes, task, links))
            if comm.rank == 0:
                durable.write_text(Path(task.out), json.dumps(found) + "\n")


def measure(comm: MPI.Intracomm, nbytes: int, task: Task, links: Network | None) -> dict[str, Any]:
    """One size, checked and timed; collective."""
    began = monotonic()
    size = Size(comm, nbytes, task, links)
    size.check()
    samples = size.measure()
    found = {
        "nbytes": nbytes,
        "samples": samples,
        "times": {case.name: case.times for case in size.cases},
        "wrong": {case.name: case.wrong for case in size.cases},
        "cores": {case.name: case.cores.busy for case in size.cases if case.cores.total},
        "chosen": chosen(size.cases),
    }
    size.close()
    return {**found, "seconds": monotonic() - began}


if __name__ == "__main__":
    main(sys.argv[1])
