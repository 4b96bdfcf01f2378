"""What the ranks of an MPI do with a task: `python -m hpcdist.bench.ranks TASK`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import monotonic
from typing import Any

from mpi4py import MPI

from hpcdist.bench.cases import Prices, Size, chosen
from hpcdist.bench.links import Links, network
from hpcdist.bench.task import Task
from hpcdist.errors import AgreedError
from hpcdist.mpi import machine
from hpcdist.mpi.world import topology_of, world
from hpcdist.simulate.cost import Model
from hpcdist.sweep.model import fit
from hpcdist.util import atomic_files
from hpcdist.util.sizes import format_bytes


def main(path: str) -> None:
    """Measure all sizes that there is room for. Collective; rank 0 writes."""
    comm, task = world(), Task.read(Path(path))
    topology = topology_of(comm)
    found: dict[str, Any] = {"machine": machine.describe(comm, topology), "sizes": [], "missing": []}
    places = task.racks or topology
    prices = None
    if task.priced:
        prices = Prices(places, Model.from_dict(task.model) if task.model else fit(comm, places))
        found["model"] = prices.model.as_dict()
    with network(comm, task.link) as links:
        for nbytes in task.sizes:
            try:
                found["sizes"].append(measure(comm, nbytes, task, links, prices))
            except AgreedError as error:
                found["missing"].append(f"{format_bytes(nbytes)} left out: {error}")
            if comm.rank == 0:
                atomic_files.write_text(Path(task.out), json.dumps(found) + "\n")


def measure(comm: MPI.Intracomm, nbytes: int, task: Task, links: Links | None, prices: Prices | None) -> dict[str, Any]:
    """One size, checked and timed; collective.

    Raises: AgreedError on all ranks, if one has no room.
    """
    began = monotonic()
    with Size(comm, nbytes, task, links, prices) as size:
        size.prepare()
        size.check()
        samples = size.measure()
        found = {
            "nbytes": nbytes,
            "samples": samples,
            "times": {case.name: case.times for case in size.cases},
            "wrong": {case.name: case.wrong for case in size.cases},
            "cores": {case.name: case.cores.busy for case in size.cases if case.cores.total},
            "refill": {case.name: links.refill(case.idle) for case in size.cases} if links else {},
            "predicted": {case.name: prices.us(case.plan, nbytes) for case in size.cases if case.plan}
            if prices
            else {},
            "chosen": chosen(size.cases),
        }
    return {**found, "seconds": monotonic() - began}


if __name__ == "__main__":
    main(sys.argv[1])
