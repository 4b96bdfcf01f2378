"""How much of an all-reduce is hidden behind its caller's own work, by who goes on with it meanwhile.

    hpcdist run -n 2 -- python -m hpcdist.bench.overlap --out results/overlap/one-node
    hpcdist cluster run -n 4 -- python -m hpcdist.bench.overlap --out results/overlap/200mbit

Work is matrix products of one thread on each rank, in pieces, that take together about as long as the all-reduce.
A round takes one sample of the all-reduce alone, of the work alone, and of both at once in each way, in an order that
is rotated. What is hidden is the time by which both at once are shorter than one after the other, as a share of the
shorter of the two.
"""

from __future__ import annotations

import json
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

import hpcdist
from hpcdist import durable
from hpcdist.bench.record import Spread
from hpcdist.progress import CALLS, THREAD
from hpcdist.sizes import BYTES, format_bytes, parse_bytes
from hpcdist.sweep import machine
from hpcdist.sweep.measure import collector_paused
from hpcdist.transport import mpi
from hpcdist.transport.startup import world

SIZES = "64KiB,1MiB,4MiB,16MiB"
ALONE, WORK = "all-reduce alone", "work alone"
SIDE = 96  # of the matrices: a product takes some tens of microseconds
WARM_UP = 5  # calls


class Work:
    """Products of matrices, in pieces."""

    def __init__(self, comm: MPI.Intracomm, seconds: float) -> None:
        """Pieces of about so many seconds on rank 0; collective."""
        self._left, self._right, self._out = (np.ones((SIDE, SIDE), np.float32) for _ in range(3))
        self._products = 100
        self.piece()
        self._products = max(1, round(seconds / (_seconds(self.piece) / self._products)))
        self._products = comm.bcast(self._products)
        self.seconds = comm.bcast(min(_seconds(self.piece) for _ in range(WARM_UP)))  # of a piece

    def piece(self) -> None:
        """One piece."""
        for _ in range(self._products):
            np.matmul(self._left, self._right, out=self._out)

    def do(self, pieces: int, look: Callable[[], object] | None = None) -> None:
        """So many pieces; `look` is called after each."""
        for _ in range(pieces):
            self.piece()
            if look:
                look()


def _seconds(call: Callable[[], object]) -> float:
    began = perf_counter()
    call()
    return perf_counter() - began


@dataclass(frozen=True)
class Way:
    """How an all-reduce is begun, gone on with between pieces of work if it is, and waited for."""

    name: str
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


def ways(comm: MPI.Intracomm, buffer: NDArray, plan: hpcdist.Plan) -> list[Way]:
    """All that are measured, ours first."""
    library = _OfLibrary(comm, buffer)
    return [
        Way("calls before and after the work", partial(plan.start, CALLS), plan.wait),
        Way("test() after each piece", partial(plan.start, CALLS), plan.wait, plan.test),
        Way("thread", partial(plan.start, THREAD), plan.wait),
        Way("MPI_Iallreduce", library.start, library.wait),
        Way("MPI_Iallreduce, MPI_Test after each piece", library.start, library.wait, library.test),
    ]


@dataclass(frozen=True)
class Found:
    """What was found at one size.

    Attributes:
        nbytes: Of the buffer.
        algorithm: Of ours.
        pieces: Of work.
        alone: Seconds of the all-reduce alone.
        work: Seconds of the work alone.
        hidden: Way -> share of the all-reduce that was hidden, by round.
        wrong: Elements, on all ranks.
    """

    nbytes: int
    algorithm: str
    pieces: int
    alone: Spread
    work: Spread
    hidden: dict[str, Spread]
    wrong: int


def hidden(alone: Sequence[float], work: Sequence[float], both: Sequence[float]) -> Spread:
    """The share of the shorter of the two that was hidden, by round; below 0 where both took longer together."""
    rows = zip(alone, work, both, strict=True)
    return Spread.of([(first + second - together) / min(first, second) for first, second, together in rows])


