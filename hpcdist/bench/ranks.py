"""What the ranks of an MPI do with a task: `python -m hpcdist.bench.ranks TASK`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mpi4py import MPI

from hpcdist.bench.cases import Prices, Size, chosen
from hpcdist.bench.findings import Findings
from hpcdist.bench.links import Neighbours, network
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
    with network(comm, task.link) as neighbours:
        found.sizes(task.sizes, lambda nbytes, _: [measure(comm, nbytes, task, neighbours, prices)])


def measure(
    comm: MPI.Intracomm, nbytes: int, task: Task, neighbours: Neighbours | None, prices: Prices | None
) -> dict[str, Any]:
    """One size, checked and timed; collective.

    Raises: AgreedError on all ranks, if one has no room.
    """
    with Size(comm, nbytes, task, neighbours, prices) as size:
        size.prepare()
        size.check()
        samples = size.measure()
        plans = {case.name: case.plan for case in size.cases if case.plan}
        foreseen = {name: prices.us(plan, nbytes) for name, plan in plans.items()} if prices else {}
        return size.found(samples, predicted=foreseen, chosen=chosen(size.cases))


if __name__ == "__main__":
    main(sys.argv[1])
