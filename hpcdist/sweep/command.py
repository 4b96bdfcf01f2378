"""`hpcdist sweep`: every algorithm over sizes and types, checked and timed, beside the MPI library's own."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcdist.algorithms import ALLREDUCE, SHARED, check
from hpcdist.device import Accelerator, kinds
from hpcdist.device.host import CPU, Host
from hpcdist.device.paths import ASKABLE, AUTO
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.sweep.record import LIBRARY
from hpcdist.util.parameters import Listed
from hpcdist.util.sizes import BYTES, parse_bytes

if TYPE_CHECKING:
    from mpi4py import MPI

FILE = click.Path(dir_okay=False, path_type=Path)


def _algorithm(name: str) -> str:
    if name != LIBRARY:
        check(name)
    return name


def _one_of(what: str, names: Collection[str]) -> Listed:
    """Names of which there are these."""

    def known(name: str) -> str:
        if name not in names:
            raise ValueError(f"there is no {what} {name!r}; choose from {', '.join(names)}.")
        return name

    return Listed("names", known)


def _finite(ctx: click.Context, param: click.Parameter, value: float) -> float:
    """A number of seconds that a sweep can end after; click's ranges let nan and inf pass."""
    if not math.isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds", ctx, param)
    return value


@click.command()
@click.option(
    "--algorithms",
    type=Listed("names", _algorithm),
    metavar="LIST",
    help="Comma-separated names; hierarchical:tree+ring names its parts.  [default: all that make sense]",
)
@click.option(
    "--device",
    type=click.Choice(list(kinds.KINDS)),
    default=CPU,
    show_default=True,
    help="Where the buffers lie: in host memory, or in that of each rank's GPU.",
)
@click.option(
    "--path",
    type=_one_of("path", ASKABLE),
    default=AUTO,
    show_default=True,
    metavar="LIST",
    help="How device buffers travel, each measured: staged,aware,peer; auto is what a plan takes by itself.",
)
@click.option(
    "--library/--no-library",
    default=True,
    help="Measure the MPI library's Allreduce, too.",
    show_default=True,
)
@click.option(
    "--library-algorithms",
    is_flag=True,
    help="Measure each algorithm of the MPI library by itself, too, as `hpcdist export` wants it.",
)
@click.option("--min-bytes", type=BYTES, default=8, show_default=True, help="Smallest size, as 8, 4K or 1MiB.")
@click.option("--max-bytes", type=BYTES, default="4MiB", show_default=True, help="Largest size.")
@click.option(
    "--step-factor",
    type=click.IntRange(min=2),
    default=2,
    show_default=True,
    help="Factor from size to size.",
)
@click.option(
    "--dtype",
    type=_one_of("type", DTYPES),
    default="float32",
    show_default=True,
    metavar="LIST",
    help="Types of the elements.",
)
@click.option(
    "--op", type=_one_of("operation", OPS), default="sum", show_default=True, metavar="LIST", help="Operations."
)
@click.option(
    "--segment-bytes",
    type=Listed("sizes", parse_bytes),
    default=(),
    metavar="LIST",
    help="Sizes of a pipeline segment, each measured: 64KiB,1MiB,0; 0 is none.  [default: the executor's]",
)
@click.option(
    "--timing",
    type=click.Choice(["pipelined", "barrier"]),
    default="pipelined",
    show_default=True,
    help="Operations back to back, as nccl-tests, or a barrier before each, as OSU.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    default=0.05,
    show_default=True,
    metavar="SECONDS",
    callback=_finite,
    help="Time for the samples of one algorithm, size, type and placement.",
)
@click.option("--samples", type=click.IntRange(min=1), default=20, show_default=True, help="At most so many.")
@click.option(
    "--iterations",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="At most so many operations per sample.",
)
@click.option("--warmup", type=click.IntRange(min=1), default=3, show_default=True, help="Operations before.")
@click.option("--check/--no-check", default=True, show_default=True, help="Check every result, element by element.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the numbers to check with.")
@click.option(
    "--format",
    type=click.Choice(["nccl", "wide"]),
    default="nccl",
    show_default=True,
    help="nccl-tests' tables, or one with tails, predictions and bytes sent.",
)
@click.option("--json", type=FILE, help="Write all results to this file.")
@click.option("--csv", type=FILE, help="Write all results to this file.")
@click.option("--figure", type=FILE, help="Draw busbw over size; .png, .svg, or both if it ends in neither.")
@click.option(
    "--tune",
    type=FILE,
    help='Write the selection table that algorithm="auto" reads; who may be the fastest is measured for longer then.',
)
@click.option("--explain", is_flag=True, help='Say which algorithm "auto" takes at each size, and why.')
def sweep(**options: Any) -> None:
    """Measure and check every all-reduce algorithm over sizes, beside the MPI library's own.

    Run it on all ranks:

        hpcdist run -n 4 -- hpcdist sweep --max-bytes 1MiB --json sweep.json

    Device buffers take several paths; what an MPI or a machine cannot do is left out, with a note that says why:

        hpcdist run -n 4 -- hpcdist sweep --device cuda --path staged,aware,peer

    It exits with 1 if any element is wrong, and with 130 after Ctrl-C, which keeps what was measured.

    A launcher may come between: Open MPI's mpirun ends the ranks itself on Ctrl-C, drops their last output, and
    exits with a code of its own. The files are then those of the last size that was done, and the JSON says
    "interrupted": true if rank 0 had the time to write it.
    """
    if options["min_bytes"] > options["max_bytes"] or options["min_bytes"] < 1:
        raise click.UsageError("--min-bytes must be at least 1 and at most --max-bytes")
    _fit(options)
    accelerator, no_device = device_or_why(options["device"])  # chosen before MPI starts
    from hpcdist.mpi.collective_errors import agree
    from hpcdist.mpi.world import run_on_world
    from hpcdist.sweep.options import Options  # here, as they start MPI, which --help must not need
    from hpcdist.sweep.run import Sweep

    asked = Options(**options)
    if asked.nothing_to_measure:
        raise click.UsageError("nothing is left to measure: name an algorithm, or let the library take part")
    if asked.named_twice:
        raise click.UsageError(f"{asked.named_twice} is named for two outputs; give each a file of its own")

    def work(comm: MPI.Intracomm) -> int:
        agree(comm, no_device is None, no_device or "")
        return Sweep(comm, asked, accelerator).run()

    run_on_world(work)


def _fit(options: dict[str, Any]) -> None:
    """Refuse what only host memory knows, or only a device; name all algorithms that there are for it."""
    on_host = options["device"] == CPU
    if on_host and options["path"] != (AUTO,):
        raise click.UsageError("--path is for device buffers: add --device cuda")
    if options["library_algorithms"] and not on_host:
        raise click.UsageError("--library-algorithms is for host buffers, of which a library's own tables speak")
    if options["algorithms"] is None:
        options["algorithms"] = (*ALLREDUCE, SHARED)


def device_or_why(name: str) -> tuple[Accelerator | None, str | None]:
    """(this rank's device of a kind, None for host memory; why it has none)."""
    try:
        device = kinds.by_name(name)
    except RuntimeError as error:
        return None, str(error)
    return (None if isinstance(device, Host) else device), None
