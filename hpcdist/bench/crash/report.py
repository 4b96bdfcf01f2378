"""`hpcdist bench crash`: a few hundred trials, and a report of them."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from hpcdist.bench import options
from hpcdist.bench.crash.chain import run
from hpcdist.bench.crash.job import EVERY, Job, JobError
from hpcdist.bench.crash.record import Part, text
from hpcdist.bench.draft import Draft, Kind

MEMORY = Path("/dev/shm")
KIND = Kind("crash", "checkpoints", Part, text)


def measure(draft: Draft[Part], trials: int, seed: int, ranks: int, writers: int, scratch: Path | None) -> None:
    """All trials; those of a run are kept when it is complete."""
    from mpi4py import MPI  # which --help must not start

    from hpcdist.mpi import machine

    draft.config["every"] = EVERY
    part = draft.start("crash")
    part.machine = machine.describe(MPI.COMM_SELF, [0])

    def written() -> None:
        click.echo(f"{len(part.rows)} trials, {part.seconds:.0f} s, {len(part.problems())} problems", err=True)
        draft.write()

    try:
        with _folder(scratch) as folder, _folder(MEMORY) as memory:
            run(part, Job(ranks, writers, Path(folder), Path(memory)), written)
    except JobError as error:
        part.wrong.append(str(error))


def _folder(above: Path | None) -> tempfile.TemporaryDirectory[str]:
    """A folder that is removed at the end, even if ranks that have just been killed still add to it."""
    return tempfile.TemporaryDirectory(prefix="hpcdist-", dir=above, ignore_cleanup_errors=True)


command = options.verb(
    KIND,
    "crash",
    "Kill training runs at random moments, resume them, and see that nothing is lost.",
    measure,
    click.option("--trials", type=click.IntRange(min=1), default=300, show_default=True, help="How many kills."),
    click.option("--seed", type=int, default=0, show_default=True, help="Chooses victims and moments."),
    click.option("--ranks", type=click.IntRange(min=1), default=4, show_default=True, help="Of the run."),
    click.option("--writers", type=click.IntRange(min=1), default=4, show_default=True, help="Of its checkpoints."),
    click.option(
        "--scratch",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        help="Where the runs have their folders, which are removed; by default where temporary files belong.",
    ),
)
