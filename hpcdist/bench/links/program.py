"""One run on all ranks: prices first, then each size, checked and timed; what was measured is written as it comes."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic
from typing import Any

import click
import numpy as np
from mpi4py import MPI

from hpcdist.bench.links import table
from hpcdist.bench.links.measure import Link, LinkBench, records, rounds
from hpcdist.bench.links.options import Settings, settings
from hpcdist.bench.links.raw import Neighbours
from hpcdist.bench.links.record import Record, Report
from hpcdist.bench.saved import measure_sizes
from hpcdist.mpi import machine
from hpcdist.mpi.collective_errors import agree
from hpcdist.mpi.world import run_on_world, topology_of
from hpcdist.simulate import cost
from hpcdist.sweep import model as prices
from hpcdist.sweep.measure import Point
from hpcdist.util.sampling import now
from hpcdist.util.sizes import BYTES


@click.command()
@click.option("--rate", type=click.IntRange(min=1), required=True, help="Of each host's link, each way [bit/s].")
@settings
@click.option("--bucket", type=BYTES, default="0", show_default=True, help="How deep the links' token buckets are.")
@click.option("--interface", default="eth0", show_default=True, help="For raw TCP; MPI's own is the launcher's choice.")
@click.option("--json", type=click.Path(dir_okay=False, path_type=Path), help="Write the results to this file.")
def main(rate: int, bucket: int, interface: str, json: Path | None, **options: Any) -> None:
    """Measure all-reduce algorithms as a share of the rate of the links; start one rank on each host.

    It exits with 1 if any element is wrong.
    """
    run_on_world(lambda comm: run(comm, Link(rate, bucket), Settings(**options), interface, json))


def run(comm: MPI.Intracomm, link: Link, asked: Settings, interface: str, json: Path | None) -> int:
    """Measure all sizes; returns the exit code. Collective; rank 0 prints and writes.

    Raises: AgreedError on all ranks if there is only one, or if they are not on hosts of their own.
    """
    topology = topology_of(comm)
    agree(comm, comm.size > 1, "a lone rank sends nothing; start at least 2")
    crowded = f"{comm.size} ranks on {len(set(topology))} hosts; a share of a link needs one rank per host"
    agree(comm, len(set(topology)) == comm.size, crowded)
    fitted = prices.fit(comm, topology)
    slowdown = fitted.pair_beta / fitted.beta if fitted.pair_beta and fitted.beta else 1.0
    model = replace(fitted, beta=8 / link.rate, pair_beta=slowdown * 8 / link.rate)
    report = Report(sys.argv, now(), {**asdict(link), **asdict(asked)})
    congestion_control = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    report.machine = {**machine.describe(comm, topology), "tcp": congestion_control}
    report.models.append({"rate": link.rate, "ranks": comm.size, **model.as_dict()})
    with Neighbours(comm, interface) as neighbours:
        end = monotonic() + asked.seconds

        def measure(nbytes: int, sizes_left: int) -> None:
            point = Point(nbytes // 4, np.dtype(np.float32), "sum")
            with LinkBench(comm, point, asked, neighbours, link) as bench:
                report.results += _measure(bench, asked, model, end, sizes_left)

        measure_sizes(comm, asked.sizes, report, json, measure)
    if comm.rank == 0:
        click.echo("\n".join(table.blocks(report.results)))
    return int(bool(report.wrong))


def _measure(bench: LinkBench, asked: Settings, model: cost.Model, end: float, sizes_left: int) -> list[Record]:
    """Check and time one size, in its part of the time that is left."""
    part = max(0.0, end - monotonic()) / sizes_left
    until = monotonic() + part
    bench.check()
    for case in bench.cases:
        if case.bad and bench.comm.rank == 0:
            click.echo(f"{case.algorithm}, {bench.point}: {case.bad}", err=True)
    bench.add_raw()
    for _ in rounds(bench, asked, model, until - monotonic()):
        pass
    return records(bench, model)
