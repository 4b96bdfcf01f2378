"""Each size is checked, then timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from hpcdist.bench.findings import Findings
from hpcdist.bench.gpu import mps, nccl
from hpcdist.bench.gpu.bench import DeviceBench
from hpcdist.bench.gpu.report import Limit, Part, Record
from hpcdist.mpi.collective_errors import agree
from hpcdist.sweep import paths as routes


def work(
    found: Findings[Part],
    sizes: Sequence[int],
    algorithms: Sequence[str],
    paths: Sequence[str],
    rounds: int,
    seconds: float,
) -> None:
    """All sizes, on ranks of one machine, each of which has a device.

    Raises: AgreedError on all ranks, if they are on several nodes or none of the paths can be taken.
    """
    comm, accelerator, part = found.comm, found.accelerator, found.part
    nodes = len(set(found.topology))
    agree(comm, nodes == 1, f"the report is of one machine, and the ranks are on {nodes}")
    taken = routes.find(comm, accelerator, paths)
    part.machine["mps"] = mps.state()
    sharers = part.machine["devices"]["ranks_per_device"]
    library, no_nccl = nccl.find(comm, sharers)
    part.missing += [f"NCCL left out: {no_nccl}"] if no_nccl else []
    part.missing += [f"path {path} left out: {why}" for path, why in taken.impossible.items()]

    def measure(nbytes: int, left: int) -> Iterator[Limit | Record]:
        with DeviceBench(comm, accelerator, nbytes, algorithms, taken, library, max(sharers)) as bench:
            bench.check()
            for case in bench.cases:
                if case.bad and comm.rank == 0:
                    click.echo(f"{case.algorithm}, {bench.point}, path {case.path}: {case.bad}", err=True)
            bench.add_copies(accelerator)
            bench.measure(rounds, seconds)
            yield from bench.results()

    found.sizes(sizes, measure)
