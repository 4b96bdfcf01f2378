"""How much of an all-reduce is hidden behind its caller's own work, by who goes on with it meanwhile.

    hpcdist run -n 2 -- python -m hpcdist.bench.overlap --out results/overlap/one-node
    hpcdist cluster run -n 4 -- python -m hpcdist.bench.overlap --out results/overlap/200mbit

Work is matrix products of one thread on each rank, in pieces, that take together about as long as the all-reduce. A
round takes one sample of ours and of the MPI library's alone, of the work alone, and of both at once in each way, in an
order that is rotated. What is hidden is the time by which both at once are shorter than one after the other, as a share
of the shorter of the two.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from hpcdist.collectives import calls
from hpcdist.collectives.plan import Plan
from hpcdist.executor.progress_thread import CALLS, THREAD
from hpcdist.mpi import machine
from hpcdist.mpi.world import topology_of, world
from hpcdist.sweep.measure import collector_paused
from hpcdist.util import atomic_files, typed_json
from hpcdist.util.sampling import Spread, order
from hpcdist.util.sizes import BYTES, format_bytes, parse_bytes

SIZES = "256KiB,1MiB,4MiB,16MiB"
OURS, LIBRARY, WORK = "ours alone", "MPI_Iallreduce alone", "work alone"
SIDE = 64  # of the matrices: a product takes some ten microseconds
WARM_UP = 9  # calls


class Work:
    """Products of matrices."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        """Collective, since all ranks are to do as much."""
        self._left, self._right, self._out = (np.ones((SIDE, SIDE), np.float32) for _ in range(3))
        once = min(_seconds(partial(self.do, 1000, 1000)) for _ in range(WARM_UP)) / 1000
        self.seconds = comm.bcast(once)  # of a product

    def do(self, products: int, piece: int, look: Callable[[], object] | None = None) -> None:
        """So many products; `look` is called after each piece of some."""
        for done in range(1, products + 1):
            np.matmul(self._left, self._right, out=self._out)
            if look and done % piece == 0:
                look()


def _seconds(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return perf_counter() - began


@dataclass(frozen=True)
class Way:
    """How an all-reduce is begun, gone on with between pieces of work if it is, and waited for; the same alone."""

    name: str
    alone: str
    start: Callable[[], object]
    wait: Callable[[], object]
    look: Callable[[], object] | None = None


class _OfLibrary:
    """The MPI library's non-blocking all-reduce."""

    def __init__(self, comm: MPI.Intracomm, buffer: NDArray) -> None:
        self._comm, self._buffer, self._request = comm, buffer, MPI.REQUEST_NULL

    def start(self) -> None:
        self._request = self._comm.Iallreduce(MPI.IN_PLACE, self._buffer, MPI.MAX)

    def test(self) -> None:
        self._request.Test()

    def wait(self) -> None:
        self._request.Wait()


def ways(comm: MPI.Intracomm, buffer: NDArray, plan: Plan) -> list[Way]:
    """All that are measured, ours first."""
    library = _OfLibrary(comm, buffer)
    return [
        Way("calls before and after the work", OURS, partial(plan.start, CALLS), plan.wait),
        Way("test() after each piece", OURS, partial(plan.start, CALLS), plan.wait, plan.test),
        Way("thread", OURS, partial(plan.start, THREAD), plan.wait),
        Way("MPI_Iallreduce", LIBRARY, library.start, library.wait),
        Way("MPI_Iallreduce, MPI_Test after each piece", LIBRARY, library.start, library.wait, library.test),
    ]


@dataclass(frozen=True)
class Found:
    """What was found at one size.

    Attributes:
        nbytes: Of the buffer.
        algorithm: Of ours.
        products: Of work.
        seconds: Case -> of the slowest rank.
        hidden: Way -> share of the shorter one, of the all-reduce and the work, that was hidden, by round.
        wrong: Elements, on all ranks.
    """

    nbytes: int
    algorithm: str
    products: int
    seconds: dict[str, Spread]
    hidden: dict[str, Spread]
    wrong: int


def hidden(alone: Sequence[float], work: Sequence[float], both: Sequence[float]) -> Spread:
    """The share of the shorter of the two that was hidden, by round; below 0 where both took longer together."""
    rows = zip(alone, work, both, strict=True)
    return Spread.of([(first + second - together) / min(first, second) for first, second, together in rows])


