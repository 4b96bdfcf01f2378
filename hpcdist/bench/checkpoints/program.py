"""One run on all ranks: each size is saved in all ways, then restored; what was measured is written as it comes."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import monotonic
from typing import Any

import click
from mpi4py import MPI

from hpcdist.bench.checkpoints import room, table
from hpcdist.bench.checkpoints.options import Settings, settings
from hpcdist.bench.checkpoints.peer import Torch
from hpcdist.bench.checkpoints.record import Report
from hpcdist.bench.checkpoints.rounds import Loads, Saves
from hpcdist.bench.checkpoints.state import UNIT, State
from hpcdist.bench.checkpoints.ways import Way, ways
from hpcdist.bench.saved import measure_sizes
from hpcdist.doctor.mounts import mount_of
from hpcdist.mpi import machine
from hpcdist.mpi.collective_errors import on_root
from hpcdist.mpi.world import run_on_world, topology_of
from hpcdist.util.sampling import now
from hpcdist.util.sizes import format_bytes

WARM_UP = 1 << 20  # bytes
SAVING = 0.7  # of the time goes into saves, the rest into restores


@click.command()
@settings
@click.option("--json", type=click.Path(dir_okay=False, path_type=Path), help="Write the results to this file.")
def main(json: Path | None, **options: Any) -> None:
    """Measure how long checkpoints take, beside the simple way, torch's, and plain files.

    It exits with 1 if anything came back wrong.
    """
    run_on_world(lambda comm: run(comm, Settings(**options), json))


def run(comm: MPI.Intracomm, asked: Settings, json: Path | None) -> int:
    """Measure all sizes; returns the exit code. Collective; rank 0 prints and writes."""
    config = {"sizes": asked.sizes, "rounds": asked.rounds, "seconds": asked.seconds}
    report = Report(["python", "-m", "hpcdist.bench.checkpoints", *sys.argv[1:]], now(), config)
    report.machine = {**machine.describe(comm, topology_of(comm)), "file_system": mount_of(asked.scratch).kind}
    with _folder(comm, asked.scratch) as scratch:
        Point(comm, WARM_UP // UNIT * UNIT, asked, scratch, Report([], "", {})).measure(0)
        end = monotonic() + asked.seconds

        def measure(nbytes: int, sizes_left: int) -> None:
            left = comm.bcast(max(0.0, end - monotonic()))
            Point(comm, nbytes, asked, scratch, report).measure(left / sizes_left)

        measure_sizes(comm, asked.sizes, report, json, measure)
    if comm.rank == 0:
        click.echo("\n".join(table.blocks(report)))
    return int(bool(report.wrong))


class Point:
    """One size; its results are added to `report`. Collective."""

    def __init__(self, comm: MPI.Intracomm, nbytes: int, asked: Settings, scratch: Path, report: Report) -> None:
        self.comm, self.nbytes, self.asked, self.scratch, self.report = comm, nbytes, asked, scratch, report

    def measure(self, seconds: float) -> None:
        """Take samples for about so many seconds, or say why not."""
        lacking = room.lacking(self.comm, self.nbytes, self.scratch)
        if lacking:
            self._miss(f"left out: {lacking}")
            return
        with State(self.comm, self.nbytes) as state, self._torch(state) as torch:
            state.forget_names()
            if torch:
                self.report.machine.setdefault("versions", {})["torch"] = torch.version
            with ways(self.comm, state, torch) as found:
                self._save(state, self._fitting(found), SAVING * seconds)
            for count in sorted({self.comm.size, max(1, self.comm.size // 2)}, reverse=True):
                self._load(count, state, torch, (1 - SAVING) * seconds / 2)
        on_root(self.comm, self._clear)

    def _clear(self) -> None:
        for folder in self.scratch.iterdir():
            shutil.rmtree(folder)

    def _torch(self, state: State) -> Any:
        return Torch(self.comm, self.asked.torch, state.folder) if self.asked.torch else nullcontext()

    def _fitting(self, found: dict[str, Way]) -> dict[str, Way]:
        why = {name: room.too_large(self.comm, self.nbytes, room.COPIES.get(name, (0, 0))) for name in found}
        for name in filter(why.__getitem__, why):
            self._miss(f"{name} left out: it {why[name]}")
        return {name: way for name, way in found.items() if not why[name]}

    def _save(self, state: State, found: dict[str, Way], seconds: float) -> None:
        saves = Saves(self.comm, state, found, self.scratch)
        saves.sample(self.asked.rounds, seconds)
        saves.keep()
        self.report.saves += saves.records()

    def _load(self, count: int, state: State, torch: Torch | None, seconds: float) -> None:
        why = room.too_large(self.comm, self.nbytes, room.RESTORED)
        if why:
            self._miss(f"restoring on {count} ranks left out: it {why}")
            return
        loads = Loads(self.comm, count, state, torch, self.scratch)
        loads.sample(self.asked.rounds, seconds)
        self.report.loads += loads.records()
        self.report.wrong += [f"{self._name()}: {name} restored something else" for name in loads.wrong_anywhere()]
        loads.close()

    def _miss(self, what: str) -> None:
        self.report.missing.append(f"{self._name()}: {what}")

    def _name(self) -> str:
        return f"{self.comm.size} ranks, {format_bytes(self.nbytes)}"


@contextmanager
def _folder(comm: MPI.Intracomm, scratch: Path) -> Iterator[Path]:
    """A folder of our own below `scratch`, which is removed at the end."""
    folder = Path(on_root(comm, lambda: tempfile.mkdtemp(prefix="hpcdist-benchmark-", dir=scratch)))
    try:
        yield folder
    finally:
        if comm.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