def measure(comm: MPI.Intracomm, nbytes: int, work: Work, rounds: int, seconds: float, **how: Any) -> Found:
    """All ways at one size, float32 maxima in place, which stay the same run after run; collective.

    Args:
        comm: the ranks.
        nbytes: of the buffer.
        work: what is done meanwhile.
        rounds: at most.
        seconds: for all rounds, about.
        how: of the plan.
    """
    count = max(1, nbytes // 4)
    buffer = np.arange(count, dtype=np.float32) + comm.rank
    plan = hpcdist.plan(comm, buffer, op="max", **how)
    each = comm.bcast(min(_together(comm, plan) for _ in range(WARM_UP)))
    pieces = max(1, round(each / work.seconds))
    cases: dict[str, Callable[[], object]] = {ALONE: plan, WORK: partial(work.do, pieces)}
    cases |= {way.name: partial(_both, work, pieces, way) for way in ways(comm, buffer, plan)}
    rounds = max(3, min(rounds, int(seconds / (2 * each * len(cases)))))
    times = _rounds(comm, cases, rounds)
    wrong = comm.allreduce(int(np.count_nonzero(buffer != np.arange(count, dtype=np.float32) + (comm.size - 1))))
    plan.close()
    alone, alone_work = times.pop(ALONE), times.pop(WORK)
    shares = {name: hidden(alone, alone_work, both) for name, both in times.items()}
    return Found(nbytes, plan.algorithm, pieces, Spread.of(alone), Spread.of(alone_work), shares, wrong)


def _both(work: Work, pieces: int, way: Way) -> None:
    way.start()
    work.do(pieces, way.look)
    way.wait()


def _rounds(comm: MPI.Intracomm, cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Case -> samples; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
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
    names = list(found[0].hidden)
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
        "and the range of the middle 80 %.",
        "",
        "| | " + " | ".join(format_bytes(each.nbytes) for each in found) + " |",
        "|---|" + "---|" * len(found),
        "| algorithm | " + " | ".join(each.algorithm for each in found) + " |",
        "| rounds | " + " | ".join(str(each.alone.count) for each in found) + " |",
        "| all-reduce alone [ms] | " + " | ".join(f"{1e3 * each.alone.median:.3g}" for each in found) + " |",
        "| work alone [ms] | " + " | ".join(f"{1e3 * each.work.median:.3g}" for each in found) + " |",
    ]
    lines += [f"| {name} | " + " | ".join(percent(each.hidden[name]) for each in found) + " |" for name in names]
    return "\n".join(lines) + "\n"


def percent(share: Spread) -> str:
    """Median and range."""
    return f"{100 * share.median:.0f} % ({100 * share.low:.0f} to {100 * share.high:.0f})"


@click.command()
@click.option("--sizes", default=SIZES, show_default=True, help="Of the buffer.")
@click.option("--algorithm", default="auto", show_default=True)
@click.option("--segment-bytes", type=BYTES, help="Of a pipeline segment.")
@click.option("--piece", type=click.FloatRange(min=1e-6), default=1e-3, show_default=True, help="Seconds of work.")
@click.option("--rounds", type=click.IntRange(min=1), default=41, show_default=True, help="At most, for each size.")
@click.option("--seconds", type=click.FloatRange(min=0), default=60, show_default=True, help="For each size, about.")
@click.option("--out", type=click.Path(path_type=Path), help="Write OUT.json and OUT.md.")
def main(
    sizes: str, algorithm: str, segment_bytes: int | None, piece: float, rounds: int, seconds: float, out: Path | None
) -> None:
    """Measure how much of an all-reduce is hidden behind its caller's work. Exits with 1 if an element is wrong."""
    try:
        wanted = [parse_bytes(one) for one in sizes.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--sizes") from None
    comm = world()
    where = machine.describe(comm, mpi.topology(comm))
    how = {"algorithm": algorithm, "segment_nbytes": segment_bytes}
    with threadpool_limits(1, "blas"):
        work = Work(comm, piece)
        found = [measure(comm, nbytes, work, rounds, seconds, **how) for nbytes in wanted]
    if comm.rank == 0:
        command = f"python -m hpcdist.bench.overlap {shlex.join(sys.argv[1:])}".rstrip()
        words = text(command, where, found)
        click.echo(words)
        if out is not None:
            everything = {"command": command, "machine": where, "found": [asdict(each) for each in found]}
            durable.write_text(out.with_suffix(".json"), json.dumps(everything, indent=1) + "\n")
            durable.write_text(out.with_suffix(".md"), words)
    sys.exit(int(any(each.wrong for each in found)))


if __name__ == "__main__":
    main()
