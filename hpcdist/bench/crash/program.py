"""`python -m hpcdist.bench.crash`: a few hundred trials, and a report of them."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import click
from mpi4py import MPI

from hpcdist.bench.crash.chain import Chain
from hpcdist.bench.crash.job import EVERY, Job, JobError, Reference
from hpcdist.bench.crash.record import Report, text
from hpcdist.mpi import machine
from hpcdist.util.sampling import now
from hpcdist.util.signals import endings_as_exceptions

MEMORY = Path("/dev/shm")


@click.command()
@click.option("--trials", type=click.IntRange(min=1), default=300, show_default=True, help="How many kills.")
@click.option("--seed", type=int, default=0, show_default=True, help="Chooses victims and moments.")
@click.option("--ranks", type=click.IntRange(min=1), default=4, show_default=True, help="Of the run.")
@click.option("--writers", type=click.IntRange(min=1), default=4, show_default=True, help="Of its checkpoints.")
@click.option(
    "--scratch",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="Where the runs have their folders, which are removed; by default where temporary files belong.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write crash.json and crash.md there.")
def main(trials: int, seed: int, ranks: int, writers: int, scratch: Path | None, out: Path | None) -> None:
    """Kill training runs at random moments, resume them, and see that nothing is lost.

    It exits with 1 if anything went wrong. Ctrl-C keeps what there is.
    """
    command = ["python", "-m", "hpcdist.bench.crash", *sys.argv[1:]]
    config = {"trials": trials, "seed": seed, "ranks": ranks, "writers": writers, "every": EVERY}
    report = Report(command, now(), config)
    report.machine = machine.describe(MPI.COMM_SELF, [0])

    def written() -> None:
        click.echo(f"{len(report.trials)} trials, {report.seconds:.0f} s, {len(report.problems())} problems", err=True)
        if out:
            report.write(out)

    interrupted = False
    try:
        with endings_as_exceptions(), _folder(scratch) as folder, _folder(MEMORY) as memory:
            run(report, Job(ranks, writers, Path(folder), Path(memory)), written)
    except KeyboardInterrupt:
        interrupted = True
    except JobError as error:
        report.wrong.append(str(error))
    written()
    click.echo(text(report))
    sys.exit(int(interrupted or bool(report.problems())))


def _folder(above: Path | None) -> tempfile.TemporaryDirectory[str]:
    """A folder that is removed at the end, even if ranks that have just been killed still add to it."""
    return tempfile.TemporaryDirectory(prefix="hpcdist-", dir=above, ignore_cleanup_errors=True)


def run(report: Report, job: Job, written: Callable[[], None] = lambda: None) -> None:
    """Carry out the trials that the report's config asks for.

    Args:
        report: Where they are added.
        job: What to kill.
        written: Called after each run that was brought to its end.

    Raises:
        JobError: a run failed that nobody had killed.
    """
    began = monotonic()
    trials, seed = report.config["trials"], report.config["seed"]
    reference = Reference.of(job, job.folder / "uninterrupted")
    number = 0
    try:
        while len(report.trials) < trials:
            chain = Chain(job, reference, job.folder / f"run-{number}", report)
            chain.run(range(len(report.trials), trials), seed)
            number += 1
            report.seconds = monotonic() - began
            written()
    finally:
        report.seconds = monotonic() - began
