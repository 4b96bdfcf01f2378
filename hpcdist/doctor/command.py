"""`hpcdist doctor`: what is wrong with the set-up, before it costs a day."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcdist._version import __version__
from hpcdist.doctor.finding import FAIL, Finding, summary
from hpcdist.doctor.start import is_first, start
from hpcdist.util import typed_json
from hpcdist.util.atomic_files import write_text
from hpcdist.util.sampling import now

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpcdist.doctor.examine import Check

STDOUT = "-"


@click.command()
@click.option(
    "--checkpoint-dir",
    type=click.Path(path_type=Path),
    default=Path("."),
    show_default="the working directory",
    help="Where checkpoints will go: is it shared, writable, with locks that work?",
)
@click.option("--network/--no-network", default=True, show_default=True, help="Measure the links between hosts.")
@click.option(
    "--network-seconds",
    type=click.FloatRange(min=1, max=3600),
    default=20.0,
    show_default=True,
    help="Time for it; with many hosts, not all pairs are measured then.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1, max=3600),
    default=30.0,
    show_default=True,
    help="Seconds that a check, or the start of MPI, may take before the doctor ends the job.",
)
@click.option("--json", "file", metavar="FILE", help="Write the findings to this file; - for stdout, instead of text.")
def doctor(checkpoint_dir: Path, network: bool, network_seconds: float, timeout: float, file: str | None) -> None:
    """Look at a job's set-up, under the launcher of the job, and say what is wrong and what to do.

        srun --mpi=pmix hpcdist doctor --checkpoint-dir /scratch/me/run

        hpcdist run -n 4 -- hpcdist doctor

    It exits with 1 if anything has failed; warnings leave it at 0. It writes only to a folder of its own in the
    checkpoint directory, which it removes.
    """
    comm, problem = start(timeout)  # from here on modules may need MPI, so they are imported where they are used
    first = is_first(os.environ) if problem else comm.rank == 0
    report = Report(file) if first else None
    refuse(comm, report)
    checks = all_checks(checkpoint_dir, network_seconds if network else None)
    if first or not problem:  # of many worlds, one speaks for all
        run(comm, checks, report, timeout, problem)
    # Only one rank fails: a launcher that sees another one fail first may drop the last lines of the report.
    failed = report.close() if report else problem is not None
    sys.exit(int(failed))


def refuse(comm: MPI.Intracomm, report: Report | None) -> None:
    """Collective: exit, the first rank with 2, if the file that was asked for cannot be there."""
    text = comm.bcast(report.problem_with_file() if report else None)
    if text:
        if report:
            click.echo(f"Error: {text}", err=True)
        sys.exit(2 if report else 0)


def all_checks(checkpoint_dir: Path, network_seconds: float | None) -> list[Check]:
    """Everything that the doctor looks at, in order."""
    from hpcdist.doctor import cores, gpu, hdf5, launch, library, memory, network, probe, storage
    from hpcdist.doctor.examine import Check, left_out

    network_check = left_out("network", "--no-network") if network_seconds is None else network.check(network_seconds)
    return [
        Check("launcher", launch.check),
        Check("MPI", library.check, alone=True),
        Check("cores", cores.check),
        Check("memory", memory.check),
        Check("HDF5", hdf5.check, alone=True),
        Check("GPU", gpu.check, more=probe.PATIENCE),
        Check("storage", storage.check(checkpoint_dir)),
        Check("network", network_check, more=network_seconds or 0.0),
    ]


def run(comm: MPI.Intracomm, checks: list[Check], report: Report | None, timeout: float, problem: str | None) -> None:
    """Collective: run the checks, into the report on the rank that has one."""
    from hpcdist.doctor import launch
    from hpcdist.doctor.examine import examine, overdue
    from hpcdist.doctor.job import Job
    from hpcdist.doctor.limit import Limit

    def hung(check: str) -> None:
        if report:
            report.tell(overdue(check, timeout))
            report.close()

    limit = Limit(timeout, hung, lambda: comm.Abort(1))
    with limit.on("launcher"):
        job = Job(comm, limit)
    if report:
        report.open(comm.size, job.names)
    tell = report.tell if report else lambda finding: None
    if problem and report:
        tell(launch.singletons(problem))
        checks = [check for check in checks if check.name != "launcher"]
    examine(job, checks, tell, alone=problem is not None)


class Report:
    """What is printed while the doctor works, and written at the end."""

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.findings: list[Finding] = []
        self.head: dict[str, Any] = {}

    def problem_with_file(self) -> str | None:
        """Why the findings cannot be written, or None."""
        if self.file in (None, STDOUT):
            return None
        folder = Path(self.file).absolute().parent
        return (
            None if os.access(folder, os.W_OK) else f"--json {self.file}: {folder} is no directory that can be written"
        )

    def open(self, ranks: int, hosts: list[str]) -> None:
        """Say who is looked at."""
        self.head = {
            "hpcdist": __version__,
            "start_time": now(),
            "command": ["hpcdist", *sys.argv[1:]],
            "ranks": ranks,
            "hosts": hosts,
        }

    def tell(self, finding: Finding) -> None:
        """Keep it, and print it at once, so that it is seen even if the next check hangs."""
        self.findings.append(finding)
        if self.file != STDOUT:
            click.echo(str(finding))

    def close(self) -> bool:
        """Print the summary, write the file; whether anything failed."""
        failed = any(finding.level == FAIL for finding in self.findings)
        found = [asdict(each) for each in self.findings]
        text = typed_json.text({**self.head, "failed": failed, "findings": found})
        if self.file == STDOUT:
            click.echo(text, nl=False)
        else:
            click.echo(summary(self.findings))
        if self.file and self.file != STDOUT:
            write_text(Path(self.file), text)
        return failed
