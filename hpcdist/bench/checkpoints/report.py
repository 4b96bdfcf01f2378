"""The whole benchmark on this machine: the program for each number of ranks, and one report of all.

    python -m hpcdist.bench.checkpoints.report --out results/checkpoints

The files are written anew after each number of ranks, so that what was measured is kept whatever comes.
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hpcdist.bench.checkpoints import table
from hpcdist.bench.checkpoints.options import Settings, settings
from hpcdist.bench.checkpoints.record import Report
from hpcdist.bench.jobs import Jobs, numbers_of_ranks
from hpcdist.util import atomic_files
from hpcdist.util.sampling import now
from hpcdist.util.signals import endings_as_exceptions

PROGRAM = (sys.executable, "-m", "hpcdist.bench.checkpoints")


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="results/checkpoints",
    show_default=True,
    help="Folder for benchmark.json, .md and .png.",
)
@numbers_of_ranks
@settings
def main(out: Path, numbers: tuple[int, ...], **options: Any) -> None:
    """Measure checkpoints for several numbers of ranks on this machine.

    Ctrl-C keeps what was measured. It exits with 1 if anything is wrong, or a run failed.
    """
    asked = Settings(**options)
    config = {"ranks": numbers, "sizes": asked.sizes, "rounds": asked.rounds, "seconds": asked.seconds}
    command = ["python", "-m", "hpcdist.bench.checkpoints.report", *sys.argv[1:]]
    measurement = Measurement(Report(command, now(), config), asked, out)
    with endings_as_exceptions():
        measurement.run(numbers)
        measurement.draw()
    click.echo(f"wrote {out / 'benchmark.md'}", err=True)
    sys.exit(int(bool(measurement.report.wrong or measurement.failed)))


class Measurement(Jobs[Report]):
    """A report in the making, in the folder `out`."""

    asked: Settings

    def __init__(self, report: Report, asked: Settings, out: Path) -> None:
        super().__init__(report, asked, PROGRAM, asked.scratch)
        self.out = out

    def command(self, folder: Path) -> list[str]:
        """The program, which is to save below the folder."""
        return [*PROGRAM, *replace(self.asked, scratch=folder).flags()]

    def add(self, ranks: int, measured: Report) -> Collection[int]:
        """The sizes are those that were saved."""
        self.report.machine = self.report.machine or measured.machine
        self.report.saves += measured.saves
        self.report.loads += measured.loads
        self.report.missing += measured.missing
        self.report.wrong += measured.wrong
        return {save.nbytes for save in measured.saves}

    def miss(self, ranks: int, what: str) -> None:
        """Note it."""
        self.report.missing.append(f"{ranks} ranks: {what}")

    def write(self) -> None:
        """JSON and Markdown."""
        self.report.write_json(self.out / "benchmark.json")
        atomic_files.write_text(self.out / "benchmark.md", table.text(self.report, "benchmark.png"))

    def draw(self) -> None:
        """The figure, if there is anything to show."""
        from hpcdist.bench.checkpoints import figure  # matplotlib takes long to import

        if self.report.saves:
            figure.write(self.out / "benchmark.png", self.report.saves)


if __name__ == "__main__":
    main()
