"""What a bound plan costs beside the MPI library's own Allreduce.

    hpcdist run -n 2 -- python -m hpcdist.sweep.overhead

All algorithms and the library work on the same buffer in turn, round after round, and the figure is the median of the
rounds' ratios ours / library, so that a drift of the machine cancels. Below 1 ours is faster.
"""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from hpcdist.algorithms import ALLREDUCE
from hpcdist.durable import replacing
from hpcdist.sizes import format_bytes, parse_bytes
from hpcdist.sweep import machine
from hpcdist.sweep.measure import Bench, Effort, Point
from hpcdist.sweep.record import LIBRARY
from hpcdist.transport import mpi
from hpcdist.transport.startup import world

SIZES = "8,4KiB,64KiB,1MiB,16MiB"
EFFORT = Effort(samples=101, iterations=50, seconds=2.0, warmup=5)


def ratios(bench: Bench) -> list[dict[str, Any]]:
    """Measure all cases of a point in place; one record per algorithm, best first."""
    bench.cases = [case for case in bench.cases if case.in_place]
    bench.warm_up(EFFORT)
    rounds = min(case.samples for case in bench.cases)
    for case in bench.cases:
        case.samples = rounds
    for _ in bench.rounds():
        pass
    times = {case.algorithm: bench.seconds(case) for case in bench.cases}
    library = times.pop(LIBRARY)
    records = [
        {
            "nbytes": bench.point.nbytes,
            "algorithm": name,
            "ratio": float(np.median(ours / library)),
            "ratio_p10_p90": np.percentile(ours / library, [10, 90]).tolist(),
            "time_us": float(np.median(ours)) * 1e6,
            "library_us": float(np.median(library)) * 1e6,
            "rounds": rounds,
        }
        for name, ours in times.items()
    ]
    return sorted(records, key=lambda record: record["ratio"])


def table(records: list[dict[str, Any]]) -> str:
    """The records as text, one line per size and algorithm."""
    head = f"{'size':>9} {'algorithm':<20} {'ours [us]':>11} {'library [us]':>13} {'ratio':>7} {'p10..p90':>13}"
    lines = [head]
    for r in records:
        low, high = r["ratio_p10_p90"]
        lines.append(
            f"{format_bytes(r['nbytes']):>9} {r['algorithm']:<20} {r['time_us']:11.2f} {r['library_us']:13.2f} "
            f"{r['ratio']:7.2f} {low:6.2f}..{high:<5.2f}"
        )
    return "\n".join(lines)


@click.command()
@click.option("--sizes", default=SIZES, show_default=True, help="Sizes of the buffer.")
@click.option("--out", type=click.Path(path_type=Path), help="Write OUT.json and OUT.txt.")
def main(sizes: str, out: Path | None) -> None:
    """Compare bound plans with the MPI library's Allreduce, float32 sums in place."""
    comm = world()
    where = machine.describe(comm, mpi.topology(comm))
    records = []
    for text in sizes.split(","):
        point = Point(max(1, parse_bytes(text) // 4), np.dtype(np.float32), "sum")
        with Bench(comm, point, [*ALLREDUCE, LIBRARY]) as bench:
            records += ratios(bench)
    if comm.rank != 0:
        return
    command = f"hpcdist run -n {comm.size} -- python -m hpcdist.sweep.overhead {shlex.join(sys.argv[1:])}".rstrip()
    head = f"# {command}\n# {comm.size} ranks, {where['mpi']}, {where['cpu']}, {where['cores_per_host']} cores\n"
    text = head + table(records) + "\n"
    click.echo(text)
    if out is not None:
        for path, content in (
            (out.with_suffix(".txt"), text),
            (
                out.with_suffix(".json"),
                json.dumps({"command": command, "machine": where, "results": records}, indent=1),
            ),
        ):
            with replacing(path) as unfinished:
                unfinished.write_text(content)


if __name__ == "__main__":
    main()
