"""One run on all ranks: prices are fitted first, then all algorithms are checked and timed in turn at each size.

"auto" is what the price model takes with the prices that were fitted here. Cases take turns without a pause, so that
they find the token buckets of virtual links all but empty: what these let through at once is at most 1 % of 16 MiB, but
much of 256 KiB, for all cases alike.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
from mpi4py import MPI

from hpcdist.algorithms import layered
from hpcdist.bench.awkward.record import Record, Run
from hpcdist.bench.saved import measure_sizes
from hpcdist.collectives import calls
from hpcdist.mpi import machine
from hpcdist.mpi.collective_errors import agree
from hpcdist.mpi.world import run_on_world, topology_of
from hpcdist.simulate import cost
from hpcdist.sweep import model as prices
from hpcdist.sweep.measure import Bench, Case, Effort, Point
from hpcdist.sweep.record import LIBRARY
from hpcdist.tuning.table import Selection
from hpcdist.util.parameters import Listed
from hpcdist.util.sampling import now
from hpcdist.util.sizes import BYTES, parse_bytes

SIZES = "8,1KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB"
FLAT = (
    "ring", "halving_doubling", "binary_blocks", "circulant", "recursive_doubling", "double_binary_trees",
    "double_binary_trees:32",
)  # fmt: skip
LAYERED = "hierarchical"  # only where nodes, or racks, hold several ranks each
AUTO = "auto"


def racks_of(size: int, racks: int) -> tuple[int, ...]:
    """The rack of each rank, where every rank has a host of its own in a cluster of `size` hosts in `racks` racks."""
    return tuple(rank * racks // size for rank in range(size))


def names(topology: Sequence[int]) -> tuple[str, ...]:
    """The algorithms that make sense here, and "auto"."""
    return (*FLAT, *([LAYERED] if layered(topology) else []), AUTO)


def place(comm: MPI.Intracomm, racks: int) -> tuple[int, ...]:
    """The rack of every rank, or its node if there is but one rack; collective.

    Raises: AgreedError on all ranks if there are racks, but no host for each rank, or fewer ranks than racks.
    """
    nodes = topology_of(comm)
    agree(comm, comm.size > 1, "a lone rank sends nothing; start at least 2")
    if racks == 1:
        return nodes
    hosts = len(set(nodes))
    agree(comm, hosts == comm.size, f"{comm.size} ranks on {hosts} hosts; with --racks each needs a host of its own")
    agree(comm, racks <= comm.size, f"{comm.size} ranks cannot be spread over {racks} racks")
    return racks_of(comm.size, racks)


def bind(bench: Bench, topology: Sequence[int], model: cost.Model, segment_nbytes: int | None) -> None:
    """Add our algorithms to a bench that has the library's; collective. The bench closes their plans."""
    for name in names(topology):
        plan = calls.plan(
            bench.comm,
            bench.target,
            algorithm=name,
            segment_nbytes=segment_nbytes,
            topology=topology,
            selection=Selection((), model),
        )
        bench.cases.append(Case(name, "in_place", plan, plan, plan.segment_nbytes))


def record(bench: Bench, case: Case, topology: Sequence[int], model: cost.Model) -> Record:
    """The result of a case; collective."""
    p10, p50, p90 = (1e6 * np.percentile(bench.seconds(case), (10, 50, 90))).tolist()
    plan, nbytes = case.plan, bench.point.nbytes
    return Record(
        case=case.algorithm,
        algorithm=plan and plan.algorithm,
        nbytes=nbytes,
        samples=case.samples,
        iterations=case.iterations,
        time_us_p50=p50,
        time_us_p10=p10,
        time_us_p90=p90,
        predicted_us=plan and 1e6 * cost.predict(plan.schedule, nbytes, model, tuple(topology)),
        wrong=case.bad.wrong if case.bad else 0,
    )


def measure(comm: MPI.Intracomm, nbytes: int, run: Run, effort: Effort, segment_nbytes: int | None) -> None:
    """Add the results of all cases at one size, float32 sums in place; collective."""
    model = cost.Model.from_dict(run.model)
    point = Point(max(1, nbytes // 4), np.dtype(np.float32), "sum")
    with Bench(comm, point, [LIBRARY], placements=("in_place",)) as bench:
        bind(bench, run.topology, model, segment_nbytes)
        bench.check()
        bench.warm_up(effort.beyond_bursts(nbytes, model))
        for _ in bench.rounds():
            pass
        run.results += [record(bench, case, run.topology, model) for case in bench.cases]


@click.command()
@click.option("--sizes", type=Listed("sizes", parse_bytes), default=SIZES, show_default=True, help="Of the buffer.")
@click.option(
    "--racks", type=click.IntRange(min=1), default=1, show_default=True, help="As of `hpcdist cluster up`, all used."
)
@click.option("--segment-bytes", type=BYTES, help="Of a pipeline segment.  [default: the executor's]")
@click.option(
    "--seconds", type=click.FloatRange(0, 3600), default=2.0, show_default=True, help="For each case and size."
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the results to this file.")
def main(sizes: tuple[int, ...], racks: int, segment_bytes: int | None, seconds: float, out: Path | None) -> None:
    """Measure all-reduce algorithms on this number of ranks, beside the MPI library's and the price model.

    It exits with 1 if any element is wrong.
    """
    effort = Effort(samples=9, iterations=20, seconds=seconds)
    run_on_world(lambda comm: _measured(comm, sizes, racks, effort, segment_bytes, out))


def _measured(
    comm: MPI.Intracomm, sizes: Sequence[int], racks: int, effort: Effort, segment_nbytes: int | None, out: Path | None
) -> int:
    """Measure all sizes; returns the exit code. Collective; rank 0 writes after each, and prints it all."""
    topology = place(comm, racks)
    run = Run(
        command=["python", "-m", "hpcdist.bench.awkward", *sys.argv[1:]],
        start_time=now(),
        machine=machine.describe(comm, topology_of(comm)),
        topology=topology,
        racks=racks,
        model=prices.fit(comm, topology).as_dict(),
    )
    measure_sizes(comm, sizes, run, out, lambda nbytes, left: measure(comm, nbytes, run, effort, segment_nbytes))
    if comm.rank == 0:
        from hpcdist.bench.awkward.table import text

        click.echo(text([run]))
    return int(any(each.wrong for each in run.results))
