"""Ranks on virtual hosts: ours and the libraries' as a share of what the links carry, beside raw TCP."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from hpcdist.bench import tuning
from hpcdist.bench.peers import NAMES, OPEN_MPI, Peer
from hpcdist.bench.record import NETWORK, Judgement, Part, part_of
from hpcdist.bench.rounds import Asked, Rounds
from hpcdist.bench.settings import Draft
from hpcdist.bench.start import Hosts
from hpcdist.bench.task import AUTO, LIBRARY, RAW, Link, Task
from hpcdist.cluster import plan
from hpcdist.sweep.record import Record

PART = NETWORK
SIZES = "8,128,2KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB"
PAIRS = ((AUTO, LIBRARY), (AUTO, RAW), (LIBRARY, RAW))
SEGMENTS = "60KiB,1MiB"  # below and above what Open MPI sends at once over TCP
LEAST_ROUNDS = 3
LEAST, MOST, CASE_SECONDS = 1, 5, 0.5  # samples, and seconds for them
CALLS = 20  # in a row in a sample, at most


@dataclass(frozen=True)
class Options:
    """What to measure, where, and for how long; one field per option."""

    sizes: tuple[int, ...]
    rates: tuple[int, ...]
    numbers: tuple[int, ...]
    rounds: int
    seconds: float
    tune_bytes: int
    name: str


def cases(peer: Peer) -> tuple[str, ...]:
    """Of a library's jobs; raw TCP is that of Open MPI's, in which ours was tuned."""
    if peer.name == OPEN_MPI:
        return RAW, LIBRARY, AUTO
    return (LIBRARY, AUTO) if peer.mpi else (LIBRARY,)


def measure(draft: Draft, options: Options) -> None:
    """A cluster for each rate and number of ranks."""
    for rate in options.rates:
        for ranks in options.numbers:
            part, found = draft.begin(part_of(PART, plan.format_rate(rate), ranks), NAMES, vars(options))
            point = Point(draft, part, found, rate, ranks, options)
            draft.on_hosts(part, plan.network(ranks, rate), options.name, point.measure)


class Point:
    """A number of ranks at a rate: a table first, then rounds, then how good the table was."""

    def __init__(
        self, draft: Draft, part: Part, found: Sequence[Peer], rate: int, ranks: int, options: Options
    ) -> None:
        self.draft, self.part, self.found = draft, part, found
        self.rate, self.ranks, self.options = rate, ranks, options
        self.sweep = tuning.Sweep(options.tune_bytes, 0.1, SEGMENTS)
        self.tuner = next((peer for peer in found if peer.name == OPEN_MPI), None)

    def measure(self, hosts: Hosts) -> None:
        """All of it."""
        self.hosts, self.name = hosts, part_of(PART, hosts.name, self.ranks)
        with tempfile.TemporaryDirectory(prefix="hpcdist-bench-") as folder:
            table = Path(folder) / "table.json"
            judgement = self._tune(table)
            self.draft.report.judgements += [judgement] if judgement else []
            self._rounds(table if judgement else None)
            if judgement:
                self.draft.report.judgements[-1] = self._judge_again(judgement, table)
        self.draft.write()

    def _tune(self, table: Path) -> Judgement | None:
        why = "there is no Open MPI"
        if self.tuner:
            click.echo(f"{self.name}: tuning", err=True)
            records, why = tuning.tune(self.hosts, self.tuner, self.ranks, self.sweep, table)
            if not why:
                return tuning.judge(self.hosts.name, self.ranks, table, records)
        self.part.miss(f"no table, auto went by default prices: {why}")
        return None

    def _judge_again(self, judgement: Judgement, table: Path) -> Judgement:
        assert self.tuner
        click.echo(f"{self.name}: is the table still right?", err=True)
        json = table.with_name("later.json")
        try:
            return tuning.judge_again(
                judgement, table, self._again(self.sweep, json), lambda duel: self._again(duel, json)
            )
        except RuntimeError as error:
            self.part.miss(f"no later sweep: {error}")
            return judgement

    def _again(self, sweep: tuning.Sweep | tuning.Duel, json: Path) -> list[Record]:
        assert self.tuner
        records, why = tuning.again(self.hosts, self.tuner, self.ranks, sweep, json)
        if why:
            raise RuntimeError(why)
        return records

    def _rounds(self, table: Path | None) -> None:
        options = self.options
        asked = Asked(PART, self.ranks, options.rounds, min(LEAST_ROUNDS, options.rounds), options.seconds, PAIRS)
        task = Task(options.sizes, (), "", CASE_SECONDS, LEAST, MOST, CALLS, 0, 0, Link(self.rate))
        tables = {peer.name: table for peer in self.found if peer.mpi and table}
        draft = self.draft
        Rounds(draft.report, self.part, draft.write, self.hosts, self.found, asked, task, cases, tables).run()
