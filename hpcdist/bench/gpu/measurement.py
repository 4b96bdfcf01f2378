"""One run on all ranks: each size is checked, then timed; what was measured is written as it comes."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from mpi4py import MPI

from hpcdist.bench.gpu import mps, nccl, table
from hpcdist.bench.gpu.bench import DeviceBench
from hpcdist.bench.gpu.options import Settings
from hpcdist.bench.gpu.record import Report
from hpcdist.bench.saved import measure_sizes
from hpcdist.device import Accelerator
from hpcdist.errors import AgreedError
from hpcdist.mpi import machine
from hpcdist.mpi.collective_errors import agree
from hpcdist.mpi.world import topology_of
from hpcdist.sweep import paths as routes
from hpcdist.util.sampling import now
from hpcdist.util.sizes import format_bytes


class Measurement:
    """All sizes on these ranks; every method is called by all of them, rank 0 prints and writes.

    Args:
        comm: ranks of one machine.
        accelerator: this rank's device.
        asked: what to measure.
        json: where to write the results, if anywhere.

    Raises: AgreedError on all ranks, if they are on several nodes or none of the paths can be taken.
    """

    def __init__(self, comm: MPI.Intracomm, accelerator: Accelerator, asked: Settings, json: Path | None) -> None:
        topology = topology_of(comm)
        nodes = len(set(topology))
        agree(comm, nodes == 1, f"the report is of one machine, and the ranks are on {nodes}")
        self.comm, self.accelerator, self.asked, self.json = comm, accelerator, asked, json
        self.paths = routes.find(comm, accelerator, asked.paths)
        self.report = Report(["python", "-m", "hpcdist.bench.gpu.program", *sys.argv[1:]], now(), asked.as_json())
        self.report.machine = {**machine.describe(comm, topology, accelerator), "mps": mps.state()}
        self.sharers = self.report.machine["devices"]["ranks_per_device"]
        self.nccl, no_nccl = nccl.find(comm, self.sharers)
        if no_nccl:
            self._miss(f"NCCL left out: {no_nccl}")
        for path, why in self.paths.impossible.items():
            self._miss(f"path {path} left out: {why}")

    def run(self) -> int:
        """Measure; returns the exit code."""
        measure_sizes(self.comm, self.asked.sizes, self.report, self.json, self._size)
        if self.comm.rank == 0:
            click.echo("\n".join(table.blocks(self.report)))
        return int(bool(self.report.wrong))

    def _size(self, nbytes: int, sizes_left: int) -> None:
        try:
            bench = DeviceBench(
                self.comm, self.accelerator, nbytes, self.asked, self.paths, self.nccl, max(self.sharers)
            )
        except AgreedError as error:  # such as no room in the device's memory
            self._miss(f"{format_bytes(nbytes)} left out: {error}")
            return
        with bench:
            bench.check()
            self._complain(bench)
            bench.add_copies(self.accelerator)
            for _ in bench.measure(self.asked):
                pass
            limit, found = bench.results()
        self.report.limits.append(limit)
        self.report.results += found

    def _complain(self, bench: DeviceBench) -> None:
        for case in bench.cases:
            if case.bad and self.comm.rank == 0:
                click.echo(f"{case.algorithm}, {bench.point}, path {case.path}: {case.bad}", err=True)

    def _miss(self, what: str) -> None:
        self.report.miss(self.comm.size, what)
