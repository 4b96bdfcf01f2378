"""The whole report on this machine: the program for each number of ranks, and one report of all.

    python -m hpcdist.bench.gpu --out results/gpu/NAME

The files are written anew after each number of ranks, so that what was measured is kept whatever comes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hpcdist.bench.gpu import table
from hpcdist.bench.gpu.options import Settings, settings
from hpcdist.bench.gpu.record import Report
from hpcdist.bench.links.options import Listed
from hpcdist.kernels.device import cupy_with_gpu
from hpcdist.util import atomic_files
from hpcdist.util.sampling import now
from hpcdist.util.signals import endings_as_exceptions
from hpcdist.util.sizes import format_bytes

HPCDIST = (sys.executable, "-c", "from hpcdist.cli.main import main; main()")
PROGRAM = (sys.executable, "-m", "hpcdist.bench.gpu.program")
PATIENCE = 20.0  # seconds for ranks to end when they are told to


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is no number of ranks")
    return int(text)


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default="results/gpu/report", show_default=True, help="OUT.json, OUT.md."
)
@click.option("--ranks", "numbers", type=Listed("numbers", _number), default="1,2,4,8", show_default=True)
@settings
def main(out: Path, numbers: tuple[int, ...], **options: Any) -> None:
    """Measure all-reduce algorithms on device buffers for several numbers of ranks on this machine's GPUs.

    Ranks share a GPU where there are more ranks than GPUs. Ctrl-C keeps what was measured. It exits with 1 if any
    element is wrong, or a run failed.
    """
    try:
        cupy_with_gpu()
    except RuntimeError as error:
        raise click.ClickException(f"nothing was measured: {error}") from None
    asked = Settings(**options)
    command = ["python", "-m", "hpcdist.bench.gpu", *sys.argv[1:]]
    measurement = Measurement(Report(command, now(), {"ranks": list(numbers), **asked.as_json()}), asked, out)
    with endings_as_exceptions():
        measurement.run(numbers)
    click.echo(f"wrote {measurement.files[1]}", err=True)
    sys.exit(int(bool(measurement.report.wrong or measurement.failed)))


class Measurement:
    """A report in the making; `program` is what every rank runs."""

    def __init__(self, report: Report, asked: Settings, out: Path, program: Sequence[str] = PROGRAM) -> None:
        self.report, self.asked, self.program = report, asked, program
        self.files = tuple(out.with_name(out.name + suffix) for suffix in (".json", ".md"))
        self.failed = False

    def run(self, numbers: Sequence[int]) -> None:
        """Measure all numbers of ranks, or until a request to end."""
        to_do = list(numbers)
        try:
            while to_do:
                self._job(to_do.pop(0))
                self._write()
        except KeyboardInterrupt:
            self.failed = True
            for ranks in to_do:
                self.report.miss(ranks, "not begun when the report was interrupted")
        self._write()

    def _job(self, ranks: int) -> None:
        """One run of the program; its results are taken over also if it fails or is interrupted."""
        click.echo(f"{ranks} ranks ...", err=True)
        why = "interrupted"
        with tempfile.TemporaryDirectory(prefix="hpcdist-gpu-") as folder:
            path = Path(folder) / "results.json"
            command = [*HPCDIST, "run", "-n", str(ranks), "--", *self.program, *self.asked.flags()]
            try:
                code = _call([*command, "--json", str(path)])
                why = f"the run exited with {code}" if code else ""
            finally:
                self._take_over(ranks, path, why)

    def _take_over(self, ranks: int, path: Path, why: str) -> None:
        """Add what a run has written to the report, and note what it has not."""
        measured = Report.read(path) if path.exists() else Report([], "", {})
        if measured.machine:
            jobs = self.report.machine.get("ranks_per_device", {})
            shared = {**jobs, str(ranks): measured.machine["devices"]["ranks_per_device"]}
            self.report.machine = {**measured.machine, "ranks_per_device": shared}
        self.report.limits += measured.limits
        self.report.results += measured.results
        for what in measured.missing:
            self.report.miss(ranks, what)
        if why:
            self.failed = True
            there = {limit.nbytes for limit in measured.limits}
            lacking = ", ".join(format_bytes(size) for size in self.asked.sizes if size not in there)
            self.report.miss(ranks, f"{why}{'; not measured: ' + lacking if lacking else ''}")

    def _write(self) -> None:
        self.report.write_json(self.files[0])
        atomic_files.write_text(self.files[1], table.text(self.report))


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
    main(prog_name="python -m hpcdist.bench.gpu")
