"""What the ranks of an MPI do with a task: `python -m hpcdist.bench.ranks TASK`."""

from __future__ import annotations

import sys
from pathlib import Path
from time import monotonic
from typing import Any

from mpi4py import MPI

from hpcdist.bench.cases import Prices, Size, chosen
from hpcdist.bench.findings import Findings
from hpcdist.bench.links import Links, network
from hpcdist.bench.record import Part
from hpcdist.bench.task import Task
from hpcdist.mpi.world import world
from hpcdist.simulate.cost import Model
from hpcdist.sweep.model import fit


def main(path: str) -> None:
    """Measure all sizes that there is room for. Collective; rank 0 writes."""
    comm, task = world(), Task.read(Path(path))
    part = Part()
    found = Findings(comm, Path(task.out), part)
    prices = None
    if task.priced:
        places = task.racks or found.topology
        prices = Prices(places, Model.from_dict(task.model) if task.model else fit(comm, places))
        part.model = prices.model.as_dict()
    with network(comm, task.link) as links:
        found.sizes(task.sizes, lambda nbytes, _: [measure(comm, nbytes, task, links, prices)])


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
