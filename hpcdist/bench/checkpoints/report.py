"""The whole benchmark on this machine: the program for each number of ranks, and one report of all.

    python -m hpcdist.bench.checkpoints.report --out results/checkpoints

The files are written anew after each number of ranks, so that what was measured is kept whatever comes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from hpcdist.bench.checkpoints import table
from hpcdist.bench.checkpoints.options import Settings, settings
from hpcdist.bench.checkpoints.record import Report
from hpcdist.bench.links.options import Listed
from hpcdist.util import atomic_files
from hpcdist.util.sampling import now
from hpcdist.util.signals import endings_as_exceptions
from hpcdist.util.sizes import format_bytes

HPCDIST = (sys.executable, "-c", "from hpcdist.cli.main import main; main()")
PATIENCE = 20.0  # seconds for ranks to end when they are told to


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is no number of ranks")
    return int(text)


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="results/checkpoints",
    show_default=True,
    help="Folder for benchmark.json, .md and .png.",
)
@click.option("--ranks", "numbers", type=Listed("numbers", _number), default="1,2,4,8", show_default=True)
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
    click.echo(f"wrote {out / 'benchmark.md'}", err=True)
    sys.exit(int(bool(measurement.report.wrong or measurement.failed)))


class Measurement:
    """A report in the making."""

    def __init__(self, report: Report, asked: Settings, out: Path) -> None:
        self.report, self.asked, self.out = report, asked, out
        self.failed = False

    def run(self, numbers: tuple[int, ...]) -> None:
        """Measure all numbers of ranks, or until a request to end."""
        to_do = list(numbers)
        try:
            while to_do:
                self._job(to_do.pop(0))
                self._write()
        except KeyboardInterrupt:
            self.failed = True
            self.report.missing += [f"{ranks} ranks: not begun when the report was interrupted" for ranks in to_do]
        self._write()
        self._draw()

    def _job(self, ranks: int) -> None:
        """One run of the program; its results are taken over also if it fails or is interrupted."""
        click.echo(f"{ranks} ranks ...", err=True)
        why = "interrupted"
        with tempfile.TemporaryDirectory(prefix="hpcdist-benchmark-", dir=self.asked.scratch) as folder:
            path = Path(folder) / "results.json"
            try:
                code = _call(self._command(ranks, path))
                why = f"the run exited with {code}" if code else ""
            finally:
                self._take_over(ranks, path, why)

    def _command(self, ranks: int, path: Path) -> list[str]:
        own = replace(self.asked, scratch=path.parent)
        program = [sys.executable, "-m", "hpcdist.bench.checkpoints", *own.flags(), "--json", str(path)]
        return [*HPCDIST, "run", "-n", str(ranks), "--", *program]

    def _take_over(self, ranks: int, path: Path, why: str) -> None:
        """Add what a run has written to the report, and note what it has not."""
        measured = Report.read(path) if path.exists() else Report([], "", {})
        self.report.machine = self.report.machine or measured.machine
        self.report.saves += measured.saves
        self.report.loads += measured.loads
        self.report.missing += measured.missing
        self.report.wrong += measured.wrong
        if why:
            self.failed = True
            there = {save.nbytes for save in measured.saves}
            lacking = ", ".join(format_bytes(size) for size in self.asked.sizes if size not in there)
            self.report.missing.append(f"{ranks} ranks: {why}{'; not measured: ' + lacking if lacking else ''}")

    def _write(self) -> None:
        self.report.write_json(self.out / "benchmark.json")
        atomic_files.write_text(self.out / "benchmark.md", table.text(self.report, "benchmark.png"))

    def _draw(self) -> None:
        from hpcdist.bench.checkpoints import figure  # matplotlib takes long to import

        if self.report.saves:
            figure.write(self.out / "benchmark.png", self.report.saves)


def _call(command: list[str]) -> int:
    """Run a command and return its exit code; all its processes are told to end if we are."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(PATIENCE)


if __name__ == "__main__":
    main()
