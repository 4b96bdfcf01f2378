"""Tables for "auto": made by `hpcdist sweep --tune` where they are used, and judged by a later sweep there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from hpcdist.bench.peers import Peer
from hpcdist.bench.processes import call
from hpcdist.bench.record import Judgement
from hpcdist.bench.start import Place
from hpcdist.sweep.record import Record, read_json
from hpcdist.sweep.tune import MARGIN, Case, times_of
from hpcdist.tuning.table import Selection

LONGEST = 3600.0  # seconds after which a sweep is ended
NEAR = MARGIN  # times the best: what "auto" takes is as good
DUEL_SECONDS, DUEL_SAMPLES = 2.0, 100


@dataclass(frozen=True)
class Sweep:
    """What a sweep measures: each power of two from 8 B to `most` bytes, each algorithm for so long, in segments."""

    most: int
    seconds: float
    segments: str = ""

    def flags(self) -> list[str]:
        """As the command line says it; few samples, since some algorithms are slow on purpose."""
        flags = ["--no-library", "--min-bytes", "8", "--max-bytes", str(self.most)]
        flags += ["--time-limit", str(self.seconds), "--warmup", "1"]
        return [*flags, "--segment-bytes", self.segments] if self.segments else flags


@dataclass(frozen=True)
class Duel:
    """A sweep of two cases at one size, for longer than in a sweep of all."""

    nbytes: int
    cases: tuple[Case, Case]

    def flags(self) -> list[str]:
        """As the command line says it."""
        algorithms = ",".join(dict.fromkeys(algorithm for algorithm, _ in self.cases))
        segments = ",".join(dict.fromkeys(str(segment or 0) for _, segment in self.cases))
        flags = ["--no-library", "--min-bytes", str(self.nbytes), "--max-bytes", str(self.nbytes)]
        flags += ["--time-limit", str(DUEL_SECONDS), "--samples", str(DUEL_SAMPLES), "--warmup", "1"]
        return [*flags, "--algorithms", algorithms, "--segment-bytes", segments]


def tune(place: Place, peer: Peer, ranks: int, sweep: Sweep, table: Path) -> tuple[list[Record], str]:
    """Sweep on the ranks of a library, and write its table; returns (what was measured, what went wrong)."""
    return _sweep(place, peer, ranks, sweep, table.with_suffix(".sweep.json"), ["--tune", str(table)])


def again(place: Place, peer: Peer, ranks: int, sweep: Sweep | Duel, json: Path) -> tuple[list[Record], str]:
    """A later sweep, without a new table."""
    return _sweep(place, peer, ranks, sweep, json, [])


def _sweep(
    place: Place, peer: Peer, ranks: int, sweep: Sweep | Duel, json: Path, more: Sequence[str]
) -> tuple[list[Record], str]:
    program = [str(peer.python.with_name("hpcdist")), "sweep", *sweep.flags(), "--json", str(json), *more]
    why = call(place.ranks(peer, ranks, program), LONGEST)
    return ([], why) if why else (read_json(json)[1], "")


def judge(place: str, ranks: int, table: Path, records: Sequence[Record]) -> Judgement:
    """How well the model that was fitted by the sweep of a table foretold what it measured."""
    model = Selection.load(table).model
    return Judgement(place, ranks, model.as_dict() if model else {}, error(records))


def error(records: Sequence[Record]) -> float:
    """The median of |predicted - measured| / measured over all algorithms, sizes and segments."""
    return float(np.median([abs(r.predicted_us / r.times.time_us_p50 - 1) for r in records if r.predicted_us]))


def judge_again(
    judgement: Judgement, table: Path, records: Sequence[Record], meet: Callable[[Duel], Sequence[Record]]
) -> Judgement:
    """How what a table says did in a later sweep.

    The best of many noisy medians looks better than it is. So where what the table says is behind in the sweep, it and
    the best there `meet` once more by themselves, and that counts.

    Raises: RuntimeError if they did not.
    """
    selection = Selection.load(table)
    behind = {nbytes: _behind(selection, nbytes, found, meet) for nbytes, found in _by_size(records).items()}
    worse = {str(nbytes): ratio for nbytes, ratio in behind.items() if ratio > NEAR}
    return replace(judgement, sizes=len(behind), worse=worse)


def _by_size(records: Sequence[Record]) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        found[record.nbytes].append(record)
    return dict(found)


def _behind(
    selection: Selection, nbytes: int, records: Sequence[Record], meet: Callable[[Duel], Sequence[Record]]
) -> float:
    """Time of what the table says over that of the best."""
    some = records[0]
    choice = selection.choose(some.ranks, some.nodes, some.dtype, nbytes)
    times = times_of(records)
    taken = (choice.algorithm, choice.segment_nbytes) if choice else None
    if taken not in times:
        return float("inf")
    best = min(times, key=times.__getitem__)
    ratio = _ratio(records, taken, best)
    return _ratio(meet(Duel(nbytes, (taken, best))), taken, best) if ratio > NEAR else ratio


def _ratio(records: Sequence[Record], taken: Case, best: Case) -> float:
    """Of the times of two cases, as the table counts them."""
    times = times_of(records)
    if lacking := {taken, best} - times.keys():
        raise RuntimeError(f"a sweep of {taken} and {best} measured no {lacking}")
    return times[taken] / times[best]
