"""`hpcdist cluster report`: how near all-reduce algorithms come to the rate of their links, as a text and figures.

For each rate a cluster of its own is made, on which `hpcdist.bench.links` runs for each number of ranks. The files
are written anew after each run, so that what was measured is kept whatever comes; what is missing is said in them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hpcdist.bench.jobs import HPCDIST
from hpcdist.bench.links import table
from hpcdist.bench.links.options import Settings, settings
from hpcdist.bench.links.record import Report
from hpcdist.bench.start import cluster
from hpcdist.cluster import plan, state
from hpcdist.cluster.namespaces import NamespaceError
from hpcdist.cluster.state import StateError
from hpcdist.util import atomic_files
from hpcdist.util.parameters import Listed
from hpcdist.util.sampling import now
from hpcdist.util.signals import endings_as_exceptions
from hpcdist.util.sizes import format_bytes

BUCKET = 256 * 1024  # bytes, as plan.SHAPE says to tc


def _number(text: str) -> int:
    if not text.isdecimal() or not 2 <= int(text) <= plan.MOST_HOSTS:
        raise ValueError(f"{text!r} is no number of ranks from 2, as a lone one sends nothing, to {plan.MOST_HOSTS}")
    return int(text)


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="results/network",
    show_default=True,
    help="Folder for network.txt, .json and .csv, and a figure for each rate.",
)
@click.option(
    "--rates", type=Listed("rates", plan.parse_rate), default="200mbit,1gbit", show_default=True, help="Of the links."
)
@click.option(
    "--ranks", "numbers", type=Listed("numbers", _number), default="5,6,7,8", show_default=True, help="One per host."
)
@settings
@click.option("--name", default="report", show_default=True, help="Of the cluster that is made, and ended.")
def main(out: Path, rates: tuple[int, ...], numbers: tuple[int, ...], name: str, **options: Any) -> None:
    """Measure all-reduce algorithms as a share of the rate of virtual links.

    Every algorithm, the MPI library's own, and raw TCP, the bar for them all, in the same rounds. With the defaults it
    takes about 25 minutes. Ctrl-C ends the cluster and keeps what was measured. It exits with 1 if anything is missing
    or wrong.
    """
    asked = Settings(**options)
    config = {"rates": rates, "ranks": numbers, "bucket": BUCKET, **asdict(asked)}
    report = Report(["hpcdist", *sys.argv[1:]], now(), config)
    try:
        Measurement(report, asked, rates, numbers, name, out).run()
    except (StateError, OSError) as error:
        raise click.ClickException(str(error)) from None
    sys.exit(int(bool(report.missing or report.wrong)))


class Measurement:
    """A report in the making: for each rate a cluster called `name`, for each number of ranks a job on it."""

    def __init__(
        self,
        report: Report,
        settings: Settings,
        rates: tuple[int, ...],
        numbers: tuple[int, ...],
        name: str,
        out: Path,
    ):
        self.report, self.settings, self.name, self.out = report, settings, name, out
        self.rates, self.numbers = rates, numbers
        self.to_do = [(rate, ranks) for rate in rates for ranks in numbers]

    def run(self) -> None:
        """Measure all, or until a request to end, and write the files.

        Raises: StateError if there is a cluster of that name; OSError if files cannot be written.
        """
        if state.find(self.name):
            raise StateError(
                f"cluster {self.name!r} is up, and not ours; end it with: hpcdist cluster down --name {self.name}, "
                "or give --name"
            )
        self.out.mkdir(parents=True, exist_ok=True)
        why = "not begun"
        try:
            with endings_as_exceptions(), tempfile.TemporaryDirectory(prefix="hpcdist-") as folder:
                for rate in self.rates:
                    self._at(rate, Path(folder))
        except KeyboardInterrupt:
            why = "not begun when the report was interrupted"
        for rate, ranks in self.to_do:
            self._miss(rate, ranks, why)
        self._write()
        click.echo(table.summary(self.report))
        self._draw()

    def _at(self, rate: int, folder: Path) -> None:
        """All numbers of ranks at one rate."""
        try:
            with cluster(self.name, plan.network(max(self.numbers), rate), plan.format_rate(rate)):
                for ranks in self.numbers:
                    self._job(rate, ranks, folder / f"{rate}-{ranks}.json")
                    self._write()
        except (StateError, NamespaceError) as error:
            click.echo(f"Error: {plan.format_rate(rate)}: {error}", err=True)

    def _job(self, rate: int, ranks: int, path: Path) -> None:
        """One job on the ranks; its results are taken over also if it fails or is interrupted."""
        self.to_do.remove((rate, ranks))
        click.echo(f"{table.rate_text(rate)}, {ranks} ranks ...", err=True)
        why = "interrupted"
        try:
            code = subprocess.call(
                self._command(rate, ranks, path), stdin=subprocess.DEVNULL
            )  # killed if we are to end
            why = f"the job exited with {code}" if code else ""
        finally:
            self._take_over(rate, ranks, path, why)

    def _command(self, rate: int, ranks: int, path: Path) -> list[str]:
        program = [sys.executable, "-m", "hpcdist.bench.links", "--rate", str(rate), "--bucket", str(BUCKET)]
        start = [*HPCDIST, "cluster", "run", "--name", self.name, "-n", str(ranks), "--"]
        return [*start, *program, *self.settings.flags(), "--json", str(path)]

    def _take_over(self, rate: int, ranks: int, path: Path, why: str) -> None:
        """Add what a job has written to the report, and note what it has not."""
        measured = Report.read(path) if path.exists() else None
        if measured:
            self.report.machine = self.report.machine or measured.machine
            self.report.models += measured.models
            self.report.results += measured.results
        there = {record.nbytes for record in measured.results} if measured else set()
        lacking = [format_bytes(size) for size in self.settings.sizes if size not in there]
        if lacking:
            self._miss(rate, ranks, f"{', '.join(lacking)}: {why}")
        elif why and measured and not measured.wrong:
            self._miss(rate, ranks, f"all sizes are there, but {why}")

    def _miss(self, rate: int, ranks: int, what: str) -> None:
        self.report.missing.append(f"{table.rate_text(rate)}, {ranks} ranks: {what}")

    def _write(self) -> None:
        """The files of numbers, as far as there are any."""
        self.report.write_json(self.out / "network.json")
        self.report.write_csv(self.out / "network.csv")
        atomic_files.write_text(self.out / "network.txt", table.text(self.report))

    def _draw(self) -> None:
        """A figure for each rate."""
        from hpcdist.bench.links import figure  # matplotlib takes long to import

        for rate in self.rates:
            records = [record for record in self.report.results if record.rate == rate]
            if records:
                stem = self.out / f"network-{plan.format_rate(rate)}"
                for file in figure.write(stem, records, self.report.machine["mpi"]):
                    click.echo(f"wrote {file}", err=True)
