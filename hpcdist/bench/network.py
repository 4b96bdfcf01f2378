"""Ranks on virtual hosts: ours and the libraries' as a share of what the links carry, beside raw TCP."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import click

from hpcdist.bench import beside, options, tuning
from hpcdist.bench.beside import Beside
from hpcdist.bench.draft import Draft
from hpcdist.bench.peers import NAMES, OPEN_MPI, Peer
from hpcdist.bench.record import NETWORK, Judgement, Part, part_of
from hpcdist.bench.rounds import Asked, Rounds
from hpcdist.bench.start import Hosts
from hpcdist.bench.task import AUTO, LIBRARY, RAW, Link, Task
from hpcdist.cluster import plan
from hpcdist.sweep.record import Record
from hpcdist.util.sizes import BYTES

PART = NETWORK
SIZES = "8,128,2KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB"
PAIRS = ((AUTO, LIBRARY), (AUTO, RAW), (LIBRARY, RAW))
SECONDS = 600.0
SEGMENTS = "60KiB,1MiB"  # below and above what Open MPI sends at once over TCP
LEAST_ROUNDS = 3
LEAST, MOST, CASE_SECONDS = 1, 5, 0.5  # samples, and seconds for them
CALLS = 20  # in a row in a sample, at most


def cases(peer: Peer) -> tuple[str, ...]:
    """Of a library's jobs; raw TCP is that of Open MPI's, in which ours was tuned."""
    if peer.name == OPEN_MPI:
        return RAW, LIBRARY, AUTO
    return (LIBRARY, AUTO) if peer.mpi else (LIBRARY,)


def measure(
    draft: Draft[Part],
    asked: Beside,
    sizes: tuple[int, ...],
    rates: tuple[int, ...],
    ranks: tuple[int, ...],
    rounds: int,
    seconds: float,
    tune_bytes: int,
    name: str,
) -> None:
    """A cluster for each rate and number of ranks."""
    for rate in rates:
        for count in ranks:
            part, found = asked.begin(draft, part_of(PART, plan.format_rate(rate), count), NAMES)
            effort = Asked(PART, count, rounds, min(LEAST_ROUNDS, rounds), seconds, PAIRS)
            task = Task(sizes, (), "", CASE_SECONDS, LEAST, MOST, CALLS, 0, 0, Link(rate))
            point = Point(draft, part, found, effort, task, tuning.Sweep(tune_bytes, 0.1, SEGMENTS))
            draft.on_hosts(part, plan.network(count, rate), name, point.measure)


class Point:
    """A number of ranks at a rate: a table first, then rounds, then how good the table was."""

    def __init__(
        self, draft: Draft[Part], part: Part, found: Sequence[Peer], asked: Asked, task: Task, sweep: tuning.Sweep
    ) -> None:
        self.draft, self.part, self.found = draft, part, found
        self.asked, self.task, self.sweep = asked, task, sweep
        self.tuner = next((peer for peer in found if peer.name == OPEN_MPI), None)

    def measure(self, hosts: Hosts) -> None:
        """All of it."""
        self.hosts, self.name = hosts, part_of(PART, hosts.name, self.asked.ranks)
        with tempfile.TemporaryDirectory(prefix="hpcdist-bench-") as folder:
            table = Path(folder) / "table.json"
            self.part.judgement = self._tune(table)
            tables = {peer.name: table for peer in self.found if peer.mpi and self.part.judgement}
            Rounds(self.draft, self.part, hosts, self.found, self.asked, self.task, cases, tables).run()
            if self.part.judgement:
                self.part.judgement = self._judge_again(self.part.judgement, table)
        self.draft.write()

    def _tune(self, table: Path) -> Judgement | None:
        why = "there is no Open MPI"
        if self.tuner:
            click.echo(f"{self.name}: tuning", err=True)
            records, why = tuning.tune(self.hosts, self.tuner, self.asked.ranks, self.sweep, table)
            if not why:
                return tuning.judge(self.hosts.name, self.asked.ranks, table, records)
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
        records, why = tuning.again(self.hosts, self.tuner, self.asked.ranks, sweep, json)
        if why:
            raise RuntimeError(why)
        return records


command = beside.verb(
    PART,
    "Virtual hosts, which are made and ended: shares of the links' rate; wants root or user namespaces.",
    measure,
    options.sizes(SIZES),
    options.RATES,
    options.numbers("--ranks", "5,6,7,8", "One on each host."),
    options.rounds(11, "Of a size; fewer of those that take more than their part of the time."),
    options.seconds(SECONDS, "About so long for each rate and number of ranks, beside the sweeps."),
    click.option("--tune-bytes", type=BYTES, default="2MiB", show_default=True, help="Largest size of the sweeps."),
    options.NAME,
)
