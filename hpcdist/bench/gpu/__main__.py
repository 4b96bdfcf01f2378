"""The whole report on this machine: the program for each number of ranks, and one report of all.

    python -m hpcdist.bench.gpu --out results/gpu/NAME

The files are written anew after each number of ranks, so that what was measured is kept whatever comes.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import click

from hpcdist.bench.gpu import table
from hpcdist.bench.gpu.options import Settings, settings
from hpcdist.bench.gpu.record import Report
from hpcdist.bench.jobs import Jobs, numbers_of_ranks
from hpcdist.kernels.device import cupy_with_gpu
from hpcdist.util import atomic_files
from hpcdist.util.sampling import now
from hpcdist.util.signals import endings_as_exceptions

PROGRAM = (sys.executable, "-m", "hpcdist.bench.gpu.program")


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default="results/gpu/report", show_default=True, help="OUT.json, OUT.md."
)
@numbers_of_ranks
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


class Measurement(Jobs[Report]):
    """A report in the making; `program` is what every rank runs."""

    def __init__(self, report: Report, asked: Settings, out: Path, program: Sequence[str] = PROGRAM) -> None:
        super().__init__(report, asked, program)
        self.files = tuple(out.with_name(out.name + suffix) for suffix in (".json", ".md"))

    def add(self, ranks: int, measured: Report) -> Collection[int]:
        """The sizes are those whose limit is known."""
        if measured.machine:
            jobs = self.report.machine.get("ranks_per_device", {})
            shared = {**jobs, str(ranks): measured.machine["devices"]["ranks_per_device"]}
            self.report.machine = {**measured.machine, "ranks_per_device": shared}
        self.report.limits += measured.limits
        self.report.results += measured.results
        for what in measured.missing:
            self.miss(ranks, what)
        return {limit.nbytes for limit in measured.limits}

    def miss(self, ranks: int, what: str) -> None:
        """Note it."""
        self.report.miss(ranks, what)

    def write(self) -> None:
        """JSON and Markdown."""
        self.report.write_json(self.files[0])
        atomic_files.write_text(self.files[1], table.text(self.report))


if __name__ == "__main__":
    main(prog_name="python -m hpcdist.bench.gpu")
