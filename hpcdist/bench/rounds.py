"""Rounds of jobs: every library in its turn, the order rotated and reversed; what they found is kept as it comes."""

from __future__ import annotations

import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import click
import numpy as np

from hpcdist.bench.draft import Draft
from hpcdist.bench.peers import Peer
from hpcdist.bench.ratios import paired
from hpcdist.bench.record import Part, Row
from hpcdist.bench.start import Place, start
from hpcdist.bench.task import Task
from hpcdist.util.sampling import order

FAILURES = 2  # in a row, after which a library is left out
STARTING = 4.0  # seconds that a job takes before it measures
LEAST_ROUNDS = 5  # of fewer there are no bounds
AT_LEAST = f"Of a size; fewer of those that take more than their part of the time, but {LEAST_ROUNDS}."
LONGEST = 1200.0  # seconds after which a job is ended


@dataclass(frozen=True)
class Asked:
    """What is measured at a place.

    Attributes:
        part: Of the report.
        ranks: How many.
        rounds: Of each size; fewer of those that take more than their part of the time.
        least: Rounds of each size, however long they take.
        seconds: About so long for all.
        pairs: Cases whose ratios are taken in a job.
    """

    part: str
    ranks: int
    rounds: int
    least: int
    seconds: float
    pairs: tuple[tuple[str, str], ...]


class Rounds:
    """The rounds at one place.

    Args:
        draft: Of the report, which is written after each round.
        part: The one at hand, to which rows are added.
        place: Where.
        peers: Whose jobs.
        asked: How much.
        task: What a job is told, but for what changes from round to round.
        cases: Of a library's jobs.
        tables: Library -> the selection table for ours there.
    """

    def __init__(
        self,
        draft: Draft[Part],
        part: Part,
        place: Place,
        peers: Sequence[Peer],
        asked: Asked,
        task: Task,
        cases: Callable[[Peer], tuple[str, ...]],
        tables: dict[str, Path] | None = None,
    ) -> None:
        self.draft, self.part = draft, part
        self.place, self.asked, self.task = place, asked, task
        self.peers, self.cases, self.tables = list(peers), cases, tables or {}
        self.spent: dict[int, float] = defaultdict(float)  # size -> seconds
        self.failures: Counter[str] = Counter()
        self.models: dict[str, dict[str, float | None]] = {}  # library -> prices that its first job has fitted

    def run(self) -> None:
        """Measure all rounds that there is time for."""
        for number in range(self.asked.rounds):
            sizes = self.sizes(number)
            if not sizes or not self.peers:
                return
            where = f"{self.asked.part}, {self.place.name}, {self.asked.ranks} ranks"
            click.echo(f"{where}: round {number + 1} of {self.asked.rounds}", err=True)
            for peer in order(self.peers, number):
                self._job(number, peer, sizes)
            self.draft.write()

    def sizes(self, number: int) -> tuple[int, ...]:
        """Those that have not had their part of the time."""
        share = self.asked.seconds / max(1, len(self.task.sizes))
        return tuple(
            size
            for size in self.task.sizes
            if number < self.asked.least or self.spent[size] * (number + 1) / number <= share
        )

    def _job(self, number: int, peer: Peer, sizes: tuple[int, ...]) -> None:
        """One job; what it has written is taken over also if it fails or is interrupted."""
        began = monotonic()
        with tempfile.TemporaryDirectory(prefix="hpcdist-bench-") as folder:
            out, path = Path(folder) / "found.json", Path(folder) / "task.json"
            given = replace(self.task, sizes=sizes, cases=self.cases(peer), out=str(out), turn=number)
            replace(given, model=self.models.get(peer.name)).write(path)
            why = "interrupted"
            try:
                why = start(self.place, peer, self.asked.ranks, path, self.tables.get(peer.name), LONGEST)
            finally:
                self._take_over(number, peer, sizes, out, why)
        self.part.seconds += monotonic() - began

    def _take_over(self, number: int, peer: Peer, sizes: tuple[int, ...], out: Path, why: str) -> None:
        found = json.loads(out.read_text()) if out.exists() else {"machine": {}, "rows": [], "missing": []}
        self.part.machine = self.part.machine or found["machine"]
        if found.get("model"):
            self.part.model = self.models[peer.name] = found["model"]
        rows = [self._row(number, peer, each) for each in found["rows"]]
        self.part.rows += rows
        for each in found["rows"]:
            self.spent[each["nbytes"]] += each["seconds"]
        for what in found["missing"]:
            self.miss(f"{peer.name}, round {number + 1}: {what}")
        if not why:
            self.failures[peer.name] = 0
            return
        self.failures[peer.name] += 1
        lacking = len(sizes) - len(rows)
        self.miss(f"{peer.name}, round {number + 1}: {why} ({lacking} of {len(sizes)} sizes are missing)")
        if self.failures[peer.name] == FAILURES:
            self.peers.remove(peer)
            self.miss(f"{peer.name}: left out of the rounds after {number + 1}, as {FAILURES} jobs in a row failed")

    def _row(self, number: int, peer: Peer, found: dict[str, Any]) -> Row:
        times = found["times"]
        return Row(
            part=self.asked.part,
            place=self.place.name,
            ranks=self.asked.ranks,
            round=number,
            peer=peer.name,
            nbytes=found["nbytes"],
            samples=found["samples"],
            us={case: short(1e6 * float(np.median(values))) for case, values in times.items()},
            ratios={name: short(value) for name, value in paired(times, self.asked.pairs).items()},
            wrong=found["wrong"],
            cores={case: short(value) for case, value in found["cores"].items()},
            refill={case: short(value) for case, value in found["refill"].items()},
            predicted={case: short(value) for case, value in found["predicted"].items()},
            chosen=found["chosen"],
            tuned=peer.name in self.tables,
        )

    def miss(self, what: str) -> None:
        """Note what failed or was left out."""
        self.part.miss(f"{self.asked.ranks} ranks: {what}")


def short(value: float) -> float:
    """With as many digits as say something."""
    return float(f"{value:.5g}")


def case_seconds(asked: Asked, peers: int, sizes: int, cases: int) -> float:
    """What a case at a size has of the time of all rounds, the start of jobs taken off."""
    job = asked.seconds / (asked.rounds * max(1, peers)) - STARTING
    return max(0.002, job / max(1, sizes * cases))
