"""One sweep from beginning to end: fit the model, check and time every point, write what was asked for."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, nullcontext, suppress
from datetime import datetime
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import click
import numpy as np
from mpi4py import MPI

from hpcdist.algorithms import SHARED
from hpcdist.collectives.decide import is_shared
from hpcdist.device import Accelerator
from hpcdist.device.paths import HOST, PEER
from hpcdist.executor.intranode.capability import compiled_on_all
from hpcdist.mpi import machine
from hpcdist.mpi.collective_errors import agree
from hpcdist.mpi.world import topology_of
from hpcdist.simulate import cost
from hpcdist.sweep import deviation, library, memory, model, paths, record, report, tune
from hpcdist.sweep.interrupt import Interrupt
from hpcdist.sweep.measure import Bench, Case, Point, refused
from hpcdist.sweep.options import Options
from hpcdist.transport.mpi import transport_of
from hpcdist.tuning.auto import resolve
from hpcdist.tuning.table import Choice, Selection
from hpcdist.util.display import Progress

CONTENDS = 1.3  # times as long as the fastest that is known, for who may be faster
RUN_OFF = 3  # times the samples of before


class Sweep:
    """One run of the command. Every method is called by all ranks alike; rank 0 prints and writes."""

    def __init__(self, comm: MPI.Intracomm, options: Options, accelerator: Accelerator | None = None):
        self.comm, self.accelerator = comm, accelerator
        self.topology = topology_of(comm)
        self.options = options = options.sensible(self.topology)
        self.library = library.find(comm) if options.library_algorithms else None
        self.notes = machine.sharing(comm, accelerator) if accelerator else []
        if not compiled_on_all(transport_of(comm)):
            self.notes.append("plans run in plain Python: 8 bytes take about 4 times as long as with hpcdist[fast]")
        self.paths = paths.find(comm, accelerator, options.path) if accelerator else paths.on_host(comm)
        self.model = model.fit(comm, self.topology)
        self.report = record.Report(
            start_time=datetime.now().astimezone(),
            command=["hpcdist", *sys.argv[1:]],
            machine=machine.describe(comm, self.topology, accelerator),
            config=options.as_json(),
            model=self.model.as_dict(),
            results=[],
        )

    def run(self) -> int:
        """Measure all points and write all that is asked for; returns the exit code.

        Raises:
            AgreedError: on all ranks, before anything is measured, if a file cannot be written or the memory of
                a node does not hold the largest size.
        """
        problem = self.options.problem_with_files() if self.comm.rank == 0 else None
        agree(self.comm, problem is None, problem or "")
        memory.check(self.comm, self.topology, self.options)
        closed = closing(self.library) if self.library else nullcontext()
        with closed, Interrupt(self.comm, self._mark_interrupted) as interrupt:
            self._say([*report.head(self.report), *self._notes()])
            self._measure(interrupt)
            self._print()
            self._save()
            self._draw()
        return interrupt.exit_code or int(any(row.wrong for row in self.report.results))

    @property
    def _names(self) -> tuple[str, ...]:
        """All that is measured: our algorithms, the library by its own choice, and each of its algorithms."""
        return (*self.options.names, *(self.library.names if self.library else ()))

    # --- measure ---

    def _measure(self, interrupt: Interrupt) -> None:
        """All points, until a signal: then the point at hand is dropped and those before it are kept."""
        points = self.options.points()
        with Progress(self.comm.rank, len(points)) as progress:
            for number, point in enumerate(points):
                progress.show(number, str(point))
                results = self._point(point, interrupt)
                if interrupt.agreed():
                    self.report.interrupted = True
                    return
                self.report.results += results
                self._save()
                self._stream(results, first=number == 0)

    def _point(self, point: Point, interrupt: Interrupt) -> list[record.Record]:
        """Check and time all algorithms that this point allows."""
        names = [name for name in self._names if not refused(name, point)]
        with Bench(
            self.comm,
            point,
            names,
            self.options.segments,
            self.options.seed,
            library=self.library,
            accelerator=self.accelerator,
            paths=self.paths,
        ) as bench:
            bench.warm_up(self.options.effort.beyond_bursts(point.nbytes, self.model))
            if self.options.check:
                bench.check()
                self._complain(bench)
            for _ in chain(bench.rounds(), self._run_off(bench)):
                if interrupt.agreed():
                    return []
            return [self._record(point, case, bench.seconds(case)) for case in bench.cases]

    def _run_off(self, bench: Bench) -> Iterator[int]:
        """Time those again that may be the fastest, if there is to be a table: the first of many has had luck."""
        if self.options.tune:
            yield from bench.rounds(bench.leaders(CONTENDS), RUN_OFF)

    def _record(self, point: Point, case: Case, seconds: np.ndarray) -> record.Record:
        times = record.Times.of(seconds)
        algbw, busbw = record.bandwidths(point.nbytes, times.time_us_p50 * 1e-6, self.comm.size)
        return record.Record(
            algorithm=case.algorithm,
            nbytes=point.nbytes,
            count=point.count,
            dtype=point.dtype.name,
            op=point.op,
            placement=case.placement,
            ranks=self.comm.size,
            nodes=len(set(self.topology)),
            timing=self.options.timing,
            samples=len(case.times),
            iterations=case.iterations,
            times=times,
            algbw=algbw,
            busbw=busbw,
            **self._foreseen(point, case),
            wrong=(case.bad.wrong if case.bad else 0) if self.options.check else None,
            library=self.report.machine["mpi"],
            host=self.report.machine["hosts"][0],
            command=shlex.join(self.report.command),
            memory=HOST if self.accelerator is None else self.accelerator.kind,
            path=case.path,
        )

    def _foreseen(self, point: Point, case: Case) -> dict[str, Any]:
        """What the schedule tells without being run; the MPI library has none to look into.

        The prices are those of messages from host memory, so of device memory nothing is predicted.
        """
        if case.plan is None:
            untold = dict.fromkeys(("sent_bytes", "sent_bytes_max", "predicted_us"))
            return {"segment_nbytes": case.segment_nbytes, **untold}
        schedule = case.plan.schedule
        counts = cost.count(schedule)
        sent = counts.sent_bytes(point.nbytes, schedule.chunks)
        by_messages = not self.accelerator and not is_shared(case.algorithm)  # of which the prices speak
        seconds = cost.predict(schedule, point.nbytes, self.model, self.topology, counts) if by_messages else None
        return {
            "segment_nbytes": case.plan.segment_nbytes,
            "sent_bytes": float(np.mean(sent)),
            "sent_bytes_max": float(np.max(sent)),
            "predicted_us": None if seconds is None else seconds * 1e6,
        }

    # --- tell ---

    def _complain(self, bench: Bench) -> None:
        for case in bench.cases:
            if case.bad:
                path = f", path {case.path}" if self.accelerator else ""
                self._say([f"{case.algorithm}, {bench.point}, {case.placement}{path}: {case.bad}"], err=True)

    def _stream(self, results: list[record.Record], first: bool) -> None:
        """Rows of the wide table as they come; nccl-tests' tables want all sizes of an algorithm first."""
        if self.options.format == "wide":
            self._say(report.WIDE_HEADER if first else ())
            self._say(map(report.wide_row, results))

    def _print(self) -> None:
        results = self.report.results
        if self.options.format == "nccl":
            self._say(report.nccl(results))
            self._say(report.model(results))
        self._say(deviation.flags(results, self.report.machine, self.report.model))
        self._say(report.foot(results))
        self._say(report.answer(results))
        if self.options.tune:
            self._say(report.in_words(tune.rules(results)))
        if self.options.explain:
            self._say(self._explanations())
        if self.report.interrupted:
            self._say(["# interrupted: only the sizes above were measured"])

    def _notes(self) -> Iterator[str]:
        """What there is to know of this sweep before its rows."""
        yield from (f"# note: {note}" for note in self.notes)
        points = {(point.dtype, point.op): point for point in self.options.points()}.values()
        for name in self.options.names:
            for why in dict.fromkeys(refused(name, point) for point in points):
                if why:
                    yield f"# note: {name} is left out where {why}"
            if not self.paths.of(name):
                why = "it knows the path peer only" if self.accelerator else self.paths.not_shared
                yield f"# note: {name} is left out: {why}"
        for path, why in self.paths.impossible.items():
            yield f"# note: path {path} is left out: {why}"

    def _explanations(self) -> Iterator[str]:
        """What "auto" takes at each size, by the table of this sweep, or else as a plan would choose now."""
        table = self._selection() if self.options.tune else None
        for path in dict.fromkeys(self.paths.taken.values()):
            choices = [(self._choice(table, point, path), point) for point in self.options.points()]
            for choice, same in groupby(choices, key=lambda pair: pair[0]):
                first, *others = (point for _, point in same)
                last = f" to {others[-1]}" if others else ""
                yield f"# auto, {first}{last}: {choice.algorithm}, because {choice.why}"

    def _choice(self, table: Selection | None, point: Point, path: str) -> Choice:
        if path == PEER and self.comm.size > 1:
            why = f"on the path {path} all ranks share the memory of the buffers, whatever a table says"
            return Choice(SHARED, None, why)
        memory = HOST if self.accelerator is None else self.accelerator.kind
        bounced = self.accelerator is None and not self.paths.not_shared
        what = (point.dtype.name, point.nbytes, memory, path)
        return resolve(table, self.comm.size, self.topology, *what, bounced=bounced)

    def _say(self, lines: Iterable[str], err: bool = False) -> None:
        if self.comm.rank == 0:
            for line in lines:
                click.echo(line, err=err)

    # --- write ---

    def _save(self) -> None:
        """Write the files; called after every point, so that even a kill keeps what was measured."""
        if self.comm.rank != 0:
            return
        options = self.options
        if options.json:
            self._write_json(options.json)
        if options.csv:
            record.write_csv(options.csv, self.report.results)
        if options.tune:
            self._selection().write(options.tune)

    def _write_json(self, path: Path) -> None:
        """Write the report, and once more if a signal came meanwhile: the file must say so."""
        interrupted = self.report.interrupted
        record.write_json(path, self.report)
        if interrupted != self.report.interrupted:
            record.write_json(path, self.report)

    def _mark_interrupted(self) -> None:
        """Say in the JSON file that the sweep was interrupted, in the signal handler: a kill may follow."""
        self.report.interrupted = True
        if self.comm.rank == 0 and self.options.json:
            with suppress(OSError):  # the next file to be written meets it again, outside of a signal handler
                record.write_json(self.options.json, self.report)

    def _selection(self) -> Selection:
        provenance = {
            "command": shlex.join(self.report.command),
            "machine": self.report.machine,
            "date": self.report.start_time.isoformat(timespec="seconds"),
        }
        return Selection(tune.rules(self.report.results), self.model, provenance, str(self.options.tune))

    def _draw(self) -> None:
        if self.comm.rank != 0 or not self.options.figure or not self.report.results:
            return
        if self.comm.size == 1:
            self._say(["# note: no figure is drawn, since the bus bandwidth of a lone rank is 0"])
            return
        from hpcdist.sweep import figure  # matplotlib takes longer to import than a small sweep to run

        figure.write(self.options.figure, self.report.results)