def measure(comm: MPI.Intracomm, nbytes: int, work: Work, looks: int, rounds: int, seconds: float, **how: Any) -> Found:
    """All ways at one size, float32 maxima in place, which stay the same run after run; collective.

    Args:
        comm: the ranks.
        nbytes: of the buffer.
        work: what is done meanwhile.
        looks: pieces of the work.
        rounds: at most.
        seconds: for all rounds, about.
        how: of the plan.
    """
    count = max(1, nbytes // 4)
    buffer = np.arange(count, dtype=np.float32) + comm.rank
    plan = calls.plan(comm, buffer, op="max", **how)
    each = comm.bcast(float(np.median([_together(comm, plan) for _ in range(WARM_UP)])))  # a link lets the first pass
    products = max(1, round(each / work.seconds))
    piece = -(-products // looks)
    found = ways(comm, buffer, plan)
    cases: dict[str, Callable[[], object]] = {
        OURS: plan,
        LIBRARY: partial(_alone, next(way for way in found if way.alone == LIBRARY)),
        WORK: partial(work.do, products, piece),
        **{way.name: partial(_both, work, products, piece, way) for way in found},
    }
    rounds = max(3, min(rounds, int(seconds / (2 * each * len(cases)))))
    times = _rounds(comm, cases, rounds)
    wrong = comm.allreduce(int(np.count_nonzero(buffer != np.arange(count, dtype=np.float32) + (comm.size - 1))))
    plan.close()
    shares = {way.name: hidden(times[way.alone], times[WORK], times[way.name]) for way in found}
    return Found(nbytes, plan.algorithm, products, {name: Spread.of(t) for name, t in times.items()}, shares, wrong)


def _alone(way: Way) -> None:
    way.start()
    way.wait()


def _both(work: Work, products: int, piece: int, way: Way) -> None:
    way.start()
    work.do(products, piece, way.look)
    way.wait()


def _rounds(comm: MPI.Intracomm, cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Case -> samples; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 1):
        for name in order(list(cases), number):
            with collector_paused():
                seconds = _together(comm, cases[name])
            if number:
                times[name].append(seconds)
    return times


def _together(comm: MPI.Intracomm, call: Callable[[], object]) -> float:
    """Seconds of a call on the slowest rank; collective."""
    comm.Barrier()
    return comm.allreduce(_seconds(call), MPI.MAX)


def text(command: str, where: dict[str, Any], found: Sequence[Found]) -> str:
    """The report as Markdown."""
    hosts = len(where["hosts"])
    lines = [
        "# How much of an all-reduce is hidden",
        "",
        f"    {command}",
        "",
        f"{where['ranks']} ranks on {hosts} {'host' if hosts == 1 else 'hosts'}, {where['mpi']}, "
        f"{where['cores_per_host']} cores of {where['cpu']}. float32; work of one thread on each rank, about as long "
        "as the all-reduce. Share of the shorter of the two that was hidden: 100 % if both together take as long as "
        "the longer one, 0 % if one comes after the other, less if they get in each other's way. Median over rounds, "
        "and the range of the middle 80 %; in the second row the milliseconds that it took.",
        "",
        "| | " + " | ".join(format_bytes(each.nbytes) for each in found) + " |",
        "|---|" + "---|" * len(found),
        "| algorithm | " + " | ".join(each.algorithm for each in found) + " |",
        "| rounds | " + " | ".join(str(each.seconds[WORK].count) for each in found) + " |",
    ]
    for name in found[0].seconds:
        if name in found[0].hidden:
            lines.append(f"| {name} | " + " | ".join(percent(each.hidden[name]) for each in found) + " |")
        lines.append(f"| {'' if name in found[0].hidden else name} | " + " | ".join(_ms(found, name)) + " |")
    return "\n".join(lines) + "\n"


def _ms(found: Sequence[Found], name: str) -> list[str]:
    return [f"{1e3 * each.seconds[name].median:.3g} ms" for each in found]


def percent(share: Spread) -> str:
    """Median and range."""
    return f"{100 * share.median:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


@click.command()
@click.option("--sizes", default=SIZES, show_default=True, help="Of the buffer.")
@click.option("--algorithm", default="auto", show_default=True)
@click.option("--segment-bytes", type=BYTES, help="Of a pipeline segment.")
@click.option("--looks", type=click.IntRange(min=1), default=20, show_default=True, help="Pieces of the work.")
@click.option("--rounds", type=click.IntRange(min=1), default=41, show_default=True, help="At most, for each size.")
@click.option("--seconds", type=click.FloatRange(min=0), default=60, show_default=True, help="For each size, about.")
@click.option("--out", type=click.Path(path_type=Path), help="Write OUT.json and OUT.md.")
def main(
    sizes: str, algorithm: str, segment_bytes: int | None, looks: int, rounds: int, seconds: float, out: Path | None
) -> None:
    """Measure how much of an all-reduce is hidden behind its caller's work. Exits with 1 if an element is wrong."""
    try:
        wanted = [parse_bytes(one) for one in sizes.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--sizes") from None
    comm = world()
    where = machine.describe(comm, topology_of(comm))
    how = {"algorithm": algorithm, "segment_nbytes": segment_bytes}
    with threadpool_limits(1, "blas"):
        work = Work(comm)
        found = [measure(comm, nbytes, work, looks, rounds, seconds, **how) for nbytes in wanted]
    if comm.rank == 0:
        command = f"python -m hpcdist.bench.overlap {shlex.join(sys.argv[1:])}".rstrip()
        words = text(command, where, found)
        click.echo(words)
        if out is not None:
            everything = {"command": command, "machine": where, "found": [asdict(each) for each in found]}
            atomic_files.write_text(out.with_suffix(".json"), typed_json.text(everything))
            atomic_files.write_text(out.with_suffix(".md"), words)
    sys.exit(int(any(each.wrong for each in found)))


if __name__ == "__main__":
    main()
