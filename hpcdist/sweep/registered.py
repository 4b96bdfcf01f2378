"""What arrays of `hpcdist.empty` are worth: a plan on them beside the library, messages and a plain copy.

    hpcdist run -n 2 -- python -m hpcdist.sweep.registered

Four things work in turn, round after round, on buffers of the same size: a plan on an array that the ranks share, the
plan that "auto" makes on an ordinary array, the MPI library's Allreduce, and a copy of the buffer made by all ranks at
the same time. The figures are ratios within a round, so that a drift of the machine cancels: their median, and the
ratio of the shortest times of all rounds, which is less of the scheduler's making. Below 1 the shared plan is faster.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from mpi4py import MPI

import hpcdist
from hpcdist.algorithms import SHARED
from hpcdist.durable import replacing
from hpcdist.sizes import format_bytes, parse_bytes
from hpcdist.sweep import machine
from hpcdist.sweep.measure import Effort, collector_paused, sample
from hpcdist.sweep.record import LIBRARY
from hpcdist.transport import mpi
from hpcdist.transport.startup import world

SIZES = "8,512,4KiB,32KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB"
EFFORT = Effort(samples=101, iterations=50, seconds=2.0, warmup=5)
OTHERS = (LIBRARY, "messages", "copy")


def measure(comm: MPI.Intracomm, nbytes: int) -> dict[str, Any]:
    """Collective: the record of one size, float32 sums in place."""
    count = max(1, nbytes // 4)
    shared, plain, copy = hpcdist.empty(count, "float32", comm), np.zeros(count, "f4"), np.zeros(count, "f4")
    shared[:] = 0
    plans = [hpcdist.plan(comm, shared, algorithm=SHARED), hpcdist.plan(comm, plain)]
    calls: dict[str, Callable[[], object]] = {
        SHARED: plans[0],
        LIBRARY: lambda: comm.Allreduce(MPI.IN_PLACE, plain),
        "messages": plans[1],
        "copy": lambda: np.copyto(copy, plain),
    }
    times = rounds(comm, calls)
    for plan in plans:
        plan.close()
    ours = times[SHARED]
    return {
        "nbytes": 4 * count,
        "rounds": len(ours),
        "messages_algorithm": plans[1].algorithm,
        "time_us": {name: 1e6 * float(np.median(all_of)) for name, all_of in times.items()},
        "least_us": {name: 1e6 * float(all_of.min()) for name, all_of in times.items()},
        "ratio": {name: float(np.median(ours / times[name])) for name in OTHERS},
        "ratio_p10_p90": {name: np.percentile(ours / times[name], [10, 90]).tolist() for name in OTHERS},
        "ratio_of_least": {name: float(ours.min() / times[name].min()) for name in OTHERS},
    }


def rounds(comm: MPI.Intracomm, calls: dict[str, Callable[[], object]]) -> dict[str, np.ndarray]:
    """Collective: seconds per call of each, one sample per round, of the slowest rank."""
    first = {name: min(sample(comm, call, 1) for _ in range(EFFORT.warmup)) for name, call in calls.items()}
    effort = {name: EFFORT.divide(comm.allreduce(max(first[name], 1e-7), MPI.MAX)) for name in calls}
    samples = min(number for number, _ in effort.values())
    times = np.empty((samples, len(calls)))
    for row in times:
        with collector_paused():
            row[:] = [sample(comm, call, effort[name][1]) for name, call in calls.items()]
    comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
    return dict(zip(calls, times.T, strict=True))


def table(records: list[dict[str, Any]]) -> str:
    """The records as text, one line per size."""
    head = f"{'':>9} {'shared':>10}" + "".join(f"   {'shared / ' + name:>19}" for name in OTHERS)
    lines = [head, f"{'size':>9} {'[us]':>10}" + f"   {'median':>9} {'least':>9}" * len(OTHERS)]
    for r in records:
        line = f"{format_bytes(r['nbytes']):>9} {r['time_us'][SHARED]:10.2f}"
        for name in OTHERS:
            line += f"   {r['ratio'][name]:9.2f} {r['ratio_of_least'][name]:9.2f}"
        lines.append(line)
    return "\n".join(lines)


@click.command()
@click.option("--sizes", default=SIZES, show_default=True, help="Sizes of the buffer.")
@click.option("--out", type=click.Path(path_type=Path), help="Write OUT.json and OUT.txt.")
def main(sizes: str, out: Path | None) -> None:
    """Compare plans on shared arrays with the MPI library's Allreduce, with messages and with a copy."""
    comm = world()
    where = machine.describe(comm, mpi.topology(comm))
    records = [measure(comm, parse_bytes(text)) for text in sizes.split(",")]
    if comm.rank != 0:
        return
    command = f"hpcdist run -n {comm.size} -- python -m hpcdist.sweep.registered {shlex.join(sys.argv[1:])}".rstrip()
    head = f"# {command}\n# {comm.size} ranks, {where['mpi']}, {where['cpu']}, {where['cores_per_host']} cores\n"
    text = head + table(records) + "\n"
    click.echo(text)
    if out is not None:
        document = json.dumps({"command": command, "machine": where, "results": records}, indent=1)
        for path, content in ((out.with_suffix(".txt"), text), (out.with_suffix(".json"), document)):
            with replacing(path) as unfinished:
                unfinished.write_text(content)


if __name__ == "__main__":
    main()
