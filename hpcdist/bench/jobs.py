"""A report of several jobs on this machine, one for each number of ranks, and the options that such reports share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import click

from hpcdist.bench.saved import Report
from hpcdist.util.parameters import Listed
from hpcdist.util.sizes import format_bytes, parse_bytes

HPCDIST = (sys.executable, "-m", "hpcdist")
PATIENCE = 20.0  # seconds for ranks to end when they are told to


@dataclass(frozen=True)
class Settings:
    """What a job is asked to do; one field per option."""

    sizes: tuple[int, ...]

    def flags(self) -> list[str]:
        """The settings as a command line says them."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        texts = {
            name: ",".join(map(str, value)) if isinstance(value, tuple) else str(value) for name, value in given.items()
        }
        return [part for name, text in texts.items() for part in (f"--{name.replace('_', '-')}", text)]


def float32s(text: str) -> int:
    """Bytes of whole float32 elements; ValueError if the text says another size."""
    nbytes = parse_bytes(text)
    if nbytes < 4 or nbytes % 4:
        raise ValueError(f"{text!r} is no whole number of float32, which take 4 bytes each")
    return nbytes


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is no number of ranks")
    return int(text)


numbers_of_ranks = click.option(
    "--ranks", "numbers", type=Listed("numbers", _number), default="1,2,4,8", show_default=True
)


R = TypeVar("R", bound=Report)


class Jobs(ABC, Generic[R]):
    """A report in the making: a job on each number of ranks, whose results are kept also if it fails or is interrupted.

    Args:
        report: It is written anew after each job.
        asked: What each job is asked to do.
        program: What every rank runs; it writes a report of the same kind.
        scratch: Folder for what jobs write; by default where temporary files belong.
    """

    def __init__(self, report: R, asked: Settings, program: Sequence[str], scratch: Path | None = None) -> None:
        self.report, self.asked, self.program, self.scratch = report, asked, program, scratch
        self.failed = False

    @abstractmethod
    def add(self, ranks: int, measured: R) -> Collection[int]:
        """Add what a job has measured to the report; returns the sizes in bytes that it has come to."""

    @abstractmethod
    def miss(self, ranks: int, what: str) -> None:
        """Note in the report what failed or was not done on so many ranks."""

    @abstractmethod
    def write(self) -> None:
        """Write the files of the report."""

    def command(self, folder: Path) -> list[str]:
        """What every rank runs, if the job's files are in this folder."""
        return [*self.program, *self.asked.flags()]

    def run(self, numbers: Sequence[int]) -> None:
        """Measure all numbers of ranks, or until a request to end."""
        to_do = list(numbers)
        try:
            while to_do:
                self._job(to_do.pop(0))
                self.write()
        except KeyboardInterrupt:
            self.failed = True
            for ranks in to_do:
                self.miss(ranks, "not begun when the report was interrupted")
        self.write()

    def _job(self, ranks: int) -> None:
        click.echo(f"{ranks} ranks ...", err=True)
        why = "interrupted"
        with tempfile.TemporaryDirectory(prefix="hpcdist-benchmark-", dir=self.scratch) as folder:
            path = Path(folder) / "results.json"
            start = [*HPCDIST, "run", "-n", str(ranks), "--", *self.command(Path(folder)), "--json", str(path)]
            try:
                code = _call(start)
                why = f"the run exited with {code}" if code else ""
            finally:
                self._take_over(ranks, path, why)

    def _take_over(self, ranks: int, path: Path, why: str) -> None:
        """Add what a job has written to the report, and note what it has not."""
        there = self.add(ranks, type(self.report).read(path)) if path.exists() else ()
        if why:
            self.failed = True
            lacking = ", ".join(format_bytes(size) for size in self.asked.sizes if size not in there)
            self.miss(ranks, f"{why}{'; not measured: ' + lacking if lacking else ''}")


def _call(command: list[str]) -> int:
    """Run a command and return its exit code; all its processes are told to end if we are."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(PATIENCE)
